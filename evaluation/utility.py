"""Utility: what a curve weighs against leakage, by one of four measures on test records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from palisade.evaluation.format import Interval, number

CALIBRATION = "test_calibration_error"
"""The metric that stands beside every utility: how far probabilities are from how often they are right."""
AFFORDABLE = 0.05
"""A small loss for protection: points of a rate, or nats of log loss, which is as much of a likelihood."""


@dataclass(frozen=True, kw_only=True)
class Utility:
    """One measure of how useful models are; all of them are measured, one is chosen to read the results by.

    Args:
        name: as `utility=` chooses it.
        words: for axes, headings and sentences.
        higher_is_better: whether a larger value is of more use.
        is_rate: whether it is shown in percent.
        needs: the least that the models must answer with.
    """

    name: str
    words: str
    higher_is_better: bool = True
    is_rate: bool = True
    needs: str = "label"

    @classmethod
    def named(cls, name: str) -> Utility:
        """The measure of this name.

        Raises:
            ValueError: if there is none.
        """
        if not isinstance(name, str) or name not in UTILITIES:
            raise ValueError(f"utility={name}: expected one of {', '.join(UTILITIES)}; choose e.g. {ACCURACY.name}")
        return UTILITIES[name]

    @property
    def metric(self) -> str:
        """Its name in results.csv."""
        return f"test_{self.name}"

    @property
    def axis(self) -> str:
        """For an axis of its values."""
        return self.words if self.higher_is_better else f"{self.words} (lower is better)"

    @property
    def nearly(self) -> str:
        """Description of runs that lose no more than is affordable."""
        lost = f"{100 * AFFORDABLE:g} points" if self.is_rate else f"{AFFORDABLE:g}"
        return f"within {lost} of the best {self.words.replace('test ', '')}"

    def text(self, row: Interval | None, *, interval: bool = False) -> str:
        """A value for people, with its interval on request: `67.5 % [66.0–69.1]`, `0.412 [0.398–0.431]`."""
        factor, digits, unit = (100, 1, " %") if self.is_rate else (1, 3, "")
        return number(row, factor=factor, digits=digits, unit=unit, interval=interval)

    def worth(self, value: float | None) -> float:
        """The value turned so that more is better, whatever the measure; −inf where there is none."""
        if value is None:
            return -math.inf
        return value if self.higher_is_better else -value


ACCURACY = Utility(name="accuracy", words="test accuracy")
UTILITIES: Mapping[str, Utility] = {
    utility.name: utility
    for utility in (
        ACCURACY,
        Utility(name="balanced_accuracy", words="balanced test accuracy"),
        Utility(name="roc_auc", words="test ROC AUC", is_rate=False, needs="probabilities"),
        Utility(name="log_loss", words="test log loss", is_rate=False, higher_is_better=False, needs="probabilities"),
    )
}
