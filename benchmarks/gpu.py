"""A GPU in ten minutes: same models as on the CPU, milliseconds a step, images a second, and counts of what steps ask.

    python benchmarks/gpu.py --root <folder of CIFAR-10> --out gpu.md   # on the first NVIDIA GPU; --device cuda:1, …
    python benchmarks/gpu.py --device cpu --tiny                        # runs in seconds, and measures nothing

No data are downloaded. Without `--root` records are random and of the shapes of Location30 and CIFAR-10, on which time
depends alone, and no accuracy is measured. `--out` writes what is printed as a page that `docs/performance.md` can take
in. Sections that would begin after `--minutes` are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: of deterministic products

import numpy as np
import pytorch_lightning as pl
import torch

from palisade.data.dataset import Dataset, from_config
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets import device
from palisade.targets.fleet import Fitter, Fleet
from palisade.targets.stack_size import device_name, step_cost
from palisade.targets.training import make_fitter
from palisade.train import composed

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from simulated_device import SIMULATED_DEVICE, counting  # before the first backward pass, which fixes PyTorch's devices

SAME_STEPS, MAX_DIFFERENCE = 20, 1e-4
COUNTED_STEPS = 5
RESNET_MODELS, RESNET_EPOCHS, RESNET_RECORDS, RESNET_MINUTES = 64, 30, 25_000, 15
"""Half of CIFAR-10; ResNet-9 reached 94 % on all of it after 24 epochs in DAWNBench (Page 2018)."""
ACCURACY_GOAL = 0.94
PUBLISHED_STEPS, PUBLISHED_BATCH, PUBLISHED_COPIES = 875, 4096, 16
"""Recipe of `experiment=dp_cifar10`; images a second are those of copies, which all go through the network."""
PRIVATE_SETTINGS = ("defense=dp_sgd", "defense.epsilon=8")
DEVICE_EVENTS = {
    "kernels": ("cudaLaunchKernel", "cuLaunchKernel"),
    "copies to it": ("Memcpy HtoD",),
    "copies from it": ("Memcpy DtoH",),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
}
"""Beginnings of the profiler's names for calls of the CUDA runtime and for copies."""
SIMULATED_EVENTS = {
    "kernels": "kernel",
    "copies to it": "host_to_device",
    "copies from it": "device_to_host",
    "waits": "synchronization",
}
COUNTED_FITS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "DP-SGD": PRIVATE_SETTINGS,
    "DP-SGD in parts": (*PRIVATE_SETTINGS, "+defense.max_physical_batch=32"),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Amounts that are measured.

    Args:
        stacks: models side by side of an MLP.
        image_stacks: models side by side of ResNet-9.
        width: channels of ResNet-9's first layer.
        images: of its data.
        image_batch: records of its steps.
        private_width: factor of WRN-16's channels.
        private_batch: records of its private steps.
        copies: of each of these records.
        epochs: that ResNet-9 is trained for an accuracy.
    """

    stacks: tuple[int, ...] = (1, 8, 64, 256)
    image_stacks: tuple[int, ...] = (1, 2, 4, 8)
    width: int = 64
    images: int = 12_000
    image_batch: int = 512
    private_width: int = 4
    private_batch: int = 512
    copies: int = PUBLISHED_COPIES
    epochs: int = RESNET_EPOCHS


TINY_SIZES = Sizes(
    stacks=(1, 2), image_stacks=(1,), width=4, images=80, image_batch=8,
    private_width=1, private_batch=8, copies=2, epochs=1,
)  # fmt: skip


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
    """Kernels, copies and waits of a step beside those of the simulated device, line by line."""
    models, chosen = sizes.stacks[1], device.chosen()
    print(f"{f'a step of {models} models':34s}{device_name(chosen)[:14]:>16s}{'simulated':>12s}")
    for name, overrides in COUNTED_FITS.items():
        fitter, membership = table_fitter(folder, *overrides, at_once=models)
        simulated, real = [], []
        for steps in (COUNTED_STEPS, 2 * COUNTED_STEPS):
            with counting() as costs:
                trained(replace(fitter, device=SIMULATED_DEVICE), membership, steps)
            simulated.append(costs.total)
            if chosen.type == "cuda":
                real.append(profiled(fitter, membership, steps))
        for kind, key in SIMULATED_EVENTS.items():
            expected = (simulated[1][key] - simulated[0][key]) / COUNTED_STEPS
            there = f"{(real[1][kind] - real[0][kind]) / COUNTED_STEPS:g}" if real else "–"
            print(f"{f'{name}, {kind}':34s}{there:>16s}{expected:>12g}", flush=True)


def profiled(fitter: Fitter, membership: Membership, steps: int) -> Counter[str]:
    """Events of a fit on a GPU, by kind."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        trained(fitter, membership, steps)
    events: Counter[str] = Counter()
    for event in profile.key_averages():
        for kind, beginnings in DEVICE_EVENTS.items():
            events[kind] += event.count if event.key.startswith(beginnings) else 0
    return events


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


