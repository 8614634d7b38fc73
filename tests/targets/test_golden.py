"""Equal configurations give equal models, or RESULTS_VERSION says that they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from palisade.targets import RESULTS_VERSION
from palisade.targets.gpt import GPT
from palisade.train import train_run

GOLDEN_NORMS = {"none": (99.6901, 98.4513), "dp_sgd": (336.486, 299.469)}
GOLDEN_NORMS_OF_TIED = {"none": (55.5195, 53.8839), "dp_sgd": (69.9479, 66.4352)}
TINY_FLEET = ["fleet.models=2", "fleet.workers=1", "trainer.epochs=3", "secret=golden"]
TINY_RUN = ["data=digits", *TINY_FLEET]
DOCUMENT_WORDS = ("ash", "birch", "cedar", "elm", "fir", "oak")


class TiedGPT(GPT):
    """A language model whose output layer is its embedding."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(width=8, depth=1, heads=2, **sizes)
        self.head.weight = self.tokens.weight


def squared_norms(folder: Path) -> tuple[float, ...]:
    """Of all weights of each model; a tied one counts under both of its names."""
    states = [load_file(folder / "models" / f"{k}.safetensors") for k in range(2)]
    return tuple(float(sum(value.double().square().sum() for value in state.values())) for state in states)


def of_defense(defense: str) -> list[str]:
    return [f"defense={defense}", *(["defense.trainer.epochs=3"] if defense == "dp_sgd" else [])]


@pytest.mark.parametrize("defense", GOLDEN_NORMS)
def test_numbers_change_only_with_the_version(compose, defense):
    """On a failure that is meant: raise RESULTS_VERSION in targets/__init__.py, so that no old run is taken for new."""
    folder = Path(train_run(compose(*TINY_RUN, *of_defense(defense)))["folder"])
    assert RESULTS_VERSION == 6
    assert squared_norms(folder) == pytest.approx(GOLDEN_NORMS[defense], rel=1e-3)


@pytest.mark.parametrize("defense", GOLDEN_NORMS_OF_TIED)
def test_numbers_of_tied_language_models_change_only_with_the_version(compose, tmp_path, defense):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(DOCUMENT_WORDS, 4)) for _ in range(60)]
    (tmp_path / "own.csv").write_text("\n".join(["text", *texts]))
    sizes = ["data.length=16", "split.pool=40", "split.validation=0", "split.population=10", "trainer.batch_size=10"]
    sizes += [f"network._target_={__name__}.TiedGPT"]
    if defense == "dp_sgd":
        sizes += ["defense.trainer.batch_size=10", "defense.epsilon=8"]
    data = ["data=documents", f"data.path={tmp_path / 'own.csv'}", *sizes]
    folder = Path(train_run(compose(*data, *TINY_FLEET, *of_defense(defense)))["folder"])
    assert RESULTS_VERSION == 6
    assert squared_norms(folder) == pytest.approx(GOLDEN_NORMS_OF_TIED[defense], rel=1e-3)
