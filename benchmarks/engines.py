"""Seconds a model by engine on this machine, against the local pool, with the start of each engine apart.

    python benchmarks/engines.py [--models 64] [--epochs 20] [--rounds 2] [--engines local slurm ray]

Every engine trains the same fleet with as many workers as there are cores, and must give the same weights. The start
is the time of a fleet of one chunk a worker and one epoch, before which the engine has not run. Slurm stands for
submitit's local executor, Ray for a cluster of this machine. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from palisade.targets import engines
from palisade.targets.engines.local import cores
from palisade.train import composed, train_run

ENGINE_WORDS = {
    "local": ("engine=local",),
    "slurm": ("engine=slurm", "engine.cluster=local"),
    "ray": ("engine=ray", "engine.address=local"),
}
MODELS_PER_CHUNK = 8


def trained(folder: Path, models: int, epochs: int, *words: str) -> tuple[float, dict[str, bytes]]:
    """Seconds of a fleet, and its weights."""
    fleet = (f"fleet.models={models}", f"fleet.workers={cores()}", f"trainer.epochs={epochs}", "secret=benchmark")
    settings = composed(f"runs={folder}", "data=digits", "network=mlp", "quiet=true", *fleet, *words)
    began = time.perf_counter()
    run = Path(train_run(settings)["folder"])
    seconds = time.perf_counter() - began
    return seconds, {path.name: path.read_bytes() for path in (run / "models").glob("*.safetensors")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINE_WORDS, default=list(ENGINE_WORDS))
    arguments = parser.parse_args()
    print(f"{arguments.models} models, {arguments.epochs} epochs, {arguments.rounds} rounds, {cores()} cores")
    reference: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        trained(Path(place, "data"), 1, 1)  # loads torch and the data
        for name in arguments.engines:
            words = ENGINE_WORDS[name]
            start, _ = trained(Path(place, f"{name}-start"), MODELS_PER_CHUNK * cores(), 1, *words)
            seconds = []
            for number in range(arguments.rounds):
                taken, weights = trained(Path(place, f"{name}-{number}"), arguments.models, arguments.epochs, *words)
                seconds.append(taken / arguments.models)
                reference = reference or weights
                assert weights == reference, f"{name} trained other weights"
            engines.stop()
            each = f"{statistics.median(seconds):7.3f} s per model  ({min(seconds):.3f} to {max(seconds):.3f})"
            print(f"{name:6} {each}, start {start:.1f} s")


if __name__ == "__main__":
    main()
