"""Cost of a step of DP-SGD: this project's callback and Opacus's modes against plain SGD on the same network.

    python benchmarks/dp_speed.py

Every process computes on one thread. All contestants get the same batches of exactly B records: plain SGD and this
project through the same LightningModule, loader and Trainer, Opacus through the loop of its own tutorials, which spares
it Lightning's part. Every round runs each contestant once, so that a machine that slows down slows all of them; ratios
are medians over the rounds. CPU time leaves out what else the machine does. Memory is a fresh process's.

Then whole fits of 400 steps with the checks of the fast way and without, first check and start included; and what the
ways that take records one by one cost on a network that the fast way could train too.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytorch_lightning as pl
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.choice import Choice, Chooser
from palisade.defenses.dp_sgd.watch import Watch
from palisade.targets.gpt import GPT
from palisade.targets.networks import CNN, MLP
from palisade.targets.transformer import Transformer

WARM_UP_STEPS, FEW_STEPS = 3, 3  # steps that do not count; steps that suffice where one takes seconds


class Case(NamedTuple):
    """A network, the shape of its batches, the steps of a fit, and what our ratios are to reach.

    `at_most` is that to plain SGD; `faster` holds those to Opacus's modes.
    """

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int
    at_most: float | None
    faster: Mapping[str, float | None]

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """One per step, a few over and over."""
        x = torch.rand(4, *self.shape)
        x = (WORDS_OF_NETWORKS[self.network] * x).long() if self.network in WORDS_OF_NETWORKS else x
        y = x.roll(-1, dims=-1) if self.network is gpt else (torch.arange(self.shape[0]) % 2).expand(4, -1)
        return [(x[t % 4], y[t % 4]) for t in range(WARM_UP_STEPS + self.steps)]

    def contestants(self) -> dict[str, Callable[[Case], Any]]:
        modes = {f"Opacus {mode}": partial(opacus, mode=mode) for mode in self.faster}
        return {"plain SGD": partial(lightning, private=False), "ours": partial(lightning, private=True), **modes}


small = partial(MLP, shape=(64,), classes=10, hidden=(128,))
mlp = partial(MLP, shape=(600,), classes=100, hidden=(1024, 512, 256, 128))
cnn = partial(CNN, shape=(1, 28, 28), classes=10)
transformer = partial(Transformer, shape=(64,), classes=2, buckets=8192)
gpt = partial(GPT, shape=(32,), classes=1024)
WORDS_OF_NETWORKS: Mapping[Callable[[], nn.Module], int] = {transformer: 8192, gpt: 1024}
GPT_CASE = Case("GPT, batch 64", gpt, (64, 32), 20, 2.0, {"ghost": None, "hooks": None})
SPEED_CASES = [
    Case("MLP, batch 256", mlp, (256, 600), 30, 1.35, {"ghost": 1.5, "hooks": 30}),
    Case("MLP, batch 2048", mlp, (2048, 600), 8, 1.15, {"ghost": 1.5}),  # hooks would hold 11 GB of gradients
    Case("CNN, batch 256", cnn, (256, 1, 28, 28), 10, 1.5, {"ghost": 1, "hooks": 1, "functorch": 1, "ew": 1}),
    Case("transformer, batch 256", transformer, (256, 64), 6, None, {"ghost": None, "hooks": None}),
    GPT_CASE,
]
SLOW_CONTESTANTS = {("MLP, batch 256", "hooks")}
"""Those with two seconds a step. All others take as many steps as plain SGD: the median of two says little."""
MEMORY_AT_MOST = 1.3
FIT_STEPS, FIT_EPOCHS = 400, 20
FIT_CASES: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], float]] = [
    ("64-128-10, batch 64", small, (64, 64), 1.15),
    ("MLP, batch 256", mlp, (256, 600), 1.10),
    ("MLP, batch 2048", mlp, (2048, 600), 1.05),
]
"""Name, network, shape of a batch, and what the checks may multiply the CPU time by."""
METHOD_CASES = [
    ("64-128-10, batch 64", small, (64, 64)),
    ("64-32-10, batch 64", partial(MLP, shape=(64,), classes=10, hidden=(32,)), (64, 64)),
    ("600-256-100, batch 64", partial(MLP, shape=(600,), classes=100, hidden=(256,)), (64, 600)),
    ("MLP, batch 256", mlp, (256, 600)),
    ("CNN, batch 64", partial(CNN, shape=(1, 28, 28), classes=10), (64, 1, 28, 28)),
]
"""Networks that all three ways can train."""
PRIVACY_SETTINGS: Any = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}
QUIET_RUN: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Steps(list[int]):
    """Sampler that declares Poisson sampling, so that the callback leaves the batches as they are."""

    poisson, sampling_rate = True, 1e-3

    def __init__(self, case: Case):
        self.rows_per_index = case.shape[0]  # an index is a whole batch
        self.steps, self.public_size = WARM_UP_STEPS + case.steps, 1000 * case.shape[0]
        super().__init__(range(self.steps))


def by_position(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and classes of all positions in one row; texts of one length weigh alike."""
    return logits.flatten(end_dim=-2), y.flatten()


class Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(*by_position(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Unwatched(DPSGD):
    """The fast way with none of its checks."""

    def _choose(self, chooser: Chooser) -> Choice:
        return Choice("fast", "unwatched")

    def _exempt(self, module: pl.LightningModule) -> bool:
        return True


class Clock(pl.Callback):
    """Notes wall and CPU time whenever a step starts."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append((time.perf_counter(), time.process_time()))

    def milliseconds(self) -> Any:
        """Milliseconds of the median step, wall and CPU."""
        return 1000 * np.median(np.diff(self.starts[WARM_UP_STEPS:], axis=0), axis=0)


def lightning(case: Case, *, private: bool) -> Any:
    clock = Clock()
    loader: Any = DataLoader(case.batches(), sampler=Steps(case), batch_size=None)  # type: ignore[arg-type]
    dp = DPSGD(**PRIVACY_SETTINGS, secret=Secret.from_text("benchmark"))
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[clock, dp] if private else [clock], **QUIET_RUN)
    trainer.fit(Classifier(case.network()), loader)
    return clock.milliseconds()


def opacus(case: Case, *, mode: str) -> Any:
    clock, network, loss = Clock(), case.network(), nn.CrossEntropyLoss()
    for layer in network.modules():
        if isinstance(layer, nn.Embedding):  # ghost clipping fails on expanded indices
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    private_parts: Any = PrivacyEngine().make_private(
        module=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.01),
        criterion=loss,
        data_loader=DataLoader(range(1000 * case.shape[0]), batch_size=case.shape[0]),  # type: ignore[arg-type]
        **PRIVACY_SETTINGS | {"poisson_sampling": False, "grad_sample_mode": mode},
    )
    model, optimizer, criterion = private_parts[0], private_parts[1], private_parts[2] if mode == "ghost" else loss
    for x, y in case.batches()[: WARM_UP_STEPS + FEW_STEPS if (case.name, mode) in SLOW_CONTESTANTS else None]:
        clock.on_train_batch_start()
        optimizer.zero_grad()
        logits = model(x)
        per_text = {"shape": logits.shape} if mode == "ghost" and y.ndim > 1 else {}
        criterion(*by_position(logits, y), **per_text).backward()
        optimizer.step()
    return clock.milliseconds()


def compare(case: Case, rounds: int) -> None:
    contestants = case.contestants()
    spent = np.array([[run(case) for run in contestants.values()] for _ in range(rounds)])
    to_plain, to_ours = (np.median(spent / spent[:, i : i + 1], axis=0) for i in (0, 1))
    for i, name in enumerate(contestants):
        mode, (wall, cpu) = name.removeprefix("Opacus "), np.median(spent[:, i], axis=0)
        limit, rule = (case.at_most, "at most") if i == 1 else (case.faster.get(mode), "ours faster by")
        factor, to_reach = (f"{to_ours[i, 1]:.2f}" if i > 1 else "", f"{rule} {limit:g}" if limit else "")
        if i > 1:
            to_reach += f" (in {(spent[:, i, 1] > spent[:, 1, 1]).sum()} of {rounds} rounds)"
        print(f"{case.name if i == 0 else '':24s}{name:17s}{wall:9.1f}{cpu:9.1f}", end="")
        print(f"{to_plain[i, 0]:9.2f}{to_plain[i, 1]:9.2f}{factor:>9s}   {to_reach}", flush=True)


def fit(network: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, dp: DPSGD | None) -> tuple[float, float]:
    """CPU milliseconds a step of a whole fit, its start included; and those of its median step."""
    epochs, clock = min(FIT_EPOCHS, steps), Clock()
    x = torch.rand(shape[0] * steps // epochs, *shape[1:])
    order: Any = BatchSampler(SequentialSampler(x), shape[0], drop_last=False)
    loader: Any = DataLoader(Rows(x, torch.arange(len(x)) % 2), sampler=order, batch_size=None)
    callbacks = [clock] if dp is None else [clock, dp]
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=callbacks, **QUIET_RUN)
    module = Classifier(network())
    start = time.process_time()
    trainer.fit(module, loader)
    return 1000 * (time.process_time() - start) / steps, float(clock.milliseconds()[1])


class Rows(TensorDataset):
    """Gathers a whole step at once."""

    def __getitem__(self, index: Any) -> Any:
        return tuple(tensor[index] for tensor in self.tensors)


def watched(rounds: int) -> None:
    """The fast way with its checks over the same without."""
    print(f"{'CPU ms a step of 400':41s}{'unwatched':>10s}{'watched':>10s}{'ratio':>9s}")
    secret, start = Secret.from_text("benchmark"), Watch.start
    for name, network, shape, at_most in FIT_CASES:
        spent = []
        for _ in range(rounds):
            Watch.start = lambda self: []  # type: ignore[method-assign]
            without, _ = fit(network, shape, FIT_STEPS, Unwatched(**PRIVACY_SETTINGS, secret=secret))
            Watch.start = start  # type: ignore[method-assign]
            spent.append((without, fit(network, shape, FIT_STEPS, DPSGD(**PRIVACY_SETTINGS, secret=secret))[0]))
        without, with_checks = np.median(spent, axis=0)
        ratio = np.median([b / a for a, b in spent])
        print(f"{name:41s}{without:10.2f}{with_checks:10.2f}{ratio:9.2f}   at most {at_most}", flush=True)


def ways(rounds: int) -> None:
    """Records one by one over the fast way and over plain SGD."""
    print(f"{'CPU ms of a step':41s}{'plain':>8s}{'fast':>8s}{'functional':>11s}{'alone':>9s}   over fast")
    for name, network, shape in METHOD_CASES:
        spent = []
        for _ in range(rounds):
            steps = WARM_UP_STEPS + 2 * FEW_STEPS
            row = [fit(network, shape, steps, None)[1]]
            for way in ("fast", "functional", "alone"):
                row.append(
                    fit(network, shape, WARM_UP_STEPS + 2 * FEW_STEPS, DPSGD(**PRIVACY_SETTINGS, per_record=way))[1]
                )
            spent.append(row)
        plain, fast, functional, alone = np.median(spent, axis=0)
        title = f"{name}, {sum(p.numel() for p in network().parameters()):,} weights"
        print(f"{title:41s}{plain:8.1f}{fast:8.1f}{functional:11.1f}{alone:9.1f}", end="")
        print(f"   {functional / fast:.1f} and {alone / fast:.1f} times", flush=True)


def peak() -> float:
    """MiB; the kernel's `ru_maxrss` would include the parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def memory(case: Case) -> None:
    """Plain SGD's peak and ours, each measured by this file in a process of its own."""
    commands = [[sys.executable, __file__, "--only", case.name, name] for name in ("plain SGD", "ours")]
    outputs = [subprocess.check_output(command, text=True).split() for command in commands]
    (imports, plain), (_, ours) = (map(float, output[-2:]) for output in outputs)
    above = f"{plain - imports:.0f} and {ours - imports:.0f} MiB above the imports"
    print(f"{case.name:41s}{plain:9.0f}{ours:9.0f}{ours / plain:18.2f}   at most {MEMORY_AT_MOST} ({above})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if arguments.only:
        before, (wanted, name) = peak(), arguments.only
        case = next(case for case in SPEED_CASES if case.name == wanted)
        case.contestants()[name](case)
        print(before, peak())
        return
    print(f"one thread, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':41s}{'ms per step':>18s}{'to plain SGD':>18s}{'to ours':>9s}   to reach, by CPU time")
    print(f"{'':41s}{'wall':>9s}{'CPU':>9s}{'wall':>9s}{'CPU':>9s}{'CPU':>9s}")
    for case in SPEED_CASES:
        compare(case, arguments.rounds)
    watched(max(1, arguments.rounds // 2))
    ways(max(1, arguments.rounds // 2))
    print(f"{'peak memory in MiB':41s}{'plain':>9s}{'ours':>9s}{'to plain SGD':>18s}")
    for case in SPEED_CASES[:2]:
        memory(case)


if __name__ == "__main__":
    main()
