"""A tensor that is left on the CPU, or a random number drawn on the device, stops a fit there at its very line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from simulated_device import SIMULATED_DEVICE, counting

from palisade.data import draws
from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import noise
from palisade.defenses.dp_sgd.clipping import Adaptive
from palisade.defenses.dropout import DroppedOut
from palisade.targets.stacks import embedding, stack
from palisade.targets.training import make_fitter
from palisade.targets.transformer import Transformer

REPOSITORY_ROOT = Path(__file__).parents[2]
Patch = pytest.MonkeyPatch
ADAPTIVE_CLIPPING = ["defense=dp_sgd", "defense.clipping=adaptive"]
SMALL_MLP = ["data=digits", "network=mlp", "network.hidden=[16]", "split.pool=200"]


def fit(settings: Any) -> None:
    """Trains two models in a stack on the device for an epoch."""
    trainer, defense = {"epochs": 1, "batch_size": 32}, settings["defense"]
    defense = {**defense, "trainer": {**defense["trainer"], **trainer}} if "trainer" in defense else defense
    settings = {**settings, "trainer": {**settings["trainer"], **trainer}, "defense": defense}
    settings = {**settings, "fleet": {**settings["fleet"], "at_once": 2}}
    dataset, secret, membership = from_config(settings), Secret.from_text("x"), Membership(**settings["membership"])
    fitter = replace(make_fitter(settings, dataset, secret, [0, 1], membership), device=SIMULATED_DEVICE)
    fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, [0, 1], secret))


def check_stopped(run: Callable[[], object], source: str, line: str, reason: str) -> None:
    """The error comes from this line of this file, the innermost of the project's."""
    with pytest.raises(RuntimeError, match=reason) as error:
        run()
    folders = [REPOSITORY_ROOT / folder for folder in ("data", "defenses", "targets")]
    own = [entry for entry in error.traceback if any(Path(entry.path).is_relative_to(folder) for folder in folders)]
    assert own[-1].path == REPOSITORY_ROOT / source
    assert line in str(own[-1].statement)


def on_the_cpu(values: Any, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values)


def noise_not_moved(patch: Patch) -> None:
    patch.setattr(noise, "sent", on_the_cpu)


def bounds_by_torch_tensor(patch: Patch) -> None:
    patch.setattr(Adaptive, "bound", lambda self, norms: torch.tensor(self.bounds).view(*norms.shape[:-1], 1))


def draws_not_moved(patch: Patch) -> None:
    patch.setattr(draws, "sent", on_the_cpu)


def arange_without_device(patch: Patch) -> None:
    class Torch:
        arange = staticmethod(lambda count, device: torch.arange(count))

    patch.setattr(embedding, "torch", Torch)


@pytest.mark.parametrize(
    ("plant", "overrides", "source", "line"),
    [
        (noise_not_moved, ["defense=dp_sgd"], "defenses/dp_sgd/step.py", "_foreach_add_("),
        (bounds_by_torch_tensor, ADAPTIVE_CLIPPING, "defenses/dp_sgd/clipping.py", "clamp(min=bound)"),
        (draws_not_moved, ["defense=dropout"], "defenses/dropout.py", "where(mask"),
        (draws_not_moved, ["defense=mixup"], "defenses/mixup.py", "ranks.where("),
    ],
)
def test_what_is_left_on_the_cpu_stops_a_fit(compose, monkeypatch, plant, overrides, source, line):
    plant(monkeypatch)
    check_stopped(lambda: fit(compose(*SMALL_MLP, *overrides)), source, line, "same device")


def test_places_left_on_the_cpu_stop_a_stack_of_embeddings(monkeypatch):
    networks = [Transformer(shape=(6,), classes=3, buckets=10, width=8, depth=1, heads=2) for _ in range(2)]
    network, words = stack(networks).to(SIMULATED_DEVICE), torch.randint(10, (2, 4, 6)).to(SIMULATED_DEVICE)
    assert network(words).shape == (2, 4, 3)
    arange_without_device(monkeypatch)
    check_stopped(lambda: network(words), "targets/stacks/embedding.py", "x + first", "same device")


def test_random_numbers_of_the_device_stop_a_fit(compose, monkeypatch):
    monkeypatch.setattr(DroppedOut, "forward", lambda self, x: torch.nn.functional.dropout(self.activation(x)))
    with counting() as costs, pytest.raises(RuntimeError, match="draws random numbers on the device"):
        fit(compose(*SMALL_MLP, "defense=dropout"))
    assert costs.total["random"] == 1
