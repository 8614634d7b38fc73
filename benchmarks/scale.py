"""Time and memory of an evaluation over models and records, from answers on disk to scores, metrics and the report.

    python benchmarks/scale.py [--grid] [--whole 256x50000x4 64x1000000x1] [--sparse 256x50000x10x100] [--folder FOLDER]

Answers are made up, no model is trained: normal logits of ten classes that favor the true one, of members more so.
`--grid` scores with every attack that reads answers alone, in a process of its own, and measures its scores with 150
replicates; time = c · models^a · records^b is fitted over the grid. `--whole` runs evaluate.py on the folder of a run
with such answers, MODELSxRECORDSxQUERIES. `--sparse` opens answers of MODELSxRECORDSxQUERIESxCLASSES, files without
content, checks them and scores one attack. Memory is anonymous: pages of mapped files give way. Without a choice, all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from palisade import attacks
from palisade.attacks.parts.answers import MappedAnswers
from palisade.data.queries import QUERY_AUGMENTATIONS
from palisade.evaluation.measuring.exposure import Exposure
from palisade.evaluation.measuring.leakage import leakage, mean_roc, null_rows
from palisade.evaluation.signals.stored import answer_paths
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.targets.checkpoints import weights_path
from palisade.targets.run import Run
from palisade.train import composed, train_run

TIMED_ATTACKS: Mapping[str, Callable[[], attacks.Attack]] = {
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
GRID_SIZES = ((64, 12_500), (64, 50_000), (128, 25_000), (256, 12_500), (256, 50_000))
WHOLE_SIZES, SPARSE_SIZES = ("256x50000x4", "64x1000000x1"), ("256x50000x10x100",)
TIMED_STEPS = ("scores", "metrics", "exposure")
"""The scores of an attack, its metrics, and the exposure of each record, which a report has of its strongest alone."""
LABEL_CLASSES, SMALL_ROLE, POLL_SECONDS = 10, 2_000, 0.05
GIB_BYTES = 2**30


def write_answers(
    paths: Iterable[Path], labels: np.ndarray, members: np.ndarray | None, seed: int, classes: int = LABEL_CLASSES
) -> None:
    """A file of logits for each model, which favor the true class, of members more so."""
    for model, path in enumerate(paths):
        rng = np.random.default_rng([seed, model])
        logits = 2 * rng.standard_normal((len(labels), classes), dtype=np.float32)
        logits[np.arange(len(labels)), labels] += 2 if members is None else 2 + 2 * members[model]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, logits)


def fleet(folder: Path, models: int, records: int) -> attacks.View:
    """The view of a fleet of made-up answers, with a population of a tenth of the records."""
    rng = np.random.default_rng(0)
    members, labels = rng.random((models, records)) < 0.5, rng.integers(LABEL_CLASSES, size=(2, records))
    of_population = labels[1][: records // 10]
    files: dict[str, list[Path]] = {
        role: [folder / f"{models}x{records}" / f"{role}-{model}.npy" for model in range(models)]
        for role in ("pool", "population")
    }
    if not files["population"][-1].exists():
        write_answers(files["pool"], labels[0], members, 1)
        write_answers(files["population"], of_population, None, 2)
    mapped = {role: MappedAnswers([[np.load(path, mmap_mode="r")] for path in paths]) for role, paths in files.items()}
    return attacks.View(
        logits=mapped["pool"],
        labels=labels[0],
        membership=members,
        population_logits=mapped["population"],
        population_labels=of_population,
    )


def cost_of_attack(name: str, models: int, records: int, folder: Path) -> dict[str, Any]:
    """CPU seconds of the scores and of what the report measures of each attack and of its strongest, and memory."""
    seen, attack, watched = fleet(folder, models, records), TIMED_ATTACKS[name](), Memory(os.getpid())
    with watched:
        start = time.process_time()
        scores = attack.score(seen)
        scored = time.process_time()
        rows = [*leakage(attack, scores, seen, Bootstrap()), *null_rows({attack: scores}, seen, 0)]
        mean_roc(scores, seen.membership)
        measured = time.process_time()
        Exposure.of(scores, seen.membership, seen.labels, np.arange(records))
        exposed = time.process_time()
    auc = next(row.value for row in rows if row.metric == "auc" and row.model == "all")
    seconds = {"scores": scored - start, "metrics": measured - scored, "exposure": exposed - measured}
    return {"auc": auc, **seconds, "gib": watched.peak / GIB_BYTES}


class Memory:
    """The largest anonymous resident memory of a process and its children while a block runs.

    Args:
        process: its number.
    """

    def __init__(self, process: int) -> None:
        self.process, self.peak, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            self.peak = max(self.peak, _anonymous(self.process))


def _anonymous(process: int) -> int:
    """Anonymous resident bytes of a process and all that it started."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0  # it has ended
    own = 1024 * int(status.split("RssAnon:")[1].split()[0]) if "RssAnon:" in status else 0
    return own + sum(_anonymous(int(child)) for child in children)


