"""A GPU in ten minutes: same models as on the CPU, milliseconds a step, and what host and device ask of each other.

    python benchmarks/gpu.py                       # on the first NVIDIA GPU; --device cuda:1, …
    python benchmarks/gpu.py --device cpu --tiny   # runs every line in seconds, and measures nothing

No data are downloaded: records are random and of the shapes of Location30 and CIFAR-10, on which time depends alone. So
the minutes to train ResNet-9 on half of CIFAR-10 follow from a number of epochs and not from an accuracy. Sections that
would go beyond `--minutes` are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: of deterministic products

import numpy as np
import torch

from palisade.data.dataset import from_config
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets import device
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.stack_size import device_name, step_cost
from palisade.targets.training import make_fitter
from palisade.train import composed

SAME_STEPS, MAX_DIFFERENCE = 20, 1e-4
COUNTED_STEPS = 10
RESNET_MODELS, RESNET_EPOCHS, RESNET_RECORDS, RESNET_MINUTES = 64, 30, 25_000, 15
"""Half of CIFAR-10; ResNet-9 reached 94 % on all of it after 24 epochs in DAWNBench (Page 2018)."""
PRIVATE_SETTINGS = ("defense=dp_sgd", "defense.epsilon=8")
DEVICE_EVENTS = {
    "kernels": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel"),
    "copies": ("cudaMemcpyAsync", "cudaMemcpy"),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
}
"""Calls of the CUDA runtime, as the profiler names them; copies are both ways and on the device."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Amounts that are measured.

    Args:
        stacks: models side by side of an MLP.
        image_stacks: models side by side of ResNet-9.
        width: channels of ResNet-9's first layer.
        images: of its data.
        image_batch: records of its steps.
    """

    stacks: tuple[int, ...] = (1, 8, 64, 256)
    image_stacks: tuple[int, ...] = (1, 2, 4, 8)
    width: int = 64
    images: int = 12_000
    image_batch: int = 512


TINY_SIZES = Sizes(stacks=(1, 2), image_stacks=(1,), width=4, images=80, image_batch=8)


def write_records(folder: Path, images: int) -> None:
    """Random records of Location30's shape and random images of CIFAR-10's."""
    rng = np.random.default_rng(0)
    x = (rng.random((5000, 446)) < 0.15).astype(np.float32)
    np.savez(folder / "table.npz", x=x, y=rng.integers(0, 30, len(x)))
    x = rng.random((images, 3, 32, 32), dtype=np.float32)
    np.savez(folder / "images.npz", x=x, y=rng.integers(0, 10, len(x)))


def fitter_of(data: Path, *overrides: str, at_once: int = 1) -> tuple[Fitter, Membership]:
    """Trains models on the device by these settings, defended or not by one recipe."""
    settings: dict[str, Any] = composed("data=npz", f"data.path={data}", "split.population=0", *overrides)
    settings["defense"].pop("trainer", None)
    membership = Membership(**settings["membership"])
    alone = {**settings, "fleet": {**settings["fleet"], "at_once": at_once}}
    fitter = make_fitter(alone, from_config(settings), Secret.from_text("gpu"), range(at_once), membership)
    return fitter, membership


def table_fitter(folder: Path, *overrides: str, at_once: int = 1) -> tuple[Fitter, Membership]:
    """446-128-30 at batch 64 with Adam."""
    mlp = ("network=mlp", "network.hidden=[128]", "trainer.epochs=2", "trainer.batch_size=64")
    recipe = ("trainer.optimizer.lr=1e-3", "split.pool=4000")
    return fitter_of(folder / "table.npz", *mlp, *recipe, *overrides, at_once=at_once)


def trained(fitter: Fitter, membership: Membership, steps: int) -> Fleet:
    """Models after so many steps."""
    split = fitter.dataset.split
    rows = membership.draw(split, fitter.models, fitter.secret)
    return replace(fitter, steps=steps).train(split, rows)


def difference(one: Fleet, other: Fleet) -> float:
    """Largest difference of a weight."""
    pairs = zip(one.states, other.states, strict=True)
    return max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a)


def same_models(folder: Path, sizes: Sizes) -> None:
    """Weights after 20 steps against the CPU's, and of the same stack twice."""
    models = sizes.stacks[1]
    for name, overrides in (("plain", ()), ("DP-SGD", PRIVATE_SETTINGS)):
        fitter, membership = table_fitter(folder, *overrides, at_once=models)
        here = trained(replace(fitter, device=CPU), membership, SAME_STEPS)
        torch.use_deterministic_algorithms(True)
        try:
            twice = [trained(fitter, membership, SAME_STEPS) for _ in range(2)]
        finally:
            torch.use_deterministic_algorithms(False)
        off = difference(here, twice[0])
        repeated = "yes" if difference(*twice) == 0 else "NO"
        print(f"{name:8s}{SAME_STEPS} steps of {models} models, off by {off:.1e} (at most {MAX_DIFFERENCE:g})", end="")
        print(f"{'' if off <= MAX_DIFFERENCE else ' MISSED'}; twice bit-equal: {repeated}")


