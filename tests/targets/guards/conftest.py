"""The state of guards that draw at random, without a model to fit them to."""

from __future__ import annotations

import pytest
import torch

from palisade.targets.guards.grid import FACTOR, SHIFT, STEP
from palisade.targets.guards.keyed import KEY


@pytest.fixture(scope="session")
def keyed_state() -> dict[str, torch.Tensor]:
    """A key, and the grid of inputs that vary by about 1."""
    numbers = {SHIFT: 0.0, FACTOR: 1.0, STEP: 1 / 64}
    grid = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    return {KEY: torch.arange(32, dtype=torch.uint8), **grid}
