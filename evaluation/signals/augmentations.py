"""Queries about a record: as it is, or as a perturbed copy; the same list for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Real

Images = Real[np.ndarray, "records channels height width"]

AUGMENTATIONS: Mapping[str, Callable[[Images], Images]] = {
    "plain": lambda x: x,
    "mirrored": lambda x: x[..., ::-1],
    "left": lambda x: np.roll(x, -1, axis=-1),
    "right": lambda x: np.roll(x, 1, axis=-1),
    "up": lambda x: np.roll(x, -1, axis=-2),
    "down": lambda x: np.roll(x, 1, axis=-2),
}
"""Shifts are by one pixel. Several queries of a record tell more than one (Carlini et al. 2022, section 6.3)."""


def augmented(name: str, x: Real[np.ndarray, "records ..."]) -> Real[np.ndarray, "records ..."]:
    """All records in one way.

    Raises:
        ValueError: if the way is unknown, or the records are no images and it is not `plain`.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"queries={name} is unknown; choose of {', '.join(AUGMENTATIONS)}")
    if name != "plain" and x.ndim != 4:
        raise ValueError(f"queries={name} turns images, not records of shape {x.shape[1:]}; use queries=[plain]")
    return AUGMENTATIONS[name](x)
