"""Residual networks: their published sizes, records kept apart, stacks, and DP-SGD with and without batch norm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from palisade.targets.residual import ResNet9, ResNet18
from palisade.targets.stacks import stack
from palisade.train import composed, train_run

RESIDUAL_NETWORKS = (ResNet9, ResNet18)


@pytest.mark.parametrize(("network", "weights"), [(ResNet9, 6_573_130), (ResNet18, 11_173_962)])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_has_as_many_weights_as_published(network: type, weights: int, norm: str) -> None:
    model = network(shape=(3, 32, 32), classes=10, norm=norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights


@pytest.mark.parametrize("network", RESIDUAL_NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9)])
def test_no_layer_mixes_records_with_group_norm(network: type, shape: tuple[int, int, int]) -> None:
    model, x = network(shape=shape, classes=5, width=4), torch.randn(6, *shape)
    assert model(x).shape == (6, 5)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))
    batch = network(shape=shape, classes=5, width=4, norm="batch")
    assert (batch(x)[2:3] - batch(x[2:5])[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("network", RESIDUAL_NETWORKS)
def test_a_stack_answers_as_its_models(network: type) -> None:
    models = [network(shape=(1, 8, 8), classes=4, width=4).double() for _ in range(3)]
    x = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    expected = torch.stack([model(own) for model, own in zip(models, x, strict=True)])
    torch.testing.assert_close(stack(models)(x), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (64,)}, r"network=resnet9: expected images .* not \(64,\); use mlp"),
        ({"shape": (1, 7, 9)}, r"network=resnet9: expected images .* of at least 8×8"),
        ({"norm": "layer"}, "network.norm=layer: expected one of group, batch; choose e.g. group"),
        ({"width": 0}, r"network.width=\[0\]: expected a list, each an integer >= 1"),
    ],
)
def test_refusals_name_value_rule_and_remedy(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet9(**{"shape": (1, 8, 8), "classes": 3, **changes})  # type: ignore[arg-type]


def trained(folder: Path, *overrides: str) -> Path:
    small = (f"runs={folder}", "data=digits", "fleet.models=2", "fleet.workers=1", "split.pool=300", "secret=residual")
    return Path(train_run(composed(*small, "network.width=4", "trainer.epochs=1", *overrides))["folder"])


@pytest.mark.parametrize("network", ["resnet9", "resnet18"])
def test_fleets_are_trained_with_and_without_noise(network: str, tmp_path: Path) -> None:
    trained(tmp_path, f"network={network}", "network.norm=batch")
    private = ("defense=dp_sgd", "defense.trainer.epochs=1", "defense.trainer.batch_size=50", "defense.epsilon=8")
    folder = trained(tmp_path, f"network={network}", *private)
    assert json.loads((folder / "summary.json").read_text())["statement"]["epsilon"] <= 8
    assert json.loads((folder / "private" / "settled.json").read_text())["per_record"] == "fast"


def test_no_claim_is_made_with_batch_norm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BatchNorm2d"):
        trained(tmp_path, "network=resnet9", "network.norm=batch", "defense=dp_sgd")
