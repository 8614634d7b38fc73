"""Grants: what the evaluator allows attackers to see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped
from scipy.special import softmax

from palisade.attacks.parts.answers import MappedAnswers
from palisade.fields import CheckedFields, Count, CountFromZero
from palisade.targets.guards import Guard, Level, NoGuard
from palisade.targets.guards.top_k import check_top_k

ANSWER_LEVELS = ("label", "probabilities", "logits")


@dataclass(frozen=True, kw_only=True)
class Grant(CheckedFields):
    """The part of a threat model that the evaluator decides, the same for every attack.

    Args:
        outputs: what a query returns.
        decimals: to how many decimals probabilities are rounded; None: not at all.
        top_k: how many of the probabilities are returned, the largest ones; None: all.
        weights: whether attackers hold the models themselves, as when the weights are released or leak.

    Raises:
        ValueError: if `outputs` is unknown, or a restriction of probabilities is asked for without them.
    """

    outputs: Literal["label", "probabilities", "logits"] = "logits"
    decimals: CountFromZero | None = None
    top_k: Count | None = None
    weights: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("decimals", self.decimals), ("top_k", self.top_k)):
            if value is not None and self.outputs != "probabilities":
                raise ValueError(
                    f"{name}={value}: expected null unless probabilities are returned; set threat.outputs=probabilities"
                )

    @property
    def access(self) -> str:
        """label_only, black_box or white_box."""
        return "white_box" if self.weights else "label_only" if self.outputs == "label" else "black_box"

    @property
    def level(self) -> str:
        """Grant in a few words, such as `probabilities, 2 decimals` or `top-3`."""
        return self.behind(NoGuard())

    def behind(self, guard: Guard) -> str:
        """Answers of models behind a guard, in the words of a grant: no more than either lets out."""
        outputs = self._least(guard.level)
        if outputs != "probabilities":
            return outputs
        held_back = [k for k in (self.top_k, guard.top_k) if k is not None]
        shown = f"top-{min(held_back)}" if held_back else "probabilities"
        return shown if self.decimals is None else f"{shown}, {self.decimals} decimals"

    def released(
        self, answers: Shaped[np.ndarray, "*shape"] | MappedAnswers, level: Level = "logits"
    ) -> dict[str, Any]:
        """Answers as attackers see them: one of `logits`, `probabilities` and `predictions`, by name.

        Args:
            answers: logits or probabilities, (…, classes), or classes; of `MappedAnswers` each when it is read.
            level: which of these: what a guard lets out.

        Raises:
            ValueError: if `top_k` holds nothing back of so few classes.
        """
        outputs = self._least(level)
        name = "predictions" if outputs == "label" else outputs
        if outputs == level and (self.top_k, self.decimals) == (None, None):
            return {name: answers}
        change = partial(self.answer, level=level)
        return {name: answers.changed(change) if isinstance(answers, MappedAnswers) else change(answers)}

    def released_signals(self, rows: MappedAnswers) -> dict[str, Any]:
        """Saved signals of answers without a guard as attackers see them: `signals`, or `predictions` of labels.

        Args:
            rows: of `attacks.parts.signals.row_type`.

        Raises:
            ValueError: if probabilities are to be rounded or left out, which takes whole answers.
        """
        for name, value in (("decimals", self.decimals), ("top_k", self.top_k)):
            if value is not None:
                raise ValueError(
                    f"threat.{name}={value}: expected null for models of which only signals are there; train them"
                    " again with fleet.keep=both"
                )
        if self.outputs == "label":
            return {"predictions": rows.changed(itemgetter("predicted"))}
        return {"signals": rows}

    def answer(self, answers: Shaped[np.ndarray, "*shape"], level: Level = "logits") -> np.ndarray:
        """Answers to queries, as far as they are granted.

        Args:
            answers: as of `released`.
            level: likewise.

        Raises:
            ValueError: as `released`.
        """
        outputs = self._least(level)
        if outputs == "logits" or level == "label":
            return np.asarray(answers)
        if outputs == "label":
            return np.asarray(answers.argmax(axis=-1))
        probabilities = softmax(answers, axis=-1) if level == "logits" else np.asarray(answers)
        check_top_k("threat.top_k", self.top_k, probabilities.shape[-1], "leave it out")
        if self.top_k is not None:
            least = np.partition(probabilities, -self.top_k, axis=-1)[..., [-self.top_k]]
            probabilities = np.where(probabilities >= least, probabilities, 0.0).astype(probabilities.dtype)
        if self.decimals is not None:
            probabilities = probabilities.round(self.decimals)
        return np.asarray(probabilities)

    def _least(self, level: Level) -> Level:
        return min(self.outputs, level, key=ANSWER_LEVELS.index)
