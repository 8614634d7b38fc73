"""Number of models in a stack on a GPU: measured once for each device, network, defense and batch, then remembered.

A GPU waits for the next small product most of the time, so models side by side cost little more than one, until the
device is full, its memory is, or, under DP-SGD, the noise that the CPU draws for all of them no longer hides behind
what the device computes. Each of the three ends the gain of a larger stack, which is what is measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from palisade.data.split import Membership
from palisade.targets.files import write_json
from palisade.targets.fleet import Fitter

MAX_MODELS_PER_STACK = 256
WARM_UP_STEPS, TIMED_STEPS = 3, 10
MIN_GAIN = 0.05
"""Share of a model's time that a stack twice as large has to save."""
USABLE_MEMORY = 0.8
"""Share of the device's free memory that may be planned for: memory is handed out in pieces."""
SIZES_FILE = "stacks.json"


class StepCost(NamedTuple):
    """Seconds of a step of a stack, and bytes of the device that its training took at most."""

    seconds: float
    memory: int


def best_size(cost: Callable[[int], StepCost], limit: int, memory: float) -> int:
    """The smallest stack beyond which larger ones save nothing.

    Args:
        cost: of a step of so many models; raises `torch.OutOfMemoryError` where they do not fit.
        limit: of the size, at least 1.
        memory: bytes that may be used.
    """
    costs = {1: cost(1)}
    size, gainless = 2, 0
    while size <= limit and 2 * costs[size // 2].memory <= memory and gainless < 2:
        try:
            costs[size] = cost(size)
        except torch.OutOfMemoryError:
            break
        before = min(each.seconds / models for models, each in costs.items() if models < size)
        gainless = gainless + 1 if costs[size].seconds / size > before * (1 - MIN_GAIN) else 0
        size *= 2
    fastest = min(each.seconds / models for models, each in costs.items())
    return min(models for models, each in costs.items() if each.seconds / models * (1 - MIN_GAIN) <= fastest)


def measured_size(
    fitter: Fitter, membership: Membership, *, models: int, processes: int, network: Mapping[str, Any], folder: Path
) -> int:
    """The number of models of a fleet to train as one stack, measured unless it is known.

    Args:
        fitter: of one of them, which has a stacked form, on a device that is no CPU.
        membership: how many records they are trained on.
        models: in the fleet.
        processes: that share the device.
        network: its settings.
        folder: of the user's cache.
    """
    limit = min(MAX_MODELS_PER_STACK, 2 ** math.ceil(math.log2(models)))
    defense = [type(each).__name__ for each in (fitter.defense, getattr(fitter.defense, "base", None))]
    shape, classes = fitter.dataset.shape, len(fitter.dataset.classes)
    place = f"{device_name(fitter.device)}, torch {torch.__version__}, {processes} processes"
    facts = [dict(network), defense, list(shape), classes, fitter.recipe.batch_size, limit]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    key, path = f"{place}: {digest}", folder / SIZES_FILE
    known = known_sizes(path)
    if key not in known:
        size = best_size(lambda count: step_cost(fitter, membership, count), limit, free_memory(fitter) / processes)
        folder.mkdir(parents=True, exist_ok=True)
        known = {**known_sizes(path), key: size}
        write_json(path, known)
    return min(known[key], limit)


def known_sizes(path: Path) -> dict[str, int]:
    """Sizes that were measured before; none if their file is missing or damaged, which costs a measurement."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: size for key, size in content.items() if isinstance(size, int) and size >= 1}


class StepClock(pl.Callback):
    """Notes when steps begin, after the device has done all that came before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.starts: list[float] = []

    def follow(self, *_: object) -> StepClock:
        """Itself, as the follower of a fit."""
        return self

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Lightning's hook before a step: the time, waiting for the device only where timing begins and ends."""
        if len(self.starts) in (WARM_UP_STEPS, WARM_UP_STEPS + TIMED_STEPS):
            torch.get_device_module(self.device).synchronize()
        self.starts.append(time.perf_counter())

    def seconds(self) -> float:
        """Mean seconds of the timed steps; of all there were in a fit with fewer."""
        timed = self.starts[WARM_UP_STEPS : WARM_UP_STEPS + TIMED_STEPS + 1]
        timed = timed if len(timed) > 1 else self.starts
        return (timed[-1] - timed[0]) / max(len(timed) - 1, 1)


def step_cost(fitter: Fitter, membership: Membership, models: int) -> StepCost:
    """Cost of a step of so many models, by a short fit that leaves nothing behind."""
    device, clock = fitter.device, StepClock(fitter.device)
    numbers = range(models)
    split = fitter.dataset.split
    short = replace(
        fitter, models=numbers, at_once=models, steps=WARM_UP_STEPS + TIMED_STEPS + 1, tracker=clock, keep_checkpoints=0
    )
    in_use = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        in_use = torch.cuda.memory_allocated(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it ended before its time
        short.train(split, membership.draw(split, numbers, fitter.secret))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return StepCost(clock.seconds(), peak - in_use)


def free_memory(fitter: Fitter) -> float:
    """Bytes of the device that may be planned for; only CUDA tells, others run out of memory or do not."""
    if fitter.device.type != "cuda":
        return math.inf
    torch.cuda.empty_cache()
    return USABLE_MEMORY * torch.cuda.mem_get_info(fitter.device)[0]


def device_name(device: torch.device) -> str:
    """Name of the device's model, whichever of several it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
