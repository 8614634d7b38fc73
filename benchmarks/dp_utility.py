"""Test accuracy under DP-SGD beside published results, trained by the same experiments that anyone can run.

    python benchmarks/dp_utility.py --root DATA [dp_mnist dp_fashion_mnist dp_location30]

DATA holds a folder for each data set; without it they are downloaded. Each value is the mean of several models with
their own initial weights, batches and noise, on records that nothing was chosen by. The first run on images computes
their scattering features, which takes minutes and is not counted in the seconds; finished models are not trained again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from palisade.data.dataset import from_config
from palisade.evaluation.signals.stored import answers
from palisade.targets.run import Run
from palisade.train import composed, train_run


class Goal(NamedTuple):
    """An experiment at one ε, with the test accuracy (%) that others published or reproduced and the one to reach."""

    experiment: str
    data: str
    epsilon: float
    published: float
    to_reach: float


ACCURACY_GOALS = (
    Goal("dp_mnist", "mnist", 3, 98.7, 98.6),
    Goal("dp_fashion_mnist", "fashion_mnist", 3, 89.7, 89.5),
    Goal("dp_location30", "location30", 4, 61.4, 59.0),
    Goal("dp_location30", "location30", 8, 66.2, 64.0),
)


def settings_of(goal: Goal, root: str | None) -> dict[str, Any]:
    """The configuration that `python train.py experiment=…` composes."""
    overrides = [f"experiment={goal.experiment}", f"defense.epsilon={goal.epsilon}", "secret=utility"]
    if root is not None:
        overrides.append(f"data.root={Path(root, goal.data).resolve()}")
    return composed(*overrides)


def measured(settings: dict[str, Any]) -> tuple[list[float], float, Run]:
    """Test accuracy (%) of each model, and the seconds that training them took."""
    from_config(settings)  # features that are not there yet
    began = time.perf_counter()
    run = Run(Path(train_run(settings)["folder"]))
    seconds = time.perf_counter() - began
    labels = run.dataset.y[run.dataset.split.test]
    correct = np.asarray(answers(run, "test")).argmax(axis=-1) == labels
    return (100 * correct.mean(axis=-1)).tolist(), seconds, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds mnist/, fashion_mnist/ and location30/")
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    arguments = parser.parse_args()
    known = sorted({goal.experiment for goal in ACCURACY_GOALS})
    if unknown := set(arguments.experiments) - set(known):
        parser.error(f"{unknown.pop()} is no experiment of this benchmark; choose among {', '.join(known)}")
    columns = ("experiment", "ε", "δ", "σ", "steps", "models", "accuracy %", "lowest", "highest")
    table = Table(*columns, "published", "to reach", "seconds", box=None, header_style="bold")
    for goal in ACCURACY_GOALS:
        if arguments.experiments and goal.experiment not in arguments.experiments:
            continue
        accuracies, seconds, run = measured(settings_of(goal, arguments.root))
        claim = run.statement
        table.add_row(
            *(goal.experiment, f"{claim.epsilon:.2f}", f"{claim.delta:g}", f"{claim.noise_multiplier:.2f}"),
            *(str(claim.steps_done), str(len(accuracies)), f"{np.mean(accuracies):.2f}"),
            *(f"{min(accuracies):.2f}", f"{max(accuracies):.2f}"),
            *(f"{goal.published:.1f}", f"{goal.to_reach:.1f}", f"{seconds:.0f}"),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
