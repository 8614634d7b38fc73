"""The uncertainty that a few models leave about the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.stats import beta, t

from palisade.evaluation.result import Result, Row

FEWEST = 4
"""Models below which how much they differ is unknown."""
ENOUGH = 16
"""Models from which on a kind of model that is one in four is missing in one fleet of a hundred."""
RARE = 0.25
"""The share of models of a kind that a fleet should not miss."""
ALPHA = 0.05


def of_models(result: Result, row: Row) -> list[Row]:
    """The rows of each model that a row is the mean of."""
    named = row.attack, row.metric, row.group
    return [each for each in result.rows if each.model != "all" and (each.attack, each.metric, each.group) == named]


def widened(row: Row, result: Result) -> Row:
    """A row whose interval also holds what the spread of the models allows for, by t-quantiles.

    Resampling a few models understates how much they differ: of two, half of the resamples hold one alone.

    Args:
        row: a mean over models.
        result: what it belongs to.
    """
    values = _units([each.value for each in of_models(result, row) if each.value is not None], result)
    if len(values) < 2 or row.low is None or row.high is None:
        return row
    half = float(t.ppf(1 - ALPHA / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    middle = float(values.mean())
    return replace(row, low=min(row.low, max(0.0, middle - half)), high=max(row.high, min(1.0, middle + half)))


def worst(row: Row, result: Result) -> tuple[Row, float] | None:
    """The model in which most members are found, and the least share that its records, were they others, would give.

    The share is the lower end of a Clopper–Pearson interval at 97.5 % for all models together.

    Args:
        row: a mean over models.
        result: what it belongs to.
    """
    models = [each for each in of_models(result, row) if each.value is not None and each.members]
    if not models:
        return None
    highest = max(models, key=lambda each: each.value or 0.0)
    members = highest.members or 0
    hits = round((highest.value or 0.0) * members)
    least = float(beta.ppf(ALPHA / 2 / len(models), hits, members - hits + 1)) if hits else 0.0
    return highest, least


def unseen(models: int) -> str:
    """The chance that a fleet misses a kind of model, such as `of 8 models a kind that is one in four …`."""
    return (
        f"of {models} models, a kind that is one in {1 / RARE:.0f} is missing with probability"
        f" {100 * (1 - RARE) ** models:.0f} %"
    )


def _units(values: Sequence[float], result: Result) -> Float[np.ndarray, "units"]:
    """A value of each independent draw: two models of complementary membership are one."""
    drawn = np.array(values, dtype=np.float64)
    if result.config["membership"]["how"] == "complementary" and len(drawn) % 2 == 0:
        return drawn.reshape(-1, 2).mean(axis=1)
    return drawn
