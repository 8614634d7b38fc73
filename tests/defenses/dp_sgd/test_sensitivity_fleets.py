"""One record moves the sum by at most C in fleets too, alone and in stacks; `train.py` refuses what would not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call
from test_distributed import train_in_two_processes
from torch import Tensor, nn

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import DPSGDDefense
from palisade.targets.fleet import Defense
from palisade.targets.training import make_fitter

pytestmark = pytest.mark.filterwarnings("ignore")
RECORDS_PER_BATCH, CLIP_NORM = 16, 0.3
SMALL_SETTINGS = [
    "data=digits",
    "network.hidden=[8]",
    "defense=dp_sgd",
    "defense.trainer.epochs=1",
    f"defense.trainer.batch_size={RECORDS_PER_BATCH}",
    "defense.trainer.optimizer.lr=1",
    "defense.trainer.optimizer.momentum=0",
]


@dataclass(frozen=True, kw_only=True)
class Doubled(Defense):
    """A base of one's own that leaves records alone."""

    def loss(self, logits: Tensor, batch: Any, epoch: int) -> Tensor:
        return 2 * super().loss(logits, batch, epoch)


class Token(nn.Module):
    """A parameter of its own, which no layer of the fast way has."""

    def __init__(self, shape: Any, classes: int):
        super().__init__()
        self.token, self.last = nn.Parameter(torch.ones(64)), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) * self.token)


def moved(
    compose: Any, left_out: int | None, *, at_once: int = 1, network: Any = None, **settings: Any
) -> list[Tensor]:
    """The weights of two models, times N, after a step of all members but one."""
    config = compose(*SMALL_SETTINGS)
    config["fleet"] = {"at_once": at_once}
    dataset, secret, membership = from_config(config), Secret.from_text("fleet"), Membership()
    defense = DPSGDDefense(epsilon=float("inf"), max_grad_norm=CLIP_NORM, **settings)
    split = replace(dataset.split, pool=dataset.split.pool[:RECORDS_PER_BATCH])
    fitter = make_fitter({**config, "split": config["split"]}, dataset, secret, [0, 1], membership)
    fitter = replace(fitter, defense=defense, size=RECORDS_PER_BATCH, **({"make_network": network} if network else {}))
    taken = np.ones((2, RECORDS_PER_BATCH), dtype=bool)
    if left_out is not None:
        taken[:, left_out] = False
    states = fitter.train(split, taken).states
    return [RECORDS_PER_BATCH * torch.cat([value.double().flatten() for value in state.values()]) for state in states]


@pytest.mark.parametrize(
    ("settings", "at_once"),
    [
        ({}, 2),
        ({"clipping": "per_layer"}, 2),
        ({"per_record": "alone"}, 1),
        ({"network": Token, "base": Doubled()}, 1),
        *(
            pytest.param(settings, at_once, marks=pytest.mark.slow)
            for settings, at_once in (
                ({}, 1),
                ({"clipping": "automatic"}, 1),
                ({"base": Doubled()}, 2),
                ({"per_record": "functional"}, 1),
                ({"network": Token}, 1),
            )
        ),
    ],
    ids=str,
)
def test_a_member_moves_the_sum_by_at_most_c(compose: Any, settings: dict[str, Any], at_once: int) -> None:
    whole = moved(compose, None, at_once=at_once, **settings)
    for member in range(2):
        for one, other in zip(whole, moved(compose, member, at_once=at_once, **settings), strict=True):
            distance = float((one - other).norm())
            assert (
                0.9 * CLIP_NORM
                < distance
                <= CLIP_NORM * (1 + 1e-5) + RECORDS_PER_BATCH * 2.0**-23 * float(one.norm() / RECORDS_PER_BATCH)
            )


def test_the_ways_agree(compose: Any) -> None:
    ways = [moved(compose, 3, per_record=way) for way in ("fast", "functional", "alone")]
    ways.append(moved(compose, 3, at_once=2, per_record="fast"))
    for other in ways[1:]:
        for one, again in zip(ways[0], other, strict=True):
            torch.testing.assert_close(again, one, rtol=0, atol=1e-5 * CLIP_NORM * RECORDS_PER_BATCH)


def test_stacks_are_not_for_records_one_by_one(compose: Any) -> None:
    with pytest.raises(ValueError, match=r"per_record=.*: expected one model at a time, .*; set fleet.at_once=1"):
        moved(compose, None, at_once=2, per_record="alone")


