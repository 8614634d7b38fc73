"""Costs of a run in models, minutes and megabytes, before it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palisade.data.dataset import Dataset
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets import workers
from palisade.targets.run import Run

BYTES_PER_FLOAT = 4  # of a float32
FLOP_PER_PARAMETER = 6  # of one record in one step: forward, and backward for inputs and weights
FLOP_PER_SECOND = 2e10  # FLOP/s of one core on small products
COST_KEYS = ("models", "missing", "minutes", "megabytes")  # what adds up over runs
TUNED_PLACEHOLDER = "<tuned>"  # stands for settings that are unknown before they are chosen
STEP_SECONDS = 3e-4  # of a step whatever its size


def cost(run: Run, settings: Mapping[str, Any], dataset: Dataset, missing: Sequence[int]) -> dict[str, Any]:
    """The models to train of a run, time and disk by a rough estimate."""
    from palisade.targets.training import make_fitter, settled

    membership = Membership(**settings["membership"])
    fitter = make_fitter(settings, dataset, Secret.from_text("plan"), models=[0], membership=membership)
    network = fitter.initial_network(0)
    parameters = sum(p.numel() for p in network.parameters())
    schedule = fitter.schedule
    seconds = schedule.steps * (STEP_SECONDS + FLOP_PER_PARAMETER * parameters * schedule.batch_size / FLOP_PER_SECOND)
    seconds *= fitter.defense.cost * fitter.defense.slowdown(network, settled(run.folder))
    models = settings["fleet"]["models"]
    answers = models * (len(dataset.split.pool) + len(dataset.split.test)) * len(dataset.classes)
    return {
        "folder": str(run.folder),
        "models": models,
        "missing": len(missing),
        "minutes": len(missing) * seconds / workers.count(settings["fleet"]["workers"]) / 60,
        "megabytes": BYTES_PER_FLOAT
        * (models * parameters * (1 + settings["fleet"]["keep_checkpoints"]) + answers)
        / 1e6,
    }
