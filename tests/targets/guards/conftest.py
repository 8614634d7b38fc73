"""The state of guards that draw at random, without a model to fit them to."""

from __future__ import annotations

import pytest
import torch

from palisade.targets.guards.grid import FACTOR_KEY, SHIFT_KEY, STEP_KEY
from palisade.targets.guards.keyed import STATE_KEY


@pytest.fixture(scope="session")
def keyed_state() -> dict[str, torch.Tensor]:
    """A key, and the grid of inputs that vary by about 1."""
    numbers = {SHIFT_KEY: 0.0, FACTOR_KEY: 1.0, STEP_KEY: 1 / 64}
    grid = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    return {STATE_KEY: torch.arange(32, dtype=torch.uint8), **grid}
