"""Cost of each run: its utility, and the loss of utility against the undefended one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from palisade.evaluation.comparison import ordered
from palisade.evaluation.format import percent
from palisade.evaluation.labels import title
from palisade.evaluation.result import Result, Row
from palisade.evaluation.utility import CALIBRATION, NOTHING


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The utility of a run.

    Args:
        title: of the run.
        utility: its value with its interval.
        loss: what the undefended run of the same seed is better by; a dash where there is none, or this is it.
        calibration: how far its probabilities are from how often they are right; a dash where there are none.
    """

    title: str
    utility: str
    loss: str
    calibration: str


def costs(results: Sequence[Result]) -> list[Cost]:
    """The utility of every run, and its loss."""
    bare = {result.seed: result for result in results if result.is_undefended and not result.has_canaries}
    return [
        Cost(
            title=title(result),
            utility=result.utility.text(result.find(result.utility.metric), interval=True),
            loss=_loss(result, bare.get(result.seed)),
            calibration=percent(result.find(CALIBRATION)),
        )
        for result in ordered(results)
    ]


def _loss(result: Result, bare: Result | None) -> str:
    """The difference, with an interval as if both were measured on other records, which makes it wide at worst."""
    if bare is None or bare is result:
        return NOTHING
    own, its = (run.find(result.utility.metric) for run in (result, bare))
    if own is None or its is None or own.value is None or its.value is None:
        return NOTHING
    lost = result.utility.worth(its.value) - result.utility.worth(own.value)
    factor, digits, unit = (100, 1, " points") if result.utility.is_rate else (1, 3, "")
    told = f"{factor * lost:.{digits}f}"
    if (own_half := _half(own)) is not None and (its_half := _half(its)) is not None:
        half = math.hypot(own_half, its_half)
        told += f" [{factor * (lost - half):.{digits}f} to {factor * (lost + half):.{digits}f}]"
    return f"{told}{unit}".replace("-", "−")


def _half(row: Row) -> float | None:
    return None if row.low is None or row.high is None else (row.high - row.low) / 2
