"""The strongest attacks by how many shadows they have, and behind each guard.

    python benchmarks/attack_strength.py [--data location30|fashion_mnist|sst2] [--root FOLDER] [--runs FOLDER]

A fleet of 32 undefended models, trained once. With s shadows, it is cut into as many fleets of s + 1 models as there
are; every model is a target once, and the values are means over all targets. `votes` and noise agreement see predicted
labels alone, hence the same behind `label_only`. Cascading attacks models 0 and 1 with all 31 shadows and trains 32
further ones for each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from palisade.attacks import BASE, RMIA, Attack, Cascading, JointLiRA, LiRA, NoiseAgreement, View, Votes
from palisade.evaluation.measuring.exposure import part_of
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import Run
from palisade.train import composed, train_run

FLEET_MODELS = 32
SHADOW_COUNTS = (4, 8, 16, 31)
FLEET_OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "location30": ("experiment=location30", "split.reference=300"),
    "fashion_mnist": (
        *("data=fashion_mnist", "network=cnn", "split.pool=3000", "split.population=500", "split.reference=500"),
        *("split.test=1000", "trainer.epochs=20"),
    ),
    "sst2": (
        *("data=sst2", "network=transformer", "network.depth=0", "split.pool=3000", "split.population=500"),
        *("split.reference=500", "split.test=1000", "trainer.epochs=20"),
    ),
}
COMPARED_GUARDS = ("rounding", "memguard")
MORE_GUARDS: Mapping[str, tuple[str, ...]] = {"location30": ("topk",), "fashion_mnist": ("topk",), "sst2": ()}
"""Further guards for each data set; sst2 has two classes, of which the top three are all."""
SCORE_ATTACKS: Mapping[str, Attack] = {
    "lira": LiRA(), "base": BASE(), "rmia": RMIA(), "joint_lira": JointLiRA(),
}  # fmt: skip
CASCADING_ATTACKS: Mapping[str, Attack] = {"cascading, targets 0 and 1": Cascading()}
LABEL_ATTACKS: Mapping[str, Attack] = {
    "noise_agreement, 16 copies": NoiseAgreement(copies=16),
    "votes, 1 query": Votes(copies=0),
    "votes, 5 queries": Votes(copies=4),
    "votes, 17 queries": Votes(copies=16),
}


def fleet(data: str, root: str | None, runs: str, guard: str = "none") -> Run:
    """The run of 32 undefended models, with a guard before them."""
    overrides = [
        *FLEET_OVERRIDES[data],
        f"fleet.models={FLEET_MODELS}",
        "secret=attacks",
        f"runs={runs}",
        f"guard={guard}",
    ]
    overrides += [] if root is None else [f"data.root={Path(root).resolve()}"]
    return Run(Path(train_run(composed(*overrides))["folder"]))


def measured(attack: Attack, seen: View, shadows: int) -> tuple[float, float, float, float] | None:
    """AUC, TPR at 1 % and 0.1 % FPR and seconds a target, the means over all targets; None where it cannot run."""
    values, start = [], time.perf_counter()
    for first in range(0, seen.models - shadows, shadows + 1):
        part = seen if shadows + 1 == seen.models else part_of(seen, slice(first, first + shadows + 1))
        if attack.missing(part) is not None:
            return None
        for scores, members in zip(attack.score(part), part.membership, strict=True):
            if not (scored := ~np.isnan(scores)).any():
                continue  # no target
            pair = scores[scored], members[scored]
            values.append([roc_auc(*pair), tpr_at_fpr(*pair, fpr=0.01), tpr_at_fpr(*pair, fpr=0.001)])
    auc, coarse, fine = np.mean(values, axis=0)
    return float(auc), float(coarse), float(fine), (time.perf_counter() - start) / len(values)


def rows(run: Run, attacks: Mapping[str, Attack], grant: Grant, shadows: tuple[int, ...]) -> Iterator[list[str]]:
    """A row an attack, with the shadows it had."""
    for name, attack in attacks.items():
        seen = view(run, grant, threats=[attack.threat])
        for count in shadows:
            if (strength := measured(attack, seen, count)) is not None:
                auc, coarse, fine, seconds = strength
                yield [name, str(count), f"{auc:.3f}", f"{100 * coarse:.1f} %", f"{100 * fine:.1f} %", f"{seconds:.1f}"]


def tables(data: str, root: str | None, runs: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and rows of each table: without a guard, then behind each guard."""
    run = fleet(data, root, runs)
    yield (
        f"{data}, no guard",
        [
            *rows(run, SCORE_ATTACKS, Grant(), SHADOW_COUNTS),
            *rows(run, CASCADING_ATTACKS, Grant(), (FLEET_MODELS - 1,)),
            *rows(run, LABEL_ATTACKS, Grant(outputs="label"), (4, 31)),
        ],
    )
    for guard in (*COMPARED_GUARDS, *MORE_GUARDS[data]):
        fleet(data, root, runs, guard)
    for label in guards_of(run.folder)[1:]:
        guarded = Run(run.folder, label)
        yield f"behind {guarded.registered_guard.name}", list(rows(guarded, SCORE_ATTACKS, Grant(), (31,)))


def print_tables(console: Console, data: str, root: str | None, runs: str) -> None:
    """The tables of one data set, each as soon as it is measured."""
    for title, measured_rows in tables(data, root, runs):
        table = Table(title=title, box=None, header_style="bold", title_justify="left")
        for place, heading in enumerate(("attack", "shadows", "AUC", "TPR at 1 % FPR", "at 0.1 %", "s a target")):
            table.add_column(heading, justify="right" if place else "left")
        for row in measured_rows:
            table.add_row(*row)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="location30", choices=FLEET_OVERRIDES)
    parser.add_argument("--root", help="folder of the data set's files; downloaded without it")
    parser.add_argument("--runs", default="runs", help="where runs are kept")
    arguments = parser.parse_args()
    print_tables(Console(width=100), arguments.data, arguments.root, arguments.runs)


if __name__ == "__main__":
    main()