def grid(console: Console, folder: Path) -> None:
    """A line for each attack and size, and the exponents that fit them."""
    columns = "attack", "models", "records", "AUC", "scores s", "metrics s", "exposure s", "GiB"
    table = Table(*columns, box=None, header_style="bold")
    exponents = Table("attack", "", "models^", "records^", box=None, header_style="bold")
    for name in TIMED_ATTACKS:
        costs = []
        for models, records in GRID_SIZES:
            command = [sys.executable, __file__, "--folder", str(folder), "--one", name, f"{models}x{records}"]
            cost = json.loads(subprocess.check_output(command, text=True))
            costs.append([cost[step] for step in TIMED_STEPS])
            seconds = [f"{cost[step]:.2f}" for step in TIMED_STEPS]
            table.add_row(name, str(models), f"{records:,}", f"{cost['auc']:.3f}", *seconds, f"{cost['gib']:.2f}")
        known = np.column_stack([np.log(np.array(GRID_SIZES, dtype=float)), np.ones(len(GRID_SIZES))])
        fitted = np.linalg.lstsq(known, np.log(costs), rcond=None)[0]
        for step, what in enumerate(TIMED_STEPS):
            exponents.add_row(name, what, f"{fitted[0, step]:.2f}", f"{fitted[1, step]:.2f}")
    console.print(table, exponents, sep="\n")


def whole(console: Console, folder: Path, size: str) -> None:
    """Time and memory of evaluate.py on a run whose answers are made up."""
    models, records, queries = map(int, size.split("x"))
    asked = list(QUERY_AUGMENTATIONS)[:queries]
    place = folder / f"run-{size}"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    everyone = records + 2 * SMALL_ROLE
    y = np.append(np.arange(LABEL_CLASSES), rng.integers(LABEL_CLASSES, size=everyone - LABEL_CLASSES))
    np.save(place / "y.npy", y)
    np.save(place / "x.npy", rng.standard_normal((everyone, 1, 2, 2), dtype=np.float32))
    trained = train_run(
        composed(
            *(
                "data=npz",
                f"data.path={place}",
                "data.name=scale",
                "network=linear",
                "secret=scale",
                f"runs={place}/runs",
            ),
            *(f"split.pool={records}", f"split.population={SMALL_ROLE}", "split.test=null", "quiet=true"),
            *("fleet.models=1", "fleet.workers=1", "trainer.epochs=1"),
        )
    )
    run = Run(Path(trained["folder"]))
    for model in range(1, models):  # which are never asked
        shutil.copy(weights_path(run.folder, 0), weights_path(run.folder, model))
    run.complete(models)
    split, members = run.dataset.split, run.membership()
    for query in asked:
        write_answers(answer_paths(run, "pool", query).values(), run.dataset.y[split.pool], members, 1)
    for role in ("population", "test"):
        write_answers(answer_paths(run, role, "plain").values(), run.dataset.y[getattr(split, role)], None, 2)
    command = [
        *(sys.executable, "evaluate.py", f"runs={run.folder}", f"reports={place}/reports", "quiet=true"),
        *(f"attack=[{','.join(TIMED_ATTACKS)}]", f"queries=[{','.join(asked)}]"),
    ]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    with Memory(process.pid) as watched:
        process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - start
    ended = "" if process.returncode == 0 else f", exit code {process.returncode}"
    console.print(
        f"{models} models x {records:,} records x {queries} queries, {len(TIMED_ATTACKS)} attacks, to the report:"
        f" {cpu / 60:.1f} CPU min, {wall / 60:.1f} min, {watched.peak / GIB_BYTES:.2f} GiB{ended}"
    )


def sparse(console: Console, folder: Path, size: str) -> None:
    """Time and memory of opening and checking answers larger than the memory, and of one attack on them."""
    models, records, queries, classes = map(int, size.split("x"))
    paths = [
        [folder / f"sparse-{size}" / f"{model}-{query}.npy" for query in range(queries)] for model in range(models)
    ]
    paths[0][0].parent.mkdir(parents=True)
    for path in (path for of_model in paths for path in of_model):
        np.lib.format.open_memmap(path, "w+", np.float32, (records, classes))
    rng = np.random.default_rng(0)
    start = time.process_time()
    with Memory(os.getpid()) as watched:
        seen = attacks.View(
            logits=MappedAnswers([[np.load(path, mmap_mode="r") for path in of_model] for of_model in paths]),
            labels=rng.integers(classes, size=records),
            membership=rng.random((models, records)) < 0.5,
        )
        opened = time.process_time()
        attacks.LossThreshold().score(seen)
    console.print(
        f"{models} models x {records:,} records x {queries} queries x {classes} classes,"
        f" {4e-9 * models * records * queries * classes:.1f} GB: opened and checked in {opened - start:.0f} CPU s, one"
        f" attack in {time.process_time() - opened:.0f} CPU s, {watched.peak / GIB_BYTES:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", action="store_true", help="every attack over models and records, with exponents")
    parser.add_argument("--whole", nargs="*", default=[], metavar="MODELSxRECORDSxQUERIES")
    parser.add_argument("--sparse", nargs="*", default=[], metavar="MODELSxRECORDSxQUERIESxCLASSES")
    parser.add_argument("--folder", type=Path, help="where answers are written; a temporary one without it")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # the process of an attack and a size
    asked = parser.parse_args()
    if asked.one:
        models, records = map(int, asked.one[1].split("x"))
        print(json.dumps(cost_of_attack(asked.one[0], models, records, asked.folder)))
        return
    everything = not (asked.grid or asked.whole or asked.sparse)
    console = Console(width=110)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if asked.grid or everything:
            grid(console, Path(folder))
        for size in WHOLE_SIZES if everything else asked.whole:
            whole(console, Path(folder), size)
        for size in SPARSE_SIZES if everything else asked.sparse:
            sparse(console, Path(folder), size)


if __name__ == "__main__":
    main()