def private_images(folder: Path, sizes: Sizes) -> None:
    """Images a second of WRN-16-4 under DP-SGD by the recipe of `experiment=dp_cifar10`, and its hours."""
    recipe = (
        *PRIVATE_SETTINGS,
        "defense.delta=1e-5",
        "defense.weight_averaging=true",
        "defense@defense.base=augmentation",
    )
    copies = ("defense.base.kind=crop_flip", "defense.base.amount=4", f"+defense.augmentations={sizes.copies}")
    parts = ("+defense.max_physical_batch=1024", f"trainer.batch_size={sizes.private_batch}", "trainer.epochs=3")
    network = ("network=wrn16_4", f"network.width={sizes.private_width}", "trainer.optimizer.lr=1", "split.pool=0.9")
    fitter, membership = fitter_of(folder / "images.npz", *network, *recipe, *copies, *parts)
    rows = sizes.private_batch * sizes.copies / step_cost(fitter, membership, 1).seconds
    hours = PUBLISHED_STEPS * PUBLISHED_BATCH * PUBLISHED_COPIES / rows / 3600
    print(
        f"WRN-16-{sizes.private_width}, DP-SGD: {rows:,.0f} images/s, {sizes.copies} copies of a record each;", end=""
    )
    print(f" {hours:.1f} hours for {PUBLISHED_STEPS} steps of {PUBLISHED_BATCH} records", flush=True)


class Accuracies(pl.Callback):
    """Accuracy on the test records after each epoch."""

    def __init__(self) -> None:
        self.reached: list[float] = []

    def follow(
        self, models: Sequence[int], predict: Callable[[np.ndarray], np.ndarray], members: object, dataset: Dataset
    ) -> Accuracies:
        """Itself, as the follower of a fit."""
        self.predict, self.dataset = predict, dataset
        return self

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch."""
        test = self.dataset.split.test
        right = self.predict(self.dataset.x[test])[0].argmax(axis=-1) == self.dataset.y[test]
        self.reached.append(float(right.mean()))


def resnet_accuracy(root: Path | None, sizes: Sizes, *overrides: str) -> None:
    """Accuracy of one ResNet-9 of `experiment=cifar10_fleet` by epoch, and the minutes of its 64 models."""
    if root is None:
        print("ResNet-9 to 94 %: left out without --root, the folder of CIFAR-10")
        return
    smaller = (f"network.width={sizes.width}", f"trainer.epochs={sizes.epochs}")
    settings = composed("experiment=cifar10_fleet", f"data.root={root}", *smaller, *overrides)
    membership, accuracies = Membership(**settings["membership"]), Accuracies()
    fitter = make_fitter(settings, from_config(settings), Secret.from_text("gpu"), [0], membership)
    began = time.perf_counter()
    split = fitter.dataset.split
    replace(fitter, tracker=accuracies).train(split, membership.draw(split, [0], fitter.secret))
    minutes = (time.perf_counter() - began) / 60
    reached = accuracies.reached
    epoch = next((number for number, value in enumerate(reached, start=1) if value >= ACCURACY_GOAL), math.nan)
    print(
        f"ResNet-9 on half of CIFAR-10: {reached[-1]:.2%} after {len(reached)} epochs, {max(reached):.2%} at best;",
        end="",
    )
    print(f" {ACCURACY_GOAL:.0%} " + ("not reached" if math.isnan(epoch) else f"after {epoch:g} epochs"))
    print(
        f"  {minutes:.2f} minutes a model, {minutes * RESNET_MODELS:.1f} for {RESNET_MODELS} one after the other",
        flush=True,
    )


MEASURED_SECTIONS: tuple[Callable[[Path, Sizes], None], ...] = (
    *(same_models, step_times, device_calls, resnet_minutes, private_images),
)


class _Both(io.StringIO):
    """Prints, and remembers what was printed."""

    def __init__(self, screen: Any) -> None:
        super().__init__()
        self.screen = screen

    def write(self, text: str) -> int:
        self.screen.write(text)
        self.screen.flush()
        return super().write(text)


@contextmanager
def written_to(page: Path | None) -> Iterator[None]:
    """Writes what is printed within the block as a block of a Markdown page, even if an error ends it."""
    printed = _Both(sys.stdout)
    try:
        with redirect_stdout(printed):
            yield
    finally:
        if page is not None:
            words = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
            page.write_text(f"`{words}` printed this:\n\n```\n{printed.getvalue()}```\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …, mps; cpu to try the script out")
    parser.add_argument("--tiny", action="store_true", help="sizes that run in seconds and measure nothing")
    parser.add_argument("--minutes", type=float, default=9, help="after which no section is begun")
    parser.add_argument("--root", type=Path, help="folder of CIFAR-10, for accuracies")
    parser.add_argument("--out", type=Path, help="page to write, for docs/performance.md")
    arguments = parser.parse_args()
    try:
        device.choose(arguments.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sizes, began = TINY_SIZES if arguments.tiny else Sizes(), time.perf_counter()
    with written_to(arguments.out), tempfile.TemporaryDirectory() as folder:
        print(f"{device_name(device.chosen())}, torch {torch.__version__}", flush=True)
        write_records(Path(folder), sizes.images)
        sections = [(each.__name__, functools.partial(each, Path(folder), sizes)) for each in MEASURED_SECTIONS]
        sections.append((resnet_accuracy.__name__, functools.partial(resnet_accuracy, arguments.root, sizes)))
        for name, section in sections:
            spent = (time.perf_counter() - began) / 60
            if spent > arguments.minutes:
                print(f"{name}: left out after {spent:.1f} minutes")
                continue
            section()


if __name__ == "__main__":
    main()
