"""Backbones of torchvision with weights from a local file: frozen and fine-tuned, with and without a claim."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.card import network_of
from palisade.targets.fleet import Fleet
from palisade.targets.pretrained import Pretrained
from palisade.targets.run import identity
from palisade.targets.statement import Statement
from palisade.targets.training import make_fitter

TINY_ARCHITECTURE, IMAGE_SHAPE = "shufflenet_v2_x0_5", (3, 32, 32)
VISION_FOLDER = Path(sys.prefix) / "vision"
COMPILED_OPERATORS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """The real one: as installed, or its Python part alone, for which two compiled operators must have a name."""
    try:
        import torchvision
    except ImportError:
        if not VISION_FOLDER.is_dir():
            pytest.skip(f"torchvision is neither installed nor in {VISION_FOLDER}")
        library = torch.library.Library("torchvision", "DEF")
        for operator in COMPILED_OPERATORS:
            library.define(operator)
        sys.path.append(str(VISION_FOLDER))
        try:
            import torchvision
        finally:  # new processes have this path, too, and no such operators: Lightning would end them
            sys.path.remove(str(VISION_FOLDER))
        torchvision.names_of_operators = library  # which they have as long as it lives
    return torchvision


@pytest.fixture(scope="module")
def weights(torchvision: Any) -> dict[str, torch.Tensor]:
    """A backbone as if it had been trained on seven classes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torchvision.models.get_model(TINY_ARCHITECTURE, weights=None, num_classes=7)
        network(torch.randn(8, *IMAGE_SHAPE))  # its statistics are those of some images
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def folder(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights in both forms, and 60 color images."""
    folder = tmp_path_factory.mktemp("pretrained")
    save_file(weights, folder / "backbone.safetensors")
    torch.save(weights, folder / "backbone.pth")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, *IMAGE_SHAPE)).astype(np.float32), rng.integers(0, 3, 60)
    x[:, 0] += y[:, None, None]
    np.savez(folder / "colors.npz", x=x, y=y)
    return folder


def settings_of(compose: Any, folder: Path, *overrides: str) -> dict[str, Any]:
    named = (
        "network=pretrained",
        f"network.architecture={TINY_ARCHITECTURE}",
        f"network.path={folder}/backbone.safetensors",
    )
    data = ("data=npz", f"data.path={folder}/colors.npz", "split.pool=40", "split.test=10")
    settings: dict[str, Any] = compose(*named, *data, "trainer.epochs=1", "trainer.batch_size=10", *overrides)
    return settings


def trained(settings: dict[str, Any]) -> tuple[Fleet, Statement, dict[str, str]]:
    dataset, membership, secret = from_config(settings), Membership(), Secret.from_text("backbone")
    fitter = make_fitter(settings, dataset, secret, [0], membership)
    members = membership.draw(dataset.split, [0], secret)
    settled = dict(fitter.defense.settle(fitter, dataset.split, members))
    fleet = fitter.defense.fit(fitter, dataset.split, members)
    assert fleet.predict(dataset.x[dataset.split.test]).shape == (1, 10, 3)
    return fleet, fitter.defense.statement(fleet), settled


def changed(fleet: Fleet, weights: dict[str, torch.Tensor]) -> set[str]:
    """Names of the file's weights that the model has otherwise."""
    state = fleet.states[0]
    assert set(state) == {f"backbone.{name}" for name in weights}
    return {name for name, value in weights.items() if not torch.equal(state[f"backbone.{name}"], value)}


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_a_frozen_backbone_stays_as_it_is(
    compose: Any, folder: Path, weights: dict[str, torch.Tensor], private: bool
) -> None:
    defense = ("defense=dp_sgd", "defense.trainer.epochs=1", "defense.trainer.batch_size=10") if private else ()
    fleet, statement, settled = trained(settings_of(compose, folder, *defense))
    assert changed(fleet, weights) == {"fc.weight", "fc.bias"}
    assert statement.guarantee is private
    assert settled.get("per_record") == ("fast" if private else None)


def test_fine_tuning_moves_all_layers(compose: Any, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    fleet, _, _ = trained(settings_of(compose, folder, "network.frozen=false"))
    assert {"conv1.0.weight", "conv1.1.running_mean", "fc.weight"} <= changed(fleet, weights)


def test_no_claim_is_made_with_batch_norm_that_is_trained(compose: Any, folder: Path) -> None:
    private = ("defense=dp_sgd", "defense.trainer.epochs=1", "defense.trainer.batch_size=10")
    with pytest.raises(ValueError, match="BatchNorm2d") as error:
        trained(settings_of(compose, folder, "network.frozen=false", *private))
    assert "\n" not in str(error.value)


def test_both_forms_of_a_file_give_one_network_and_a_release_needs_none(folder: Path) -> None:
    x, models = torch.randn(2, *IMAGE_SHAPE), []
    for suffix in ("safetensors", "pth"):
        torch.manual_seed(0)
        model = Pretrained(
            shape=IMAGE_SHAPE, classes=3, architecture=TINY_ARCHITECTURE, path=f"{folder}/backbone.{suffix}"
        )
        models.append(model.eval())
    assert torch.equal(models[0](x), models[1](x))
    card: dict[str, Any] = {
        "network": {"name": "palisade.targets.pretrained.Pretrained", "settings": {"architecture": TINY_ARCHITECTURE}},
        "data": {"shape": list(IMAGE_SHAPE), "classes": ["a", "b", "c"]},
    }
    released = network_of(card, None, models[0].state_dict())
    assert torch.equal(released.eval()(x), models[0](x))
    card["network"]["settings"]["path"] = f"{folder}/backbone.pth"
    with pytest.raises(ValueError, match="read from a file of this machine"):
        network_of(card, None, models[0].state_dict())


def test_a_run_is_named_by_the_content_of_the_file(compose: Any, folder: Path, tmp_path: Path) -> None:
    def named(path: Path) -> str:
        settings = settings_of(compose, folder, f"network.path={path}")
        return identity(settings, from_config(settings))

    here, copied, other = folder / "backbone.safetensors", tmp_path / "copied.safetensors", tmp_path / "other.pth"
    copied.write_bytes(here.read_bytes())
    torch.save({"fc.bias": torch.zeros(1)}, other)
    assert named(here) == named(copied) != named(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 32, 32)}, r"network=pretrained: expected images \(3, height, width\), not \(1, 32, 32\)"),
        (
            {"architecture": "resnet"},
            "network.architecture=resnet: expected a classifier of torchvision.models; choose",
        ),
        ({"architecture": "squeezenet1_1"}, "network.architecture=squeezenet1_1: expected a network whose last layer"),
        (
            {"architecture": "resnet18"},
            "expected the weights of network.architecture=resnet18, but [0-9]+ differ, such",
        ),
        ({"path": "nowhere.pth"}, "network.path=nowhere.pth: expected a file of weights"),
        ({"path": __file__}, "expected a .safetensors file or a state_dict of torch.save, and reading it raised"),
        ({"frozen": "yes"}, "network.frozen=yes: expected true or false"),
    ],
)
def test_refusals_name_value_rule_and_remedy(folder: Path, changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "architecture": TINY_ARCHITECTURE,
        "path": str(folder / "backbone.pth"),
        "shape": IMAGE_SHAPE,
    }
    with pytest.raises(ValueError, match=message) as error:
        Pretrained(classes=3, **{**settings, **changes})
    assert "\n" not in str(error.value)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ValueError, match=r"expected torchvision to be installed.*pip install -e '\.\[vision\]'"
    ) as error:
        Pretrained(shape=IMAGE_SHAPE, classes=3, architecture=TINY_ARCHITECTURE)
    assert "\n" not in str(error.value)