NETWORK_MODULE = """
from dataclasses import dataclass
import torch
from torch import nn
from palisade.targets.fleet import Defense
from palisade.targets.networks import MLP

class Own(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)
        self.register_buffer("last", torch.zeros(8, 64))

class Hoarding(Own):
    def forward(self, x):
        x = x.flatten(1)
        if self.training and len(x) >= 8:
            self.last = x[-8:].detach().clone()
        return self.layer(x)

class HoardingInPlace(Own):
    def forward(self, x):
        x = x.flatten(1)
        if self.training and len(x) >= 8:
            self.last.data.copy_(x[-8:])
        return self.layer(x)

class Attribute(Own):
    kept = 0.0
    def forward(self, x):
        x = x.flatten(1)
        logits = self.layer(x - self.kept)
        if self.training:
            self.kept = x.detach().mean(0)
        return logits

class Normed(Own):
    def forward(self, x):
        x = x.flatten(1)
        return self.layer((x - x.mean(0)) / (x.std(0, unbiased=False) + 1) if self.training else x)

class Like(MLP):
    def forward(self, x):
        z = super().forward(x)
        return z - z.mean(0) if self.training else z

class Later(Own):
    steps = 0
    def forward(self, x):
        z = self.layer(x.flatten(1))
        if not self.training:
            return z
        self.steps += 1
        return z - z.mean(0) if self.steps > 10 else z

@dataclass(frozen=True, kw_only=True)
class Centered(Defense):
    def loss(self, logits, batch, epoch):
        return super().loss(logits - logits.mean(-2, keepdim=True), batch, epoch)

@dataclass(frozen=True, kw_only=True)
class Hardest(Defense):
    def loss(self, logits, batch, epoch):
        each = super().loss(logits, batch, epoch)
        return each * (each >= each.detach().median())

def Batch(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))
"""
REFUSED_CASES = {
    "network._target_=brought.Hoarding": "network.last is set from the records without noise",
    "network._target_=brought.HoardingInPlace": "network.last is set from the records without noise",
    "network._target_=brought.Attribute": "network.kept of the module follows the records without noise",
    "network._target_=brought.Normed": "couples records",
    "network._target_=brought.Like": "couples records",
    "network._target_=brought.Batch": "mixes the records of a batch; replace it with nn.GroupNorm",
    "defense.base._target_=brought.Centered": "couples records",
    "defense.base._target_=brought.Hardest": "couples records",
}


@pytest.mark.slow
@pytest.mark.parametrize("word", REFUSED_CASES)
def test_what_couples_records_is_refused_before_any_model_is_trained(tmp_path: Path, word: str) -> None:
    (tmp_path / "brought.py").write_text(NETWORK_MODULE)
    done = call("train.py", "data=digits", "defense=dp_sgd", word, folder=tmp_path, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and REFUSED_CASES[word] in done.stderr
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


def test_what_couples_records_later_fails_the_run(tmp_path: Path) -> None:
    """The network is not this project's own, so its steps are looked at, not the first one alone."""
    (tmp_path / "brought.py").write_text(NETWORK_MODULE)
    words = ["data=digits", "defense=dp_sgd", "network._target_=brought.Later", "fleet.models=2"]
    done = call("train.py", *words, "defense.trainer.epochs=2", folder=tmp_path, path=tmp_path)
    assert done.returncode == 2 and "per_record=alone" in done.stderr
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


@pytest.mark.parametrize("other", ["functional", pytest.param("alone", marks=pytest.mark.slow)])
def test_two_processes_add_up_the_same_sum_each_way(tmp_path: Path, other: str) -> None:
    """The share of a process is its own to clip; the noise, of σ = 0 here, is one process's."""
    settings: dict[str, Any] = {"noise_multiplier": 0.0, "max_grad_norm": 0.3}
    sums = []
    for way in ("fast", other):
        (tmp_path / way).mkdir()
        first, second = train_in_two_processes(tmp_path / way, **settings, per_record=way)
        for name, value in first["state"].items():
            assert torch.equal(value, second["state"][name])
        sums.append(first["state"])
    for name, value in sums[0].items():
        torch.testing.assert_close(sums[1][name], value, rtol=0, atol=1e-5)
