"""Cost of attacks on all models of a large fleet: seconds and memory of scores, metrics and their intervals.

    python benchmarks/attack_speed.py [ATTACK ...]

64 models, 50,000 records, one query, 10 classes, 5,000 population records: float32 logits, memory-mapped from a file.
Each attack has a process of its own on one thread. Scores include the signals they need; metrics are those of the
report with 150 bootstrap replicates. CPU seconds leave out what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from palisade import attacks
from palisade.evaluation.measuring.leakage import ROC_METRICS
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics

FLEET_MODELS, FLEET_RECORDS, POPULATION_RECORDS, LABEL_CLASSES, BOOTSTRAP_REPLICATES = 64, 50_000, 5_000, 10, 150
TIMED_ATTACKS: dict[str, Callable[[], attacks.Attack]] = {
    "loss": attacks.LossThreshold,
    "confidence": attacks.Confidence,
    "entropy": attacks.Entropy,
    "modified_entropy": attacks.ModifiedEntropy,
    "population": attacks.Population,
    "reference": attacks.Reference,
    "calibration": attacks.Calibration,
    "lira": attacks.LiRA,
    "lira_offline": lambda: attacks.LiRA(online=False),
    "rmia": attacks.RMIA,
    "rmia_offline": lambda: attacks.RMIA(online=False),
    "base": attacks.BASE,
}
SCORES_AT_MOST, ALL_AT_MOST, GIB_AT_MOST = 10.0, 15.0, 4.0


def write_fleet(folder: Path) -> None:
    """Logits of models that favor the true class, their members more so."""
    rng = np.random.default_rng(0)
    members = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
    np.save(folder / "members.npy", members)
    for name, records in (("records", FLEET_RECORDS), ("population", POPULATION_RECORDS)):
        labels = rng.integers(LABEL_CLASSES, size=records)
        np.save(folder / f"{name}_labels.npy", labels)
        logits = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (FLEET_MODELS, records, LABEL_CLASSES)
        )
        for model in range(FLEET_MODELS):
            logits[model] = 2 * rng.standard_normal((records, LABEL_CLASSES), dtype=np.float32)
            logits[model, np.arange(records), labels] += 2 + 2 * members[model] if name == "records" else 2


def load(folder: Path) -> attacks.View:
    return attacks.View(
        logits=np.load(folder / "records.npy", mmap_mode="r"),
        labels=np.load(folder / "records_labels.npy"),
        membership=np.load(folder / "members.npy"),
        population_logits=np.load(folder / "population.npy", mmap_mode="r"),
        population_labels=np.load(folder / "population_labels.npy"),
    )


def clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def peak_gib() -> float:
    """Peak memory of this process; the kernel's `ru_maxrss` would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Wall and CPU seconds of the scores and of the metrics, and the peak memory of both."""
    view, attack = load(folder), TIMED_ATTACKS[name]()
    start = clocks()
    scores = attack.score(view)
    scored = clocks()
    auc = fleet_metrics(scores, view.membership, ROC_METRICS, Bootstrap(replicates=BOOTSTRAP_REPLICATES)).estimates[
        "auc"
    ]
    done = clocks()
    return {
        "auc": auc.value,
        "scores": (scored - start).tolist(),
        "metrics": (done - scored).tolist(),
        "gib": peak_gib(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(TIMED_ATTACKS))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # how a process is told where the fleet lies
    arguments = parser.parse_args()
    if unknown := set(arguments.attacks) - set(TIMED_ATTACKS):
        parser.error(f"{unknown.pop()} is no attack of this benchmark; choose among {', '.join(TIMED_ATTACKS)}")
    if arguments.folder:
        print(json.dumps(measured(arguments.attacks[0], arguments.folder)))
        return 0
    columns = ("attack", "AUC", "scores s", "CPU s", "metrics s", "CPU s", "all CPU s", "GiB", "")
    table = Table(*columns, box=None, header_style="bold")
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        write_fleet(Path(folder))
        for name in arguments.attacks or TIMED_ATTACKS:
            command = [sys.executable, __file__, name, "--folder", folder]
            measured_costs = json.loads(subprocess.check_output(command, text=True))
            (wall, cpu), (metrics_wall, metrics_cpu) = measured_costs["scores"], measured_costs["metrics"]
            total = cpu + metrics_cpu
            held = cpu <= SCORES_AT_MOST and total <= ALL_AT_MOST and measured_costs["gib"] <= GIB_AT_MOST
            failures += not held
            seconds = (f"{value:.1f}" for value in (wall, cpu, metrics_wall, metrics_cpu, total))
            verdict = "ok" if held else "TOO MUCH"
            table.add_row(name, f"{measured_costs['auc']:.3f}", *seconds, f"{measured_costs['gib']:.2f}", verdict)
    console = Console(width=120)
    console.print(table)
    console.print(f"at most: scores {SCORES_AT_MOST:g} s, all {ALL_AT_MOST:g} s, {GIB_AT_MOST:g} GiB")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
