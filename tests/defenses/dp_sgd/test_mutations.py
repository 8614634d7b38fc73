"""Faults that once shipped in published examples, planted one by one: the suite's checks must notice each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_callback import check_clipping, check_noise, check_poisson

from defenses.dp_sgd import callback, engine, optimizer, sampling
from defenses.dp_sgd.gaussian import gaussian

pytestmark = pytest.mark.filterwarnings("ignore")
Patch = pytest.MonkeyPatch


def no_noise(patch: Patch) -> None:
    patch.setattr(optimizer.NoisyOptimizer, "add_noise", lambda self: None)


def half_the_noise(patch: Patch) -> None:
    drawn = optimizer.NoisyOptimizer._noise
    patch.setattr(optimizer.NoisyOptimizer, "_noise", lambda self, draw: [z / 2 for z in drawn(self, draw)])


def the_same_noise_in_every_step(patch: Patch) -> None:
    bits = callback.Secret.bits
    patch.setattr(callback.Secret, "bits", lambda self, purpose, k, t, *, count: bits(self, purpose, k, 0, count=count))


def the_same_noise_twice_in_a_step(patch: Patch) -> None:
    def halved(bits: Any, out: Any, *, scale: float) -> Any:
        gaussian(bits[: len(bits) // 2], out[: len(bits) // 2], scale=scale)
        out[len(bits) // 2 :] = out[: len(bits) // 2]
        return out

    patch.setattr(optimizer, "gaussian", halved)


def double_clipping_norm(patch: Patch) -> None:
    made = engine.Engine.__init__

    def init(self: Any, network: Any, *, max_grad_norm: float, stacked: bool = False) -> None:
        made(self, network, max_grad_norm=2 * max_grad_norm, stacked=stacked)

    patch.setattr(engine.Engine, "__init__", init)


def no_clipping(patch: Patch) -> None:
    clip = engine.Engine.clip

    def unclipped(self: Any, records: Any, scale: float) -> Any:
        self.max_grad_norm = 1e12
        return clip(self, records, scale)

    patch.setattr(engine.Engine, "clip", unclipped)


def clipping_after_averaging(patch: Patch) -> None:
    clip = engine.Engine.clip
    patch.setattr(engine.Engine, "clip", lambda self, records, scale: clip(self, records, 1.0))


def shuffling_for_poisson(patch: Patch) -> None:
    def shuffled(self: Any) -> Any:
        size = round(self.rate * self.records)
        return iter(torch.randperm(self.records).view(-1, size).tolist())

    patch.setattr(sampling.PoissonSteps, "__iter__", shuffled)


def rate_from_the_wrong_size(patch: Patch) -> None:
    drawn = sampling.PoissonSteps.__init__

    def init(self: Any, *, rate: float, **rest: Any) -> None:
        drawn(self, rate=rate * 0.8, **rest)

    patch.setattr(sampling.PoissonSteps, "__init__", init)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (no_noise, check_noise),
        (half_the_noise, check_noise),
        (the_same_noise_in_every_step, check_noise),
        (the_same_noise_twice_in_a_step, check_noise),
        (double_clipping_norm, check_clipping),
        (no_clipping, check_clipping),
        (clipping_after_averaging, check_clipping),
        (shuffling_for_poisson, check_poisson),
        (rate_from_the_wrong_size, check_poisson),
    ],
)
def test_planted_fault_is_noticed(
    plant: Callable[[Patch], None], check: Callable[[], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()
