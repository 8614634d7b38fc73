"""Records outside a fleet: those of a role that no model was trained on, or of a file from another source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Real

from palisade.data.dataset import Dataset
from palisade.data.places import place
from palisade.evaluation.audits.saved_records import SavedRecords, read
from palisade.evaluation.measuring.baselines import content_digest
from palisade.targets.run import Run

OUTSIDER_ROLES = ("test", "population", "reference", "validation")
MAX_PER_KIND = 500
"""Records of a kind; more cost time and change little."""
SETTING = "study.out"
CHOICES = f"choose {', '.join(OUTSIDER_ROLES)}, or an .npz or a .csv file"


def checked_out(out: Any) -> None:
    """Raises ValueError if this can be the name of neither a role nor a file."""
    if not isinstance(out, str):
        raise ValueError(f"{SETTING}={out} is neither a file nor a role; {CHOICES}")
    place(SETTING, out)


def outside_records(run: Run, out: str) -> tuple[Real[np.ndarray, "n *shape"], Int[np.ndarray, "n"]]:
    """Inputs and labels of at most `MAX_PER_KIND` records, drawn by a public seed.

    Args:
        run: whose models take the records.
        out: a role of its split; an .npz file with features as the models take them and labels; or, if the run's data
            are a table, a .csv file with its columns.

    Raises:
        ValueError: if there are no such records, the models cannot take them, or the pool holds some.
    """
    data = run.dataset
    if out in OUTSIDER_ROLES:
        records: Sequence[int] = getattr(data.split, out)
        if not len(records):
            raise ValueError(f"{SETTING}={out} is a role without records; choose another, such as test")
        return data.x[drawn := _drawn(records)], data.y[drawn]
    if not place(SETTING, out).is_file():
        raise ValueError(f"{SETTING}={out} is neither a file nor a role; {CHOICES}")
    label = run.config["data"].get("label")
    if Path(out).suffix == ".csv" and label is None:
        raise ValueError(f"{SETTING}={out} is a table, which the data of {run.folder} are not; give an .npz file")
    saved = read(SETTING, out, label)
    x = _inputs(saved, data)
    y = saved.numbered(data.classes)
    if not len(y):
        raise ValueError(f"{saved.name} holds no record; give a file with some")
    if wrong := sorted(set(y.tolist()) - set(range(len(data.classes)))):
        raise ValueError(f"{saved.name}: label {wrong[0]} is no class; choose of 0..{len(data.classes) - 1}")
    x = _cast(saved, x, data.x.dtype)
    _check_outside(saved, x, y, data)
    drawn = _drawn(np.arange(len(y)))
    return x[drawn], y[drawn]


def _inputs(saved: SavedRecords, data: Dataset) -> Real[np.ndarray, "n *shape"]:
    """The records as the models take them."""
    expected = data.x.shape[1:]
    if saved.rows is None:
        raise ValueError(f"{saved.name} has no features; save them as the models take them, {expected} a record")
    if isinstance(saved.rows, np.ndarray):
        if saved.rows.shape[1:] != expected:
            raise ValueError(f"{saved.name}: features are {saved.rows.shape[1:]}; save {expected} a record")
        return saved.rows
    try:
        return data.preprocessing(saved.rows)
    except ValueError as error:
        raise ValueError(f"{saved.name}: {error}") from None


def _cast(saved: SavedRecords, x: Real[np.ndarray, "n *shape"], kind: np.dtype[Any]) -> Real[np.ndarray, "n *shape"]:
    """The inputs as numbers of the kind that the models take."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = x.astype(kind)
    if not np.isfinite(cast).all():
        raise ValueError(f"{saved.name}: features hold numbers that {kind} cannot; scale them as the run's own")
    if kind.kind in "iu" and not np.array_equal(cast, x):
        raise ValueError(f"{saved.name}: features hold fractions; save them as the models take them, {kind} numbers")
    return cast


def _check_outside(
    saved: SavedRecords, x: Real[np.ndarray, "n *shape"], y: Int[np.ndarray, "n"], data: Dataset
) -> None:
    """Raises ValueError if models may have been trained on some of the records."""
    pool = {content_digest(data.x[record], data.y[record]) for record in data.split.pool.tolist()}
    if inside := sum(content_digest(row, label) in pool for row, label in zip(x, y, strict=True)):
        raise ValueError(
            f"{saved.name}: {inside} of its records are in the run's pool, where they may have been trained on;"
            " remove them"
        )


def _drawn(records: Sequence[int] | Int[np.ndarray, "records"]) -> Int[np.ndarray, "n"]:
    return np.random.default_rng(0).permutation(np.asarray(records))[:MAX_PER_KIND]
