"""Weight averaging and batch norm: what else people attach to a private training."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from test_callback import TEST_SECRET, Module, Plain, blobs, fit, trainer
from torch import nn
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.mixing import replace_batch_norms

pytestmark = pytest.mark.filterwarnings("ignore")


def average(old: torch.Tensor, new: torch.Tensor, count: Any) -> torch.Tensor:
    decay = min(0.9999, (1 + count) / (10 + count))
    return decay * old + (1 - decay) * new


class Watch(pl.Callback):
    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.weights.append(module.my_net.weight.detach().clone())


def check_averaging(first: bool = True) -> None:
    """The average is that of the weights after every noised step, and it is what the fit leaves behind."""
    watch, dpsgd = Watch(), DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    ema = WeightAveraging(avg_fn=average)
    callbacks = [dpsgd, ema] if first else [ema, dpsgd]
    torch.manual_seed(1)
    module = Plain(nn.Linear(8, 3))
    trainer(*callbacks, watch).fit(module, DataLoader(blobs(), batch_size=24))
    expected = watch.weights[0]
    for count, weight in enumerate(watch.weights[1:], start=1):
        expected = average(expected, weight, count)
    torch.testing.assert_close(module.my_net.weight.detach(), expected)
    torch.manual_seed(1)
    alone = Watch()
    trainer(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), alone).fit(Plain(nn.Linear(8, 3)), DataLoader(blobs(), 24))
    for one, other in zip(watch.weights, alone.weights, strict=True):  # and it does not disturb the training
        assert torch.equal(one, other)


@pytest.mark.parametrize("first", [True, False])
def test_averaging(first: bool) -> None:
    check_averaging(first)


class WithBatchNorm(Module):
    def __init__(self, width: int = 20) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)))


def test_fix_trains_what_was_refused() -> None:
    with pytest.raises(ValueError, match=r"layer my_net.1 \(BatchNorm1d\) mixes the records of a batch; .*fix=True"):
        fit(DPSGD(noise_multiplier=1.0), WithBatchNorm())
    module = fit(DPSGD(noise_multiplier=0.5, fix=True), WithBatchNorm())
    assert isinstance(module.my_net[1], nn.GroupNorm)


@pytest.mark.parametrize(
    ("layer", "inputs", "groups"),
    [
        (nn.BatchNorm1d(20), (4, 20), 2),
        (nn.BatchNorm1d(7), (4, 7), 1),
        (nn.BatchNorm2d(64), (4, 64, 1, 1), 8),
        (nn.BatchNorm2d(12, affine=False), (4, 12, 5, 5), 1),
        (nn.BatchNorm3d(16), (4, 16, 2, 2, 2), 2),
    ],
)
def test_groups_keep_features_alive(layer: nn.Module, inputs: tuple[int, ...], groups: int) -> None:
    """A group of one value would be normalized to zero, whatever it said."""
    if layer.affine:
        nn.init.constant_(layer.weight, 2.0)
    network = nn.Sequential(layer).eval()
    assert replace_batch_norms(network) == ["0"]
    new = network[0]
    assert isinstance(new, nn.GroupNorm) and new.num_groups == groups and not new.training
    outputs = new(torch.randn(inputs))
    assert (outputs.flatten(1).std(dim=1) > 0.5).all()
    assert new.weight is None if not layer.affine else bool((new.weight == 2).all())


def test_frozen_batch_norms_stay_and_frozen_parameters_stay_frozen() -> None:
    frozen, half = nn.BatchNorm1d(16).requires_grad_(False).eval(), nn.BatchNorm1d(16)
    half.bias.requires_grad_(False)
    network = nn.Sequential(frozen, half, nn.BatchNorm1d(16), nn.BatchNorm1d(16, affine=False))
    assert replace_batch_norms(network) == ["1", "2", "3"]
    assert network[0] is frozen and not network[0].training
    flags = [[parameter.requires_grad for parameter in layer.parameters()] for layer in network]
    assert flags == [[False, False], [True, False], [True, True], []]
