"""Residual networks: their published sizes, records kept apart, stacks, and DP-SGD with and without batch norm."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.residual import ResNet9, ResNet18, WideResNet16
from palisade.targets.stacks import stack
from palisade.train import composed, train_run

RESIDUAL_NETWORKS = (ResNet9, ResNet18, WideResNet16)
SMALL_WIDTHS = {"resnet9": 4, "resnet18": 4, "wrn16_4": 1}
CLIP_NORM = 0.5


@pytest.mark.parametrize(("network", "weights"), [(ResNet9, 6_573_130), (ResNet18, 11_173_962)])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_has_as_many_weights_as_published(network: type, weights: int, norm: str) -> None:
    model = network(shape=(3, 32, 32), classes=10, norm=norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights


def test_wide_resnet_is_the_one_of_the_authors_code() -> None:
    model = WideResNet16(shape=(3, 32, 32), classes=10)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    by_kernel = [sum(c.kernel_size == (side, side) for c in convolutions) for side in (3, 1)]
    assert by_kernel == [13, 3]  # 16 layers with the last, and a shortcut for each stage
    filters = [16 * 27, *(64 * 16 * 9, *[64 * 64 * 9] * 3), *(128 * 64 * 9, *[128 * 128 * 9] * 3)]
    filters += [256 * 128 * 9, *[256 * 256 * 9] * 3, 64 * 16, 128 * 64, 256 * 128]
    gains_and_biases = 2 * (16 + 5 * 64 + 5 * 128 + 5 * 256)
    norms = 2 * (2 * 16 + 4 * 64 + 64 + 4 * 128 + 128 + 4 * 256)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == sum(filters) + gains_and_biases + norms + 256 * 10 + 10
    assert all(m.num_groups == 16 for m in model.modules() if isinstance(m, torch.nn.GroupNorm))


@pytest.mark.parametrize("network", RESIDUAL_NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9)])
def test_no_layer_mixes_records_with_group_norm(network: type, shape: tuple[int, int, int]) -> None:
    model, x = network(shape=shape, classes=5, width=2), torch.randn(6, *shape)
    assert model(x).shape == (6, 5)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))
    if network is not WideResNet16:
        batch = network(shape=shape, classes=5, width=4, norm="batch")
        assert (batch(x)[2:3] - batch(x[2:5])[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("network", RESIDUAL_NETWORKS)
def test_a_stack_answers_as_its_models(network: type) -> None:
    models = [network(shape=(1, 8, 8), classes=4, width=2).double() for _ in range(3)]
    x = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    expected = torch.stack([model(own) for model, own in zip(models, x, strict=True)])
    torch.testing.assert_close(stack(models)(x), expected)


@pytest.mark.parametrize("network", RESIDUAL_NETWORKS)
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
def test_norms_and_clipped_sums_are_those_of_autograd(network: type, stacked: bool) -> None:
    torch.manual_seed(0)
    models = [network(shape=(3, 16, 16), classes=4, width=1 if network is WideResNet16 else 8) for _ in range(2)]
    models = models if stacked else models[:1]
    x, y = torch.randn(len(models), 4, 3, 16, 16), torch.randint(0, 4, (len(models), 4))
    trained = stack(models) if stacked else copy.deepcopy(models[0])
    engine = Engine(trained, clipping=Flat(CLIP_NORM, models=len(models)), stacked=stacked)
    engine.attach()
    logits = trained(x if stacked else x[0])
    torch.nn.functional.cross_entropy(logits.flatten(end_dim=-2), y.flatten(), reduction="sum").backward()
    norms = engine.clip((len(models), 4) if stacked else (4,), scale=1.0).view(len(models), 4)
    sums = {name: total for (name, _), total in zip(trained.named_parameters(), engine.take(), strict=True)}
    for k, model in enumerate(models):
        expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        for i in range(4):
            loss = torch.nn.functional.cross_entropy(model(x[k, i : i + 1]), y[k, i : i + 1])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            norm = sum(g.square().sum() for g in gradients).sqrt()
            torch.testing.assert_close(norms[k, i], norm, atol=0, rtol=1e-4)
            for total, g in zip(expected.values(), gradients, strict=True):
                total += g * (CLIP_NORM / norm).clamp(max=1)
        for name, total in expected.items():
            own = sums[name][k] if stacked else sums[name]
            own = own.mT if stacked and name.endswith("weight") and own.shape != total.shape else own
            torch.testing.assert_close(own, total, atol=1e-5, rtol=1e-4)


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
    return Path(train_run(composed(*small, "trainer.epochs=1", *overrides))["folder"])


@pytest.mark.parametrize("network", ["resnet9", pytest.param("resnet18", marks=pytest.mark.slow), "wrn16_4"])
def test_fleets_are_trained_with_and_without_noise(network: str, tmp_path: Path) -> None:
    named = (f"network={network}", f"network.width={SMALL_WIDTHS[network]}")
    trained(tmp_path, *named, *([] if network == "wrn16_4" else ["network.norm=batch"]))
    private = ("defense=dp_sgd", "defense.trainer.epochs=1", "defense.trainer.batch_size=50", "defense.epsilon=8")
    folder = trained(tmp_path, *named, *private)
    assert json.loads((folder / "summary.json").read_text())["statement"]["epsilon"] <= 8
    assert json.loads((folder / "private" / "settled.json").read_text())["per_record"] == "fast"


@pytest.mark.slow
def test_a_stack_of_standardized_networks_is_its_models_trained_alone(tmp_path: Path) -> None:
    private = ("defense=dp_sgd", "defense.trainer.epochs=1", "defense.trainer.batch_size=50", "defense.epsilon=8")
    named = ("network=wrn16_4", "network.width=1", "split.pool=120", *private)
    alone, stacked = (trained(tmp_path / str(n), *named, f"fleet.at_once={n}") for n in (1, 2))
    one, other = (load_file(folder / "models" / "1.safetensors") for folder in (alone, stacked))
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_no_claim_is_made_with_batch_norm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BatchNorm2d"):
        trained(tmp_path, "network=resnet9", "network.width=4", "network.norm=batch", "defense=dp_sgd")
