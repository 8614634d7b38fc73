"""A model that an audit asks, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Shaped

from palisade.data.cells import PLAIN_READING
from palisade.evaluation.subjects.answer_forms import class_scores

if TYPE_CHECKING:
    import pandas as pd

Answers = Literal["logits", "probabilities", "predictions"]
"""Answers of classifiers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedModel:
    """A model that an audit asks.

    Args:
        name: in a few words, for the page.
        answers: what `ask` returns; of a language model per-token answers, an object for each text.
        ask: answers about rows, in any form that `class_scores` takes.
        inputs: the numbers that the model takes of rows.
        classes: the words of its classes, where it has any.
        takes_inputs: whether `ask` takes inputs of an attacker's choice, not only rows.
        takes_tables: whether `ask` takes a table with columns of the types that pandas reads, besides arrays.
        is_guarded: whether a guard of this project changes the answers, which then need not sum to 1.
        top_k: how many probabilities that guard shows; None: all.
        prepare: called beforehand with all rows that are surely asked about, side by side; returns what to say of the
            answers.
    """

    name: str
    answers: Answers | Literal["token_logprobs"]
    ask: Callable[[Any], Any]
    inputs: Callable[[Any], Shaped[np.ndarray, "records ..."]]
    classes: tuple[str, ...] | None = None
    takes_inputs: bool = True
    takes_tables: bool = False
    is_guarded: bool = False
    top_k: int | None = None
    prepare: Callable[[Sequence[Any]], list[str]] = lambda _: []

    def answer(self, rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        """Answers about rows: (records, classes) scores, or (records,) predicted classes by number.

        Raises:
            ValueError: if the model cannot answer, or its answers are none or can mean more than one thing.
        """
        assert self.answers != "token_logprobs"
        answers = class_scores(self.name, self.answers, self.ask(rows), self.classes)
        if len(answers) != len(rows):
            raise ValueError(f"{self.name}: {len(answers)} answers about {len(rows)} rows; let it give one for each")
        return answers


def numbers(rows: np.ndarray | pd.DataFrame) -> Shaped[np.ndarray, "records ..."]:
    """Rows as numbers; the columns of a table in its order.

    Raises:
        ValueError: if a column holds words or misses a value.
    """
    if isinstance(rows, np.ndarray):
        return rows
    cells = PLAIN_READING.cells(rows)
    for name in map(str, cells):
        if cells[name].isna().any() or any(PLAIN_READING.number(cell) is None for cell in cells[name].unique()):
            raise ValueError(
                f"column {name} holds words or misses values; give numbers, or a release that encodes them, or"
                " a model that takes raw rows, as audit=model model=my_module.load"
            )
    return PLAIN_READING.numbers(cells).astype(np.float32)
