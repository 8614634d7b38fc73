"""Random numbers that are a fixed function of a query: who asks again learns nothing new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from palisade.data.rows import CHUNK_RECORDS
from palisade.data.split import Split
from palisade.targets.guards import grid

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter

STATE_KEY = "key"
"""Under which name a guard's state holds the key of what it draws."""
KEY_WORDS = 8
DIGEST_BYTES = 16


def fit(purpose: str, fitter: Fitter, split: Split) -> dict[str, Tensor]:
    """State by which a guard draws something for a query: the grid of inputs, and a key.

    The key is 256 bits from the secret of the model's run: without them nobody can compute what is drawn.
    """
    import torch  # slow to import; guards that are only read need none of it

    words = fitter.secret.bits(f"guard/{purpose}", fitter.models[0], count=KEY_WORDS)
    return {STATE_KEY: torch.from_numpy(words.view(np.uint8).copy()), **grid.fit(fitter.dataset, split)}


def digests(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> list[bytes]:
    """A keyed hash of each input on the grid, whatever stands beside it in the batch."""
    key = state[STATE_KEY].numpy().tobytes()
    return [
        hashlib.blake2b(row.tobytes(), key=key, digest_size=DIGEST_BYTES).digest()
        for start in range(0, len(x), CHUNK_RECORDS)
        for row in _canonical(x[start : start + CHUNK_RECORDS], state)
    ]


def generator(digest: bytes) -> np.random.Generator:
    """The generator that belongs to a digest."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


def generators(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> Iterator[np.random.Generator]:
    """One generator for each input."""
    return map(generator, digests(x, state))


def _canonical(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> Real[np.ndarray, "records ..."]:
    """Inputs that get the same randomness as the same values of one type: whole numbers, or points of the grid."""
    return x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else grid.snapped(x, state)