def step_times(folder: Path, sizes: Sizes) -> None:
    """Milliseconds a step and model, by models side by side."""
    print(f"{'446-128-30, batch 64':24s}" + "".join(f"{models:>9d}" for models in sizes.stacks) + "  models at once")
    for name, overrides in (("plain", ()), ("DP-SGD", PRIVATE_SETTINGS)):
        fitter, membership = table_fitter(folder, *overrides)
        costs = [step_cost(fitter, membership, models).seconds / models for models in sizes.stacks]
        print(f"{name:24s}" + "".join(f"{1000 * cost:9.4f}" for cost in costs) + "  ms a step and model", flush=True)


def device_calls(folder: Path, sizes: Sizes) -> None:
    """Kernels, copies and waits of a step, as the difference of a longer and a shorter fit."""
    if device.chosen().type != "cuda":
        print("calls of the device: none on a CPU")
        return
    models = sizes.stacks[1]
    for name, overrides in (("plain", ()), ("DP-SGD", PRIVATE_SETTINGS)):
        fitter, membership = table_fitter(folder, *overrides, at_once=models)
        counts = []
        for steps in (COUNTED_STEPS, 2 * COUNTED_STEPS):
            activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profile:
                trained(fitter, membership, steps)
            counts.append(Counter({event.key: event.count for event in profile.key_averages()}))
        each = {
            kind: sum(counts[1][call] - counts[0][call] for call in calls) / COUNTED_STEPS
            for kind, calls in DEVICE_EVENTS.items()
        }
        print(f"{name:8s}a step of {models} models: " + ", ".join(f"{value:g} {kind}" for kind, value in each.items()))


def resnet_minutes(folder: Path, sizes: Sizes) -> None:
    """Milliseconds a step and model of ResNet-9, and the minutes of a fleet that follow."""
    network = ("network=resnet9", f"network.width={sizes.width}", f"trainer.batch_size={sizes.image_batch}")
    pool = ("split.pool=0.9", "trainer.epochs=2", "trainer.optimizer.lr=1e-3")
    for name, overrides in (("plain", ()), ("DP-SGD", PRIVATE_SETTINGS)):
        fitter, membership = fitter_of(folder / "images.npz", *network, *pool, *overrides)
        costs = {}
        for models in sizes.image_stacks:
            try:
                costs[models] = step_cost(fitter, membership, models).seconds / models
            except torch.OutOfMemoryError:
                break
        models, seconds = min(costs.items(), key=lambda item: item[1])
        images = sizes.image_batch / seconds
        minutes = RESNET_MODELS * RESNET_EPOCHS * RESNET_RECORDS / images / 60
        steps = ", ".join(f"{count}: {1000 * cost:.2f}" for count, cost in costs.items())
        print(f"ResNet-9, {name}: ms a step of {sizes.image_batch} and model by models at once {steps}")
        print(
            f"  {images:,.0f} images/s with {models} at once: {minutes:.1f} minutes for {RESNET_MODELS} models,", end=""
        )
        print(f" {RESNET_EPOCHS} epochs each (goal {RESNET_MINUTES}, undefended)", flush=True)


MEASURED_SECTIONS: tuple[Callable[[Path, Sizes], None], ...] = (same_models, step_times, device_calls, resnet_minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …, mps; cpu to try the script out")
    parser.add_argument("--tiny", action="store_true", help="sizes that run in seconds and measure nothing")
    parser.add_argument("--minutes", type=float, default=9, help="after which no section is begun")
    arguments = parser.parse_args()
    try:
        device.choose(arguments.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sizes, began = TINY_SIZES if arguments.tiny else Sizes(), time.perf_counter()
    print(f"{device_name(device.chosen())}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder), sizes.images)
        for section in MEASURED_SECTIONS:
            spent = (time.perf_counter() - began) / 60
            if spent > arguments.minutes:
                print(f"{section.__name__}: left out after {spent:.1f} minutes")
                continue
            section(Path(folder), sizes)


if __name__ == "__main__":
    main()
