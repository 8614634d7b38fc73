"""A model behind a URL: asked in the v1 form of TensorFlow Serving and KServe, or by Open Inference v2."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

from palisade.evaluation.subjects.raw_rows import is_table, plain_rows

ANSWER_BYTES = 2**26
"""Longer answers to a batch are refused."""
READ_BYTES = 2**20
RESUME_NOTE = "answers so far are kept, the same command goes on from there"
V2_ENDING = "/infer"
"""Ending of addresses that speak Open Inference v2."""
TOO_LARGE, TOO_MANY, NOT_AVAILABLE = 413, 429, 503
V2_DATATYPES = {"float32": "FP32", "float64": "FP64", "bool": "BOOL"}


class BatchTooLargeError(Exception):
    """The service takes fewer rows at once."""


@dataclass(frozen=True, kw_only=True)
class HttpService:
    """A service, and the way it is asked.

    Args:
        url: to which rows are posted.
        timeout: seconds until it must have answered, and those that it may ask to wait, all together.
        key_variable: environment variable that holds the key, or None.
    """

    url: str
    timeout: float
    key_variable: str | None = None

    def __call__(self, rows: Any) -> Sequence[Any]:
        """One answer for each row.

        Raises:
            BatchTooLargeError: if there are too many rows for it.
            ValueError: if it answers nothing usable.
        """
        is_v2 = self.url.endswith(V2_ENDING)
        content = self.posted(self._tensors(rows) if is_v2 else {"instances": plain_rows(rows)}, len(rows))
        try:
            answer = json.loads(content)
            answers: Sequence[Any] = _of_tensor(answer["outputs"][0]) if is_v2 else answer["predictions"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            form = '{"outputs": [{"shape": …, "data": […]}]}' if is_v2 else '{"predictions": […]}'
            raise ValueError(f"endpoint={self.url}: expected JSON {form}; put such a service before it") from None
        return answers

    def posted(self, body: Any, count: int) -> bytes:
        """The answer to a body; waits where the service asks for that, no longer than the timeout.

        Args:
            body: as JSON takes it.
            count: how many rows or texts it holds.

        Raises:
            BatchTooLargeError: if they are too many for the service.
            ValueError: if it answers nothing usable.
        """
        waited = 0.0
        while True:
            try:
                with requests.post(
                    self.url, json=body, headers=self._headers(), timeout=self.timeout, stream=True
                ) as response:
                    wait = _wait(response)
                    if wait is None or waited + wait > self.timeout:
                        return self._content(response, count)
            except requests.RequestException as error:
                raise self._no_answer(error) from None
            time.sleep(wait)
            waited += wait

    def _content(self, response: requests.Response, count: int) -> bytes:
        if response.status_code == TOO_LARGE and count > 1:
            raise BatchTooLargeError
        if not response.ok:
            slower = ", ask more slowly with rate=<calls a second>" if response.status_code == TOO_MANY else ""
            status = f"{response.status_code} {response.reason}{slower}"
            raise ValueError(f"endpoint={self.url}: expected HTTP 200, not {status}; {RESUME_NOTE}")
        if len(content := _read(response)) > ANSWER_BYTES:
            raise ValueError(
                f"endpoint={self.url}: expected at most {ANSWER_BYTES} bytes for {count} queries; ask fewer at once"
                f" with batch=<queries>. {RESUME_NOTE[0].upper()}{RESUME_NOTE[1:]}"
            )
        return content

    def _no_answer(self, error: BaseException) -> ValueError:
        reason: object = _innermost(error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer in timeout={self.timeout:g} s"
        return ValueError(f"endpoint={self.url}: expected an answer ({reason}); {RESUME_NOTE}")

    def _headers(self) -> Mapping[str, str]:
        if self.key_variable is None:
            return {}
        if not (key := os.environ.get(self.key_variable)):
            raise ValueError(
                f"key_variable={self.key_variable}: expected an environment variable that holds the key; export it"
            )
        return {"Authorization": f"Bearer {key}"}

    def _tensors(self, rows: Any) -> Mapping[str, Any]:
        """Rows as tensors: one for each column of a table, else the one that the model's metadata name."""
        if is_table(rows):
            columns = {str(name): plain_rows(rows[[name]]) for name in rows}
            tensors = [
                _tensor(name, [len(rows)], _datatype(rows[name].dtype), [cell[name] for cell in cells])
                for name, cells in columns.items()
            ]
        else:
            tensors = [_tensor(self._input_name(), list(rows.shape), _datatype(rows.dtype), rows.ravel().tolist())]
        return {"inputs": tensors}

    def _input_name(self) -> str:
        try:
            described = requests.get(
                self.url.removesuffix(V2_ENDING), headers=self._headers(), timeout=self.timeout
            ).json()
            return str(described["inputs"][0]["name"])
        except requests.RequestException as error:
            raise self._no_answer(error) from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise ValueError(f"endpoint={self.url}: expected the model's metadata beside it; serve them") from None


def _tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> Mapping[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def _datatype(kind: Any) -> str:
    whole = "INT64" if getattr(kind, "kind", "O") in "iu" else "BYTES"
    return V2_DATATYPES.get(str(kind), whole)


def _of_tensor(output: Mapping[str, Any]) -> Sequence[Any]:
    answers: Sequence[Any] = np.reshape(np.array(output["data"]), output["shape"]).tolist()
    return answers


def _wait(response: requests.Response) -> float | None:
    """Seconds after which a service wants to be asked again; None if it has answered, or does not say."""
    if response.status_code not in (TOO_MANY, NOT_AVAILABLE):
        return None
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _read(response: requests.Response) -> bytes:
    """Content of an answer, no more than shows that it is too long."""
    content = bytearray()
    for piece in response.iter_content(READ_BYTES):
        content += piece
        if len(content) > ANSWER_BYTES:
            break
    return bytes(content)


def _innermost(error: BaseException) -> BaseException:
    """The error of the operating system, or of the protocol, below those of libraries."""
    while error.__context__ is not None:
        error = error.__context__
    return error
