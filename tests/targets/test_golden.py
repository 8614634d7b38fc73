"""Equal configurations give equal models, or RESULTS_VERSION says that they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from palisade.targets import RESULTS_VERSION
from palisade.train import train_run

GOLDEN_NORMS = {"none": (99.6901, 98.4513), "dp_sgd": (336.486, 299.469)}
TINY_RUN = ["data=digits", "fleet.models=2", "fleet.workers=1", "trainer.epochs=3", "secret=golden"]


@pytest.mark.parametrize("defense", GOLDEN_NORMS)
def test_numbers_change_only_with_the_version(compose, defense):
    """On a failure that is meant: raise RESULTS_VERSION in targets/__init__.py, so that no old run is taken for new."""
    private = ["defense.trainer.epochs=3"] if defense == "dp_sgd" else []
    folder = Path(train_run(compose(*TINY_RUN, f"defense={defense}", *private))["folder"])
    states = [load_file(folder / "models" / f"{k}.safetensors") for k in range(2)]
    norms = tuple(float(sum(value.double().square().sum() for value in state.values())) for state in states)
    assert RESULTS_VERSION == 5
    assert norms == pytest.approx(GOLDEN_NORMS[defense], rel=1e-3)
