"""A model behind an endpoint: asked within a budget, its answers stored."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from jaxtyping import Shaped

from palisade.evaluation.subjects.answer_forms import class_scores
from palisade.evaluation.subjects.audited_model import Answers, AuditedModel, numbers
from palisade.evaluation.subjects.http_service import RESUME_NOTE, BatchTooLargeError, HttpService
from palisade.evaluation.subjects.raw_rows import form_of_rows, names_of_rows, rows_at
from palisade.evaluation.subjects.subject import BudgetSpentError
from palisade.fields import CheckedFields, Count, Positive, remedy
from palisade.targets import progress

RECHECKED_ANSWERS = 4
"""Stored answers that are asked for again."""
ANSWER_TOLERANCE = 1e-3
"""Largest change of an answer by rounding or another batch, itself and relative to it."""
Asked = Callable[[Any], Sequence[Any]]


class AnswerLog:
    """A file to which answers are only appended, each known by a hash of its input.

    A line that a kill tore off at the end is dropped. The file is as private as the records: whoever holds it can test
    guesses about them.

    Args:
        path: of the file; created if it is missing.

    Raises:
        ValueError: if a line before the last is no answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                answer = entry["answer"]
                if self._known and (len(answer) if isinstance(answer, list) else None) != self.width:
                    raise ValueError("of another length than those before")
                self._known[entry["input"]] = answer
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}: line {number} is no answer; remove the file to ask anew") from None
        self.earlier = frozenset(self._known)  # of earlier audits
        if len(whole) < len(content):
            os.truncate(path, len(whole))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def width(self) -> int | None:
        """Number of classes that an answer scores; None before the first, and where answers are classes."""
        first = next(iter(self._known.values()), None)
        return len(first) if isinstance(first, list) else None

    def missing(self, names: Sequence[str]) -> list[int]:
        """The first place of each name that has no answer yet."""
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        return sorted(place for name, place in first.items() if name not in self._known)

    def add(self, names: Sequence[str], answers: Sequence[Any]) -> None:
        """Appends answers; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for name, answer in zip(names, answers, strict=True):
                file.write(json.dumps({"input": name, "answer": answer}) + "\n")
                self._known[name] = answer
            file.flush()
            os.fsync(file.fileno())

    def of(self, names: Sequence[str]) -> list[Any]:
        """The answers."""
        return [self._known[name] for name in names]


class EndpointSettings(Protocol):
    """Settings of an endpoint that answers batches of rows."""

    @property
    def endpoint(self) -> str:
        """Its place: a URL or a dotted name."""

    @property
    def answers(self) -> str:
        """Kind of its answers."""

    @property
    def classes(self) -> Sequence[str] | None:
        """The words of its classes."""

    @property
    def budget(self) -> int | None:
        """Queries at most."""

    @property
    def batch(self) -> int:
        """Queries in one call."""

    @property
    def rate(self) -> float | None:
        """Calls a second at most."""


class Asking:
    """One audit's queries. Answers that were kept earlier are used, after a few of them have been asked for again.

    Args:
        endpoint: the settings.
        asked: answers a batch.
        log: where answers are stored.
    """

    def __init__(self, endpoint: EndpointSettings, asked: Asked, log: AnswerLog) -> None:
        self.endpoint, self.asked, self.log = endpoint, asked, log
        self._compared, self._batch = 0, endpoint.batch
        self._next_call = time.monotonic()

    def prepare(self, sides: Sequence[Any]) -> list[str]:
        """Asks about all records of an audit; returns how many answers were there already.

        Args:
            sides: rows of members, of non-members and so on.

        Raises:
            BudgetSpentError: if the budget does not suffice for all of them; nothing was asked then.
            ValueError: if the endpoint answers nothing usable, or is another model than before.
        """
        names = {name for rows in sides for name in names_of_rows(rows)}
        missing = len(self._missing(list(names)))
        stored = len(names) - missing
        with progress.Progress(self.log.path.parent, missing, "queries answered") if missing else nullcontext():
            for rows in reversed(sides):  # members last: answers about others distinguish models best
                self.ask(rows)
        if stored == 0:
            return []
        return [
            f"{stored:,} of {len(names):,} answers about records are those that an earlier audit kept; {self._compared}"
            " of them were asked for again and are the same."
        ]

    def ask(self, rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        """Answers about rows; only those that are not there yet are asked for.

        Raises:
            BudgetSpentError: if the budget does not suffice; nothing was asked then.
            ValueError: if the endpoint answers nothing usable, or is another model than before.
        """
        names = names_of_rows(rows)
        missing = self._missing(names)
        self._compare(rows, names)
        for places, answers in self._answers(rows, missing):
            self.log.add([names[place] for place in places], answers)
            progress.report(self.endpoint.endpoint, len(places))
        return np.array(self.log.of(names))

    def _missing(self, names: Sequence[str]) -> list[int]:
        missing, budget = self.log.missing(names), self.endpoint.budget
        if budget is not None and (needed := len(self.log) + len(missing)) > budget:
            raise BudgetSpentError(
                f"budget={budget}: expected at least {needed}, as {len(self.log)} answers are there and"
                f" {len(missing)} more are needed; raise it, or choose fewer records"
            )
        return missing

    def _compare(self, rows: Any, names: Sequence[str]) -> None:
        """Once, a few stored answers are asked for again: the least certain, which differ most between models."""
        stored = {name: place for place, name in enumerate(names) if name in self.log.earlier}
        if self._compared or not stored:
            return
        certain = dict(zip(stored, map(_certainty, self.log.of(list(stored))), strict=True))
        few = sorted(stored, key=lambda name: (certain[name], name))[:RECHECKED_ANSWERS]
        before = self.log.of(few)
        now = [answer for _, answers in self._answers(rows, [stored[name] for name in few]) for answer in answers]
        if not self._alike(now, before):
            raise ValueError(
                f"endpoint={self.endpoint.endpoint}: expected the answers of an earlier audit, and the model behind it"
                f" has changed, or it answers at random; remove {self.log.path} to ask anew"
            )
        self._compared = len(few)

    def _alike(self, now: Sequence[Any], before: Sequence[Any]) -> bool:
        exact = self.endpoint.answers == "predictions"
        return before == now if exact else np.allclose(now, before, rtol=ANSWER_TOLERANCE, atol=ANSWER_TOLERANCE)

    def _answers(self, rows: Any, places: Sequence[int]) -> Iterator[tuple[Sequence[int], list[Any]]]:
        """The answers about rows at some places, batch by batch, at most so many calls a second."""
        start = 0
        while start < len(places):
            batch = places[start : start + self._batch]
            time.sleep(max(0.0, self._next_call - time.monotonic()))
            self._next_call = time.monotonic() + (1 / self.endpoint.rate if self.endpoint.rate is not None else 0.0)
            try:
                answers = self.asked(rows_at(rows, batch))
            except BatchTooLargeError:
                self._batch = len(batch) // 2
                continue
            yield batch, self._checked(answers, len(batch))
            start += len(batch)

    def _checked(self, answers: Any, count: int) -> list[Any]:
        """Answers in one form as plain numbers, before any of them is stored."""
        name, kind, width = self.endpoint.endpoint, self.endpoint.answers, self.log.width
        try:
            array = np.asarray(answers)
        except Exception:  # ragged lists; what a user's object raises on its way to an array
            array = np.empty(0)
        kinds = "biufU" if kind == "predictions" else "fiu"
        fits = array.ndim > 0 and len(array) == count and array.dtype.kind in kinds
        if not fits or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            shape = f"{array.dtype} of shape {array.shape}"
            raise ValueError(
                f"endpoint={name}: expected finite {kind} of each of {count} queries, not {shape}; set"
                " answers=logits|probabilities|predictions"
            )
        array = class_scores(f"endpoint={name}", kind, array, self.endpoint.classes)
        if width is not None and array.shape[1] != width:
            raise ValueError(
                f"endpoint={name}: expected scores of {width} classes as before, not {array.shape[1]}; let it score all"
                f" classes of every record, or, if another model answers now, remove {self.log.path}"
            )
        plain: list[Any] = array.tolist()
        return plain


def _certainty(answer: Any) -> float:
    """The highest score; of predicted classes none is more certain than another."""
    return max(answer) if isinstance(answer, list) else 0.0


@dataclass(frozen=True, kw_only=True)
class Endpoint(CheckedFields):
    """An endpoint, and the way it is asked.

    A URL gets `{"instances": […]}` by POST and must return `{"predictions": […]}`, one answer for each instance, as
    TensorFlow Serving and KServe do; one that ends in `/infer` gets tensors and returns one, by Open Inference v2. A
    function gets an array (n, …) and returns n answers. Raw rows of a table go to a URL as {column: value}, or a tensor
    for each column, to a function as a DataFrame.

    Args:
        endpoint: a URL, or the dotted name of a function.
        answers: what it returns for each.
        classes: the words of its classes, in the order of its scores; None where labels are numbers from 0.
        budget: queries at most, those of earlier calls counted; None: no limit.
        batch: queries in one call; halved where a URL answers 413.
        rate: calls a second at most; None: no limit.
        timeout: seconds until a URL must have answered, and those that it may ask to wait (Retry-After), all together.
        key_variable: environment variable that holds the key of a URL, sent as `Authorization: Bearer`; None: no key.

    Raises:
        ValueError: if a setting is out of range.
    """

    endpoint: Annotated[str, remedy("give http://… or my_package.predict")]
    answers: Answers = "probabilities"
    classes: Sequence[str] | None = None
    budget: Count | None = None
    batch: Count = 32
    rate: Positive | None = None
    timeout: Positive = 30.0
    key_variable: str | None = None

    @property
    def is_url(self) -> bool:
        """Form of the endpoint: an HTTP address, rather than the dotted name of a function."""
        return self.endpoint.startswith(("http://", "https://"))

    def open(self, folder: Path) -> AuditedModel:
        """The endpoint as an audit asks it; answers are stored in a file of this folder, one for each endpoint."""
        order = "" if self.classes is None else f" {list(self.classes)}"
        name = hashlib.blake2b(f"{self.endpoint} {self.answers}{order}".encode(), digest_size=4).hexdigest()
        service = HttpService(url=self.endpoint, timeout=self.timeout, key_variable=self.key_variable)
        asked: Asked = service if self.is_url else _function(self.endpoint)
        asking = Asking(self, asked, AnswerLog(folder / f"answers-{name}.jsonl"))
        return AuditedModel(
            name=f"endpoint {self.endpoint}", answers=self.answers, ask=asking.ask, inputs=numbers,
            classes=None if self.classes is None else tuple(self.classes), takes_tables=True, prepare=asking.prepare,
        )  # fmt: skip


def _function(name: str) -> Asked:
    try:
        function: Asked = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"endpoint={name}: expected a URL or a Python function ({error}); give my_package.predict"
        ) from None
    if not callable(function):
        raise ValueError(f"endpoint={name}: expected a function that takes rows; give such as my_package.predict")

    def ask(rows: Any) -> Sequence[Any]:
        try:
            return function(rows)
        except Exception as error:
            raise ValueError(
                f"endpoint={name}: expected an answer to {form_of_rows(rows)}, and it raised {error!r}; {RESUME_NOTE}"
            ) from error

    return ask
