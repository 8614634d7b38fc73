"""Random numbers that are a fixed function of a query: who asks again learns nothing new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

if TYPE_CHECKING:
    from torch import Tensor

    from targets.fleet import Fitter

KEY = "key"
"""Under which name a guard's state holds the key that `draw_key` drew."""
KEY_WORDS = 8
DIGEST_BYTES = 16


def draw_key(purpose: str, fitter: Fitter) -> Tensor:
    """256 bits from the secret of the model's run: without them nobody can tell what a guard draws for a query."""
    import torch  # slow to import; guards that are only read need none of it

    words = fitter.secret.bits(f"guard/{purpose}", fitter.models[0], count=KEY_WORDS)
    return torch.from_numpy(words.view(np.uint8).copy())


def digests(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> list[bytes]:
    """A keyed hash of each input, whatever stands beside it in the batch."""
    key = state[KEY].numpy().tobytes()
    return [hashlib.blake2b(row.tobytes(), key=key, digest_size=DIGEST_BYTES).digest() for row in _canonical(x)]


def generator(digest: bytes) -> np.random.Generator:
    """The generator that belongs to a digest."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


def generators(x: Real[np.ndarray, "records ..."], state: Mapping[str, Tensor]) -> Iterator[np.random.Generator]:
    """One generator for each input."""
    return map(generator, digests(x, state))


def _canonical(x: Real[np.ndarray, "records ..."]) -> Real[np.ndarray, "records ..."]:
    """Equal inputs as equal bytes: of one type, and with a single zero."""
    exact = np.issubdtype(x.dtype, np.integer)
    return np.ascontiguousarray(x, dtype=np.int64) if exact else np.ascontiguousarray(x, dtype=np.float32) + 0.0
