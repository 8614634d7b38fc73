"""Queries: ways of putting a record to a model, itself first and then copies that were moved a little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Real

Images = Real[np.ndarray, "records channels height width"]
QUERY_AUGMENTATIONS: Mapping[str, Callable[[Images], Images]] = {
    "plain": lambda x: x,
    "mirrored": lambda x: x[..., ::-1],
    "left": lambda x: np.roll(x, -1, axis=-1),
    "right": lambda x: np.roll(x, 1, axis=-1),
    "up": lambda x: np.roll(x, -1, axis=-2),
    "down": lambda x: np.roll(x, 1, axis=-2),
}
"""Queries by name; shifts are by one pixel. Several say more than one (Carlini et al. 2022, section 6.3)."""
PLAIN_QUERY = ("plain",)


def check_queries(queries: Sequence[str], key: str = "queries") -> None:
    """Raises ValueError unless these are different ways, plain first.

    Args:
        queries: ways by name.
        key: of the setting that holds them.
    """
    listed = isinstance(queries, Sequence) and not isinstance(queries, str)
    if not listed or not queries or len(set(map(str, queries))) < len(queries):
        raise ValueError(f"{key}={queries}: expected a list of different ways; choose e.g. [plain,mirrored]")
    if unknown := [query for query in queries if query not in list(QUERY_AUGMENTATIONS)]:
        raise ValueError(f"{key}={unknown[0]}: expected ways of {', '.join(QUERY_AUGMENTATIONS)}; choose e.g. plain")
    if queries[0] != "plain":
        raise ValueError(f"{key}={list(queries)}: expected plain first, not a perturbed copy; put it there")


def augmented(name: str, x: Real[np.ndarray, "records ..."], key: str = "queries") -> Real[np.ndarray, "records ..."]:
    """All records in one way.

    Args:
        name: of the way.
        x: the records.
        key: of the setting that holds the name.

    Raises:
        ValueError: if the way is unknown, or the records are no images and it is not `plain`.
    """
    if name not in QUERY_AUGMENTATIONS:
        raise ValueError(f"{key}={name}: expected ways of {', '.join(QUERY_AUGMENTATIONS)}; choose e.g. plain")
    if name != "plain" and x.ndim != 4:
        raise ValueError(f"{key}={name}: expected images, not records of shape {x.shape[1:]}; choose {key}=[plain]")
    return QUERY_AUGMENTATIONS[name](x)
