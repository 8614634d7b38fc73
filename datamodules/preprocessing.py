"""From raw rows to a network's inputs: a closed list of steps that travels as JSON, so a release holds no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Shaped

from datamodules.columns import Columns

CHUNK = 4096  # records looked at together, so that a memory-mapped array never enters memory as a whole


@dataclass(frozen=True, kw_only=True)
class Scale:
    """(row − shift) · factor with constants that tell nothing about the records; by default numbers stay as they are.

    Args:
        shape: of one record.
        shift: one number, or one for each value of a record in C order.
        factor: likewise.
    """

    kind: ClassVar[str] = "scale"
    statistics: ClassVar[str] = "constants"
    not_covered: ClassVar[None] = None
    shape: tuple[int, ...]
    shift: tuple[float, ...] = (0.0,)
    factor: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name, values in (("shift", self.shift), ("factor", self.factor)):
            if len(values) not in (1, math.prod(self.shape)):
                raise ValueError(
                    f"{name} has {len(values)} values; shape={self.shape} needs 1 or {math.prod(self.shape)}"
                )

    def __call__(self, rows: Shaped[np.ndarray, "records ..."]) -> Float32[np.ndarray, "records *shape"]:
        """The inputs of raw rows (records, *shape), or flattened ones.

        Raises:
            ValueError: for rows of another shape, with text, or with values that are not finite.
        """
        rows = np.asarray(rows)
        if math.prod(rows.shape[1:]) != math.prod(self.shape) or rows.ndim < 2:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(
                f"rows have shape {rows.shape} but the network expects (records, {expected}); reshape them"
            )
        check_finite("rows", rows)
        rows = rows.reshape(-1, *self.shape)
        if self.shift == (0.0,) and self.factor == (1.0,):
            return np.asarray(rows, dtype=np.float32)  # no copy of float32: memory-mapped rows stay on disk
        flat = (rows.reshape(len(rows), -1) - np.array(self.shift)) * np.array(self.factor)
        return np.asarray(flat.reshape(rows.shape), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "shift": list(self.shift), "factor": list(self.factor)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scale:
        return cls(**{name: tuple(content[name]) for name in ("shape", "shift", "factor")})


Preprocessing = Scale | Columns


def from_json(content: Mapping[str, Any]) -> Preprocessing:
    """The step that `to_json` described, giving the same inputs to the last bit.

    Raises:
        ValueError: if the kind is not in the closed list, or its description is incomplete.
    """
    kinds: dict[Any, type[Scale] | type[Columns]] = {"scale": Scale, "columns": Columns}
    if content.get("kind") not in kinds:
        raise ValueError(f"preprocessing.kind={content.get('kind')} is unknown; choose one of {', '.join(kinds)}")
    try:
        return kinds[content["kind"]].from_json(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"preprocessing of kind {content['kind']} is incomplete ({error}); write it afresh") from None


def check_finite(name: str, rows: Shaped[np.ndarray, "records ..."]) -> None:
    """Raises ValueError if rows are no numbers, or become NaN or infinite as float32."""
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {rows.dtype}; only numbers are possible")
    for start in range(0, len(rows), CHUNK):
        with np.errstate(over="ignore"):
            wrong = np.count_nonzero(~np.isfinite(rows[start : start + CHUNK].astype(np.float32)))
        if wrong:
            raise ValueError(f"{name} has NaN or infinite values (float32); remove or replace them")
