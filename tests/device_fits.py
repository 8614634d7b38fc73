"""Fleets trained on a chosen device straight from a configuration, and their comparison bit by bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from simulated_device import SIMULATED_DEVICE, Costs, counting
from torch import Tensor

from palisade.data.dataset import from_config
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets import training
from palisade.targets.fleet import Fleet
from palisade.targets.training import make_fitter
from palisade.train import train_run

SETTLED_FAST = {"per_record": "fast", "reason": "as a run settles it once, before its first model"}
QUICK_DP_SGD = ["defense=dp_sgd", "defense.epsilon=600"]
"""Above 512 calibration takes no time."""


def shortened(node: Mapping[str, Any], **trainer: Any) -> dict[str, Any]:
    """A defense with these settings of the trainer, and its bases too, whatever their own say."""
    base = {"base": shortened(node["base"], **trainer)} if "base" in node else {}
    own = {"trainer": {**node["trainer"], **trainer}} if node.get("trainer") else {}
    return {**node, **base, **own}


def with_trainer(settings: Mapping[str, Any], **trainer: Any) -> dict[str, Any]:
    """Settings of a run with these of the trainer, for all stages of the defense."""
    defense = shortened(settings["defense"], **trainer)
    return {**settings, "trainer": {**settings["trainer"], **trainer}, "defense": defense}


def trained(settings: Mapping[str, Any], models: int, device: torch.device, **changes: Any) -> Fleet:
    """Models of a run, in one stack.

    Args:
        settings: of the run.
        models: how many.
        device: where.
        changes: fields of the `Fitter` that differ.
    """
    dataset, secret = from_config(settings), Secret.from_text("devices")
    membership, numbers = Membership(**settings["membership"]), list(range(models))
    settings = {**settings, "fleet": {**settings["fleet"], "at_once": models}}
    fitter = replace(make_fitter(settings, dataset, secret, numbers, membership), device=device, **changes)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, numbers, secret))


def check_equal(settings: Mapping[str, Any], models: int, **changes: Any) -> Costs:
    """Trains on the CPU and on the device, and compares weights, checkpoints and answers bit by bit."""
    here = trained(settings, models, CPU, **changes)
    with counting() as costs:
        there = trained(settings, models, SIMULATED_DEVICE, **changes)
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    check_states(here.states, there.states)
    for one, other in zip(here.checkpoints, there.checkpoints, strict=True):
        assert one.keys() == other.keys()
        check_states(one.values(), other.values())
    x = from_config(settings).x[:50]
    with counting() as costs_of_answers:
        answers = there.predict(x)
    assert costs_of_answers.total["kernel"] > 0 and costs_of_answers.total["random"] == 0
    assert np.array_equal(here.predict(x), answers)
    return costs


def check_states(here: Iterable[Mapping[str, Tensor]], there: Iterable[Mapping[str, Tensor]]) -> None:
    """Equality of weights, those from the device having left it."""
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name].device == CPU
            assert torch.equal(one[name], other[name]), name


def train_on_device(settings: Mapping[str, Any]) -> None:
    """Trains a run on the device, in a process that does nothing else or within a patch of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "chosen", lambda: SIMULATED_DEVICE)
        train_run(settings)
