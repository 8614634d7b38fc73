"""From raw rows to a network's inputs: a closed list of steps that travels as JSON, so a release holds no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from palisade.data.columns import Columns
from palisade.data.rows import CHUNK_RECORDS, shaped
from palisade.data.scattering import Scattering
from palisade.data.sequences import ByteTokens
from palisade.data.subwords import SubwordTokens
from palisade.data.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Scale:
    """(row − shift) · factor with constants that do not depend on the records; by default numbers stay as they are.

    Args:
        shape: of one record.
        shift: one number, one for each channel (the first axis), or one for each value of a record in C order.
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
            if len(values) not in (allowed := sorted({1, self.shape[0], math.prod(self.shape)})):
                raise ValueError(
                    f"{name} of {len(values)} values: expected {' or '.join(map(str, allowed))} for shape={self.shape};"
                    " give one, or one for each channel or each value"
                )

    @property
    def is_identity(self) -> bool:
        """True if numbers are not scaled."""
        return self.shift == (0.0,) and self.factor == (1.0,)

    def __call__(self, rows: Shaped[np.ndarray, "records ..."]) -> Float32[np.ndarray, "records *shape"]:
        """The inputs of raw rows (records, *shape), or flattened ones.

        Raises:
            ValueError: for rows of another shape, with text, or with values that are not finite.
        """
        rows = shaped(rows, self.shape)
        if self.is_identity:
            return np.asarray(rows, dtype=np.float32)  # no copy of float32: memory-mapped rows stay on disk
        shift, factor = self.broadcast(self.shift), self.broadcast(self.factor)
        inputs = np.empty(rows.shape, dtype=np.float32)
        for start in range(0, len(rows), CHUNK_RECORDS):
            inputs[start : start + CHUNK_RECORDS] = (rows[start : start + CHUNK_RECORDS] - shift) * factor
        return inputs

    def broadcast(self, values: tuple[float, ...]) -> Float64[np.ndarray, "..."]:
        """In the shape of a record, or one that NumPy stretches to it."""
        per_value = len(values) == math.prod(self.shape)
        return np.array(values).reshape(self.shape if per_value else (len(values), *[1] * (len(self.shape) - 1)))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        return {"kind": self.kind, "shape": list(self.shape), "shift": list(self.shift), "factor": list(self.factor)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scale:
        """The preprocessing that `to_json` described."""
        return cls(**{name: tuple(content[name]) for name in ("shape", "shift", "factor")})


Preprocessing = Scale | Columns | Scattering | Tokens | ByteTokens | SubwordTokens
PREPROCESSING_KINDS: Mapping[Any, type[Preprocessing]] = {
    step.kind: step for step in (Scale, Columns, Scattering, Tokens, ByteTokens, SubwordTokens)
}


def from_json(content: Mapping[str, Any]) -> Preprocessing:
    """The step that `to_json` described, giving the same inputs to the last bit.

    Raises:
        ValueError: if the kind is not in the closed list, or its description is incomplete.
    """
    if content.get("kind") not in PREPROCESSING_KINDS:
        raise ValueError(
            f"preprocessing.kind={content.get('kind')}: expected one of {', '.join(PREPROCESSING_KINDS)}; choose one"
        )
    try:
        return PREPROCESSING_KINDS[content["kind"]].from_json(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"preprocessing of kind {content['kind']} is incomplete ({error}); write it afresh") from None
