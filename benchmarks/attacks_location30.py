"""Attacks on Location30 by how many shadows they have, which shows what each variant is worth.

    python benchmarks/attacks_location30.py [--root FOLDER] [--runs FOLDER]

The fleet is that of `experiment=location30` without a defense, 48 models, trained once. Every model is a target. For
each target and record exactly k models that were trained on the record (IN) and k that were not (OUT) are drawn among
the others; the rows of the view that an attack then gets are the target and 2k such draws, in random order. A row
answers about the population as one other model does, always the same. Records with fewer than k models on a side are
left out at that k. AUC, the mean over targets. With one model a side, RMIA has none left to tune a on.

Before that, the tables of `attack_strength.py` for Location30: the strongest attacks, and behind each guard.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from attack_strength import print_tables
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table

from palisade.attacks import BASE, RMIA, Attack, LiRA, View
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.targets.run import Run
from palisade.train import composed, train_run

FLEET_MODELS = 48
SHADOWS_PER_SIDE = (1, 2, 4, 8, 16)  # a side
AUC_TOLERANCE = 0.002
TWO_SIDED, ONE_SIDED, SHRUNK_LIRA = "LiRA offline, two-sided", "LiRA offline, one-sided", "LiRA shrunk"
COMPARED_ATTACKS: dict[str, Attack] = {
    TWO_SIDED: LiRA(online=False, compat="carlini"),
    ONE_SIDED: LiRA(online=False),
    "RMIA offline": RMIA(online=False),
    "RMIA online": RMIA(),
    "BASE": BASE(),
    "LiRA fixed": LiRA(variance="fixed"),
    "LiRA per record": LiRA(variance="per_record"),
    SHRUNK_LIRA: LiRA(),
}
PUBLISHED_ORDER = (
    *((TWO_SIDED, "<", ONE_SIDED), (ONE_SIDED, "<", "RMIA offline"), ("RMIA offline", "≤", "RMIA online")),
    *(
        ("RMIA online", "≈", "BASE"),
        ("BASE", "≈", SHRUNK_LIRA),
        ("LiRA fixed", "≤", SHRUNK_LIRA),
        ("LiRA per record", "≤", SHRUNK_LIRA),
    ),
)
AT_ONE = {"RMIA online": 0.94, "BASE": 0.94}  # what one model a side must reach


def fleet(root: str | None, runs: str) -> View:
    """View of the 48 models."""
    overrides = ["experiment=location30", f"fleet.models={FLEET_MODELS}", "secret=attacks", f"runs={runs}"]
    overrides += [] if root is None else [f"data.root={Path(root).resolve()}"]
    run = Run(Path(train_run(composed(*overrides))["folder"]))
    return View(
        logits=answers(run, "pool"),
        labels=run.dataset.y[run.dataset.split.pool],
        membership=run.membership(),
        population_logits=answers(run, "population"),
        population_labels=run.dataset.y[run.dataset.split.population],
    )


def drawn(
    rng: np.random.Generator, membership: Bool[np.ndarray, "models records"], target: int, k: int
) -> tuple[Int[np.ndarray, "shadows kept"], Int[np.ndarray, "kept"]]:
    """For each record k IN and k OUT models in random order, and which records have as many."""
    others = np.delete(np.arange(len(membership)), target)
    member = membership[others]
    eligible = np.flatnonzero((member.sum(axis=0) >= k) & ((~member).sum(axis=0) >= k))
    shuffled = rng.permuted(np.broadcast_to(others[:, None], (len(others), len(eligible))), axis=0)
    inside_first = np.argsort(~membership[shuffled, eligible], axis=0, kind="stable")
    both_ends = np.concatenate([inside_first[:k], inside_first[-k:]])
    return rng.permuted(np.take_along_axis(shuffled, both_ends, axis=0), axis=0), eligible


def small_view(seen: View, rng: np.random.Generator, target: int, k: int) -> View:
    """The target in row 0, then its 2k shadows of each record."""
    shadows, eligible = drawn(rng, seen.membership, target, k)
    rows = np.concatenate([np.full((1, len(eligible)), target), shadows])
    stand_ins = np.concatenate([[target], np.delete(np.arange(seen.models), target)[: 2 * k]])
    assert seen.logits is not None and seen.population_logits is not None
    return View(
        logits=np.asarray(seen.logits)[rows, eligible],
        labels=seen.labels[eligible],
        membership=seen.membership[rows, eligible],
        population_logits=np.asarray(seen.population_logits)[stand_ins],
        population_labels=seen.population_labels,
    )


def auc_by_attack(seen: View, k: int) -> dict[str, Float[np.ndarray, "targets"]]:
    """AUC against each target, of the attacks that can do with k models a side."""
    rng = np.random.default_rng(k)
    aucs: dict[str, list[float]] = {}
    for target in range(seen.models):
        small = small_view(seen, rng, target, k)
        for name, attack in COMPARED_ATTACKS.items():
            scores = attack.score(small)[0]
            if not np.isnan(scores).any():
                aucs.setdefault(name, []).append(roc_auc(scores, small.membership[0]))
    return {name: np.array(values) for name, values in aucs.items()}


def holds(left: float, relation: str, right: float) -> bool:
    """Test of a claimed order; `≤` and `≈` to the tolerance."""
    return {
        "<": left < right,
        "≤": left <= right + AUC_TOLERANCE,
        "≈": abs(left - right) <= AUC_TOLERANCE,
    }[relation]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds dataset_location.tgz; downloaded without it")
    parser.add_argument("--runs", default="runs", help="where runs are kept")
    arguments = parser.parse_args()
    console = Console(width=120)
    print_tables(console, "location30", arguments.root, arguments.runs)
    seen = fleet(arguments.root, arguments.runs)
    measured = {k: auc_by_attack(seen, k) for k in SHADOWS_PER_SIDE}
    mean = {k: {name: float(values.mean()) for name, values in aucs.items()} for k, aucs in measured.items()}

    table = Table("AUC", *(f"k = {k}" for k in SHADOWS_PER_SIDE), box=None, header_style="bold")
    for name in COMPARED_ATTACKS:
        table.add_row(name, *(f"{mean[k][name]:.4f}" if name in mean[k] else "" for k in SHADOWS_PER_SIDE))
    claims = Table("claim", *(f"k = {k}" for k in SHADOWS_PER_SIDE), box=None, header_style="bold")
    failures = 0
    for left, relation, right in PUBLISHED_ORDER:
        cells = []
        for k in SHADOWS_PER_SIDE:
            if left not in mean[k]:
                cells.append("")
                continue
            held = holds(mean[k][left], relation, mean[k][right])
            failures += not held
            cells.append(f"{'yes' if held else 'NO'} {mean[k][right] - mean[k][left]:+.4f}")
        claims.add_row(f"{left} {relation} {right}", *cells)
    for name, least in AT_ONE.items():
        held = mean[1][name] >= least
        failures += not held
        claims.add_row(f"{name} ≥ {least}", f"{'yes' if held else 'NO'} {mean[1][name] - least:+.4f}")
    console.print(table, "", claims)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
