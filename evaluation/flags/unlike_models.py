"""Models whose log-odds lie on another scale than those of the fleet, as of one that diverged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from palisade.attacks import View
from palisade.attacks.parts.signals import MIN_RECORDS_TO_STANDARDIZE, centers_and_spreads
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.result import Result, Row

SPREAD = "log_odds_spread"
"""The name of the metric: the spread of a model's log-odds over the median model's."""
RATIO = 10
"""A spread so many times that of the median model, or as small a part of it, is another kind of model's."""


def spread_rows(seen: View) -> Iterator[Row]:
    """The spread of every model's log-odds beside the median model's; one row without a value where none is defined."""
    if seen.outputs == "label" or seen.models == 1:
        return
    if (measured := centers_and_spreads(seen.log_odds)) is None:
        yield Row(metric=SPREAD, value=None)
        return
    _, spread = measured
    for model, value in enumerate(spread[:, 0] / np.median(spread[:, 0])):
        yield Row(metric=SPREAD, model=model, value=float(value))


def unlike(result: Result) -> Iterator[Flag]:
    """A model of the fleet answers on another scale than the others, or scales could not be compared."""
    rows = [row for row in result.rows if row.metric == SPREAD]
    if any(row.value is None for row in rows):
        yield Flag(
            "models not standardized",
            f"The log-odds of some model have no spread, or there are fewer than {MIN_RECORDS_TO_STANDARDIZE} records"
            " to measure it by. Attacks that compare models take them as they are, and a single model that differs"
            " from the others may hide what leaks.",
        )
    off = [row for row in rows if row.value is not None and not 1 / RATIO <= row.value <= RATIO]
    if off:
        listed = ", ".join(f"{row.model} ({row.value:.2g} times)" for row in off)
        yield Flag(
            "unlike models",
            f"The log-odds of model {listed} spread at least {RATIO} times more or less than the median model's."
            " Attacks bring all models to one scale first, but such a model was not trained as the others were: look"
            " at its training before relying on the fleet.",
        )
