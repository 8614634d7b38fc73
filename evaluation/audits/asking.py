"""Queries of an audit to an endpoint: within a budget, and never the same twice but to see if the model is the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from palisade.evaluation.audits.answer_log import AnswerLog, name_of_input
from palisade.evaluation.audits.audited_model import numbers
from palisade.targets import progress

if TYPE_CHECKING:
    from palisade.evaluation.audits.endpoint import Asked, Endpoint

AGAIN = 4
"""Kept answers that are asked for again."""
ROUNDING = 1e-3
"""Largest change of an answer by rounding or another batch, itself and relative to it."""


class BudgetSpentError(ValueError):
    """More queries are needed than `budget` allows; those beyond it were not made."""


class Asking:
    """One audit's queries. Answers that were kept earlier are used, after a few of them have been asked for again.

    Args:
        endpoint: the settings.
        asked: answers a batch.
        log: where answers are kept.
    """

    def __init__(self, endpoint: Endpoint, asked: Asked, log: AnswerLog) -> None:
        self.endpoint, self.asked, self.log = endpoint, asked, log
        self._compared = 0
        self._next_call = time.monotonic()

    def prepare(self, sides: Sequence[Any]) -> list[str]:
        """Asks about all records of an audit, and tells how many answers were there already.

        Args:
            sides: rows of members, of non-members and so on.

        Raises:
            BudgetSpentError: if the budget does not suffice for all of them; nothing was asked then.
            ValueError: if the endpoint answers nothing usable, or is another model than before.
        """
        known = [numbers(rows) for rows in sides]
        names = {name_of_input(row) for rows in known for row in rows}
        missing = len(self._missing(list(names)))
        kept = len(names) - missing
        with progress.Progress(self.log.path.parent, missing, "queries answered") if missing else nullcontext():
            for rows in reversed(known):  # members last: what is told of others tells one model from another best
                self.ask(rows)
        if kept == 0:
            return []
        return [
            f"{kept:,} of {len(names):,} answers about records are those that an earlier audit kept; {self._compared}"
            " of them were asked for again and are the same."
        ]

    def ask(self, rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        """Answers about rows; only those that are not there yet are asked for.

        Raises:
            BudgetSpentError: if the budget does not suffice; nothing was asked then.
            ValueError: if the endpoint answers nothing usable, or is another model than before.
        """
        given = numbers(rows)
        names = [name_of_input(row) for row in given]
        missing = self._missing(names)
        self._compare(given, names)
        for places, answers in self._answers(given, missing):
            self.log.add([names[place] for place in places], answers)
            progress.report(self.endpoint.endpoint, len(places))
        return np.array(self.log.of(names))

    def _missing(self, names: Sequence[str]) -> list[int]:
        missing, budget = self.log.missing(names), self.endpoint.budget
        if budget is not None and (needed := len(self.log) + len(missing)) > budget:
            raise BudgetSpentError(
                f"budget={budget} is too small: {len(self.log)} answers are there and {len(missing)} more are needed;"
                f" raise it to {needed}, or give fewer records"
            )
        return missing

    def _compare(self, rows: Shaped[np.ndarray, "records ..."], names: Sequence[str]) -> None:
        """Once, a few kept answers are asked for again: the least certain, which differ most between models."""
        kept = {name: place for place, name in enumerate(names) if name in self.log.kept}
        if self._compared or not kept:
            return
        certain = dict(zip(kept, map(_certainty, self.log.of(list(kept))), strict=True))
        few = sorted(kept, key=lambda name: (certain[name], name))[:AGAIN]
        before = self.log.of(few)
        now = [answer for _, answers in self._answers(rows, [kept[name] for name in few]) for answer in answers]
        exact = self.endpoint.answers == "predictions"
        if not (before == now if exact else np.allclose(now, before, rtol=ROUNDING, atol=ROUNDING)):
            raise ValueError(
                f"endpoint={self.endpoint.endpoint} answers otherwise than when its answers were kept: the model behind"
                f" it has changed, or it answers at random; remove {self.log.path} to ask anew"
            )
        self._compared = len(few)

    def _answers(
        self, rows: Shaped[np.ndarray, "records ..."], places: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], list[Any]]]:
        """The answers about rows at some places, batch by batch, at most so many a second."""
        for start in range(0, len(places), self.endpoint.batch):
            batch = places[start : start + self.endpoint.batch]
            time.sleep(max(0.0, self._next_call - time.monotonic()))
            self._next_call = time.monotonic() + (1 / self.endpoint.rate if self.endpoint.rate is not None else 0.0)
            yield batch, self._checked(self.asked(rows[batch]), len(batch))

    def _checked(self, answers: Any, count: int) -> list[Any]:
        """Answers as plain numbers, before any of them is kept."""
        name, kind, width = self.endpoint.endpoint, self.endpoint.answers, self.log.width
        try:
            told = np.asarray(answers)
        except ValueError:
            told = np.empty(0)
        depth, kinds = (1, "iu") if kind == "predictions" else (2, "fiu")
        if told.ndim != depth or len(told) != count or told.dtype.kind not in kinds or not np.isfinite(told).all():
            shape = f"{told.dtype} of shape {told.shape}"
            raise ValueError(
                f"endpoint={name} answered {count} queries with {shape}; expected finite {kind} of each, or set"
                " answers=logits|probabilities|predictions"
            )
        if width is not None and told.shape[1] != width:
            raise ValueError(
                f"endpoint={name} scored {width} classes before and {told.shape[1]} now; it must score all classes of"
                f" every record. If another model answers now, remove {self.log.path}"
            )
        plain: list[Any] = told.tolist()
        return plain


def _certainty(answer: Any) -> float:
    """The highest score; of predicted classes none is more certain than another."""
    return max(answer) if isinstance(answer, list) else 0.0
