"""Seconds per model of a fleet: this project against the loop that peers use and a bare loop, interleaved.

    python benchmarks/fleet_speed.py

Every round runs each contestant once, so that a machine that slows down slows all of them; ratios are medians of the
rounds. The fleet: 32 models of 446-128-30, batch 64, Adam, on records of Location30's shape.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets import engines
from palisade.targets.files import write_json
from palisade.targets.training import DECISIONS_FILE, chunks, train_models, try_out
from palisade.train import composed

POOL_RECORDS, RECORD_FEATURES, HIDDEN_UNITS, LABEL_CLASSES, FLEET_MODELS = 4000, 446, 128, 30, 32
# No gradient for the inputs.
FLOP_PER_RECORD = 2 * (2 * RECORD_FEATURES * HIDDEN_UNITS + 3 * HIDDEN_UNITS * LABEL_CLASSES)


def matrix_rate(seconds: float = 1.0, size: int = 1024) -> float:
    """FLOP/s of one thread on large square products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        a @ b
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - began)


def write_data(folder: Path) -> Path:
    """Binary records of Location30's shape and density; speed does not depend on what they mean."""
    rng = np.random.default_rng(0)
    path = folder / "records.npz"
    x = (rng.random((POOL_RECORDS + 1000, RECORD_FEATURES)) < 0.15).astype(np.float32)
    np.savez(path, x=x, y=rng.integers(0, LABEL_CLASSES, POOL_RECORDS + 1000))
    return path


def settings_of(data: Path, *overrides: str) -> dict[str, Any]:
    fixed = ["data=npz", f"data.path={data}", f"split.pool={POOL_RECORDS}", f"fleet.models={FLEET_MODELS}"]
    recipe = ["network=mlp", f"network.hidden=[{HIDDEN_UNITS}]", "trainer.optimizer.lr=1e-3", "split.population=0"]
    return composed(*fixed, *recipe, *overrides)


def ours(settings: dict[str, Any], models: int = FLEET_MODELS) -> float:
    """Seconds per model with workers and stacks, Lightning included; pool and what a run settles once are there."""
    with tempfile.TemporaryDirectory() as folder:
        private = Path(folder) / "private"
        private.mkdir()
        (Path(folder) / "models").mkdir()
        Secret.from_text("benchmark").save(private / "secret")
        decisions = try_out(settings, from_config(settings), Membership(**settings["membership"]))
        write_json(Path(folder) / DECISIONS_FILE, decisions)
        parts = chunks(range(models), settings["fleet"]["at_once"])
        items = [(settings, folder, "benchmark", part) for part in parts]
        began = time.perf_counter()
        list(engines.run(train_models, items, "auto"))
        return (time.perf_counter() - began) / models


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(RECORD_FEATURES, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, LABEL_CLASSES))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def peers(x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int = 64) -> float:
    """Seconds for one model by the loop of published attack code, with the default number of threads."""
    torch.set_num_threads(os.cpu_count() or 1)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    began = time.perf_counter()
    for _ in range(epochs):
        for inputs, labels in loader:
            step(model, optimizer, inputs, labels)
    return time.perf_counter() - began


def bare(x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int = 64) -> float:
    """Seconds for one model by an index-batched loop on one thread."""
    torch.set_num_threads(1)
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    began = time.perf_counter()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            step(model, optimizer, x[index], y[index])
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    epochs = arguments.epochs
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder))
        loaded = np.load(data)
        x, y = torch.from_numpy(loaded["x"][: POOL_RECORDS // 2]), torch.from_numpy(loaded["y"][: POOL_RECORDS // 2])

        def fleet(batch: int, *defense: str) -> dict[str, Any]:
            settings = settings_of(data, f"trainer.epochs={epochs}", f"trainer.batch_size={batch}", *defense)
            settings["defense"].pop("trainer", None)  # the same recipe with and without DP-SGD
            return settings

        dp = ("defense=dp_sgd", "defense.epsilon=8")
        contestants: dict[str, Callable[[], float]] = {
            "ours, batch 64": lambda: ours(fleet(64)),
            "peers' loop": lambda: peers(x, y, epochs),
            "bare loop": lambda: bare(x, y, epochs),
            "ours, DP-SGD, batch 64": lambda: ours(fleet(64, *dp)),
            "ours, batch 256": lambda: ours(fleet(256)),
            "ours, DP-SGD, batch 256": lambda: ours(fleet(256, *dp)),
            "matrix products": lambda: epochs * len(x) * FLOP_PER_RECORD / matrix_rate() / engines.count("auto"),
        }
        for settings in (fleet(64, *dp), fleet(256, *dp)):  # starts the workers, and calibrates the noise once
            ours(settings, models=16)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(arguments.rounds):
            for name, run in contestants.items():
                seconds[name].append(run())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{epochs} epochs, {arguments.rounds} rounds, {engines.count('auto')} cores")
    for name, value in median.items():
        print(f"{name:26s} {value:8.3f} s per model  ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})")
    ratios = {
        "faster than the peers' loop (to reach 3.0)": median["peers' loop"] / median["ours, batch 64"],
        "faster than the bare loop (to reach 1.8)": median["bare loop"] / median["ours, batch 64"],
        "share of the matrix-product rate (to reach 0.5)": median["matrix products"] / median["ours, batch 64"],
        "DP-SGD to plain, batch 64 (at most 2.0)": median["ours, DP-SGD, batch 64"] / median["ours, batch 64"],
        "DP-SGD to plain, batch 256 (at most 1.7)": median["ours, DP-SGD, batch 256"] / median["ours, batch 256"],
    }
    for name, ratio in ratios.items():
        print(f"{name:50s} {ratio:6.2f}")


if __name__ == "__main__":
    main()
