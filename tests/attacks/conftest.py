from collections.abc import Callable

import numpy as np
import pytest

from palisade.attacks import View


@pytest.fixture(scope="session")
def view_of() -> Callable[..., View]:
    """A view whose log-odds are exactly the given φ (models, records[, queries])."""

    def make(phi: np.ndarray, membership: np.ndarray, groups: np.ndarray | None = None) -> View:
        logits = np.stack([phi, np.zeros_like(phi)], axis=-1)
        return View(logits=logits, labels=np.zeros(phi.shape[1], dtype=int), membership=membership, groups=groups)

    return make
