"""An endpoint: a function or a URL, and how a batch is put to it."""

from __future__ import annotations

import hashlib
import http.client
import json
import pkgutil
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from palisade.evaluation.audits.answer_log import AnswerLog
from palisade.evaluation.audits.asking import Asking
from palisade.evaluation.audits.audited_model import Answers, AuditedModel, numbers

Asked = Callable[[Shaped[np.ndarray, "n ..."]], Sequence[Any]]
ANSWER_BYTES = 2**26
"""Longer answers to a batch are refused unread."""
KEPT = "answers so far are kept, the same command goes on from there"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint, and the way it is asked.

    A URL gets `{"instances": […]}` by POST and must return `{"predictions": […]}`, one answer for each instance, as
    TensorFlow Serving and KServe do. A function gets an array (n, …) and returns n answers.

    Args:
        endpoint: a URL, or the dotted name of a function.
        answers: what it returns for each.
        budget: queries at most, those of earlier calls counted; None: no limit.
        batch: queries in one call.
        rate: calls a second at most; None: no limit.
        timeout: seconds until a URL must have answered.

    Raises:
        ValueError: if a setting is out of range.
    """

    endpoint: str
    answers: Answers = "probabilities"
    budget: int | None = None
    batch: int = 32
    rate: float | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.endpoint, str):
            raise ValueError(f"endpoint={self.endpoint} is no text; give http://… or my_package.predict")
        given = {name: getattr(self, name) for name in ("batch", "budget", "rate", "timeout")}
        given = {name: value for name, value in given.items() if value is not None or name in ("batch", "timeout")}
        for name, value in given.items():
            whole = name in ("batch", "budget")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
                rule = (
                    "count of queries; choose a whole number from 1 on"
                    if whole
                    else "positive number; choose such as 10"
                )
                raise ValueError(f"{name}={value} is no {rule}")

    @property
    def is_url(self) -> bool:
        """Form of the endpoint: an HTTP address, rather than the dotted name of a function."""
        return self.endpoint.startswith(("http://", "https://"))

    def open(self, folder: Path) -> AuditedModel:
        """The endpoint as an audit asks it; answers are kept in a file of this folder, one for each endpoint."""
        name = hashlib.blake2b(f"{self.endpoint} {self.answers}".encode(), digest_size=4).hexdigest()
        log = AnswerLog(folder / f"answers-{name}.jsonl")
        asked = self._post if self.is_url else _function(self.endpoint)

        asking = Asking(self, asked, log)
        return AuditedModel(
            name=f"endpoint {self.endpoint}", answers=self.answers, ask=asking.ask, inputs=numbers,
            prepare=asking.prepare,
        )  # fmt: skip

    def _post(self, rows: Shaped[np.ndarray, "n ..."]) -> Sequence[Any]:
        body = json.dumps({"instances": rows.tolist()}).encode()
        request = urllib.request.Request(self.endpoint, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = response.read(ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            slower = ", ask more slowly with rate=<calls a second>" if error.code == 429 else ""
            raise ValueError(
                f"endpoint={self.endpoint} answered HTTP {error.code} {error.reason}{slower}; {KEPT}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                reason = f"no answer in timeout={self.timeout:g} s"
            raise ValueError(f"endpoint={self.endpoint} does not answer: {reason}; {KEPT}") from None
        if len(content) > ANSWER_BYTES:
            raise ValueError(
                f"endpoint={self.endpoint} answered {len(rows)} queries with more than {ANSWER_BYTES} bytes; ask fewer"
                f" at once with batch=<queries>. {KEPT[0].upper()}{KEPT[1:]}"
            )
        try:
            answers: Sequence[Any] = json.loads(content)["predictions"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f'endpoint={self.endpoint} answered no JSON {{"predictions": […]}}; put such a service before it'
            ) from None
        return answers


def _function(name: str) -> Asked:
    try:
        made: Asked = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"endpoint={name} is no URL and no Python function ({error}); give my_package.predict"
        ) from None
    if not callable(made):
        raise ValueError(f"endpoint={name} is no function; give one that takes rows, such as my_package.predict")

    def ask(rows: Shaped[np.ndarray, "n ..."]) -> Sequence[Any]:
        try:
            return made(rows)
        except Exception as error:
            kind = f"{rows.dtype} of shape {rows.shape}"
            raise ValueError(f"endpoint={name} was given {kind} and raised {error!r}; {KEPT}") from error

    return ask
