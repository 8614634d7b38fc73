"""Trying a network out: what it may be, and that nothing else is touched."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from palisade.data.dataset import from_config
from palisade.targets.network_maker import NetworkMaker


class Watched(nn.Linear):
    """Draws random numbers, and tells how it was called."""

    calls: ClassVar[list[tuple[bool, bool, int]]] = []

    def __init__(self, shape, classes, dtype=torch.float32):
        super().__init__(64, classes, dtype=dtype)

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled(), len(x)))
        torch.rand(3)
        return super().forward(x.flatten(1))


class Counting(Watched):
    """Returns whole numbers."""

    def forward(self, x):
        return super().forward(x).long()


@pytest.fixture(scope="module")
def dataset():
    from palisade.train import composed

    return from_config(composed("data=digits"))


def test_random_numbers_and_records_stay_as_they_are(dataset):
    state, x = torch.get_rng_state(), dataset.x.copy()
    NetworkMaker({"_target_": f"{__name__}.Watched"}).try_out(dataset)
    assert Watched.calls == [(False, False, 2)]
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(dataset.x, x)


def test_whole_numbers_are_no_logits(dataset):
    with pytest.raises(
        ValueError, match=r"Counting: expected logits \(2, 10\) of float32 \(2, 1, 8, 8\), and it returned int64 "
    ):
        NetworkMaker({"_target_": f"{__name__}.Counting"}).try_out(dataset)


def test_networks_of_this_project_say_themselves_what_is_wrong():
    with pytest.raises(ValueError, match=r"^network\.hidden=3"):
        NetworkMaker({"_target_": "palisade.targets.networks.MLP", "hidden": 3})(shape=(3,), classes=2)


def test_the_cause_of_an_error_keeps_its_traceback():
    with pytest.raises(ValueError, match=r"dtype=3 \(TypeError: ") as error:
        NetworkMaker({"_target_": f"{__name__}.Watched", "dtype": 3})(shape=(3,), classes=2)
    assert isinstance(error.value.__cause__, TypeError)


def test_a_network_larger_than_memory_is_refused_before_it_is_made():
    """The system would kill the process; its weights take terabytes here."""
    node = {"_target_": "palisade.targets.networks.MLP", "hidden": [10**6, 10**6]}
    with pytest.raises(ValueError, match=r"^network\._target_=.*MLP: expected weights that fit .* not 4,0\d\d GB; "):
        NetworkMaker(node)(shape=(8,), classes=2)


def test_counting_the_weights_of_a_network_leaves_randomness_as_it_was():
    node = {"_target_": "palisade.targets.networks.MLP", "hidden": [4]}
    counted, again = [], []
    for networks in (counted, again):  # the second time the count is known
        torch.manual_seed(0)
        networks += NetworkMaker(node)(shape=(7,), classes=3).parameters()
    assert all(torch.equal(one, other) for one, other in zip(counted, again, strict=True))
