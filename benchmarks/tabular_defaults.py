"""Default settings on tables, beside scikit-learn's models on the same records.

    python benchmarks/tabular_defaults.py [--table FILE --label COLUMN] [--size 3000] [--runs FOLDER] [--seeds 3]

Fleets without any setting but ε, on scikit-learn's digits and breast cancer and, with `--table`, on a table of one's
own, whose classes may be joined to one against the rest (`--against NO`). Each value is the mean over seeds, which
redraw roles, members, weights, batches and noise. Members of model 0 are what logistic regression (standardized, as
scikit-learn has it by default) and histogram gradient boosting are fitted to; neither is protected. "Linear, best of a
grid" is `network=linear` under the same claim by the best of four learning rates, chosen on the test records, which
flatters it.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from palisade.attacks import LiRA, View
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.metrics import tpr_at_fpr
from palisade.evaluation.utility import CALIBRATION_METRIC, measures
from palisade.targets.run import Run
from palisade.train import composed, train_run

CLAIMED_EPSILONS = (1, 3, 8)
FLEET_MODELS = 8
SMALL_DATA = ("digits", "breast_cancer")
GRID_RATES = (0.05, 0.2, 0.8, 3.2)
GRID_WORDS = ("network=linear", "defense.trainer.epochs=60", "defense.trainer.batch_size=64")
"""Of linear models that are trained in smaller steps than by default."""


def table_words(arguments: argparse.Namespace) -> list[str]:
    """Settings of the user's own table; columns and rows of it are copied as far as they are used."""
    frame = pd.read_csv(arguments.table, dtype=str, keep_default_na=False)
    frame = frame.drop(columns=[column for column in arguments.drop.split(",") if column])
    if arguments.against:
        frame[arguments.label] = np.where(frame[arguments.label] == arguments.against, arguments.against, "other")
    frame = frame.sample(min(len(frame), 4 * arguments.size), random_state=0)
    path = Path(arguments.runs) / "table.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    words = ["data=csv", f"data.path={path.resolve()}", f"data.label={arguments.label}", "data.missing=impute"]
    return [*words, "data.missing_words=['?']", f"split.pool={2 * arguments.size}", "split.population=0"]


def trained(arguments: argparse.Namespace, data: Sequence[str], seed: int, *words: str) -> Run:
    """The run of a setting with a seed."""
    common = (f"fleet.models={FLEET_MODELS}", f"runs={arguments.runs}", f"seed={seed}", f"secret=defaults-{seed}")
    return Run(Path(train_run(composed(*data, *common, *words))["folder"]))


def of_fleet(run: Run) -> tuple[float, float, float]:
    """Test accuracy, calibration error and TPR of LiRA at 1 % FPR, means over models."""
    data = run.dataset
    contributions = measures(answers(run, "test"), data.y[data.split.test], "logits")
    seen: View = view(run, Grant(), threats=[LiRA().threat])
    tprs = [
        tpr_at_fpr(scores[~np.isnan(scores)], members[~np.isnan(scores)], fpr=0.01)  # too few shadows on one side
        for scores, members in zip(LiRA().score(seen), seen.membership, strict=True)
    ]
    return (
        float(contributions["test_accuracy"].mean()),
        float(contributions[CALIBRATION_METRIC].mean()),
        float(np.mean(tprs)),
    )


def of_scikit_learn(run: Run, model: ClassifierMixin) -> tuple[float, float, float]:
    """Test accuracy and calibration error of a model fitted to the members of model 0."""
    data = run.dataset
    members = data.split.pool[run.membership()[0]]
    x = data.x.reshape(len(data.x), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model.fit(x[members], data.y[members])
    test = data.split.test
    contributions = measures(model.predict_proba(x[test])[None], data.y[test], "probabilities")
    return float(contributions["test_accuracy"].mean()), float(contributions[CALIBRATION_METRIC].mean()), np.nan


def rows(arguments: argparse.Namespace, data: Sequence[str], *, grid: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Each setting with its means over seeds."""
    seeds = range(arguments.seeds)
    undefended = [trained(arguments, data, seed) for seed in seeds]
    for name, model in (
        ("logistic regression", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        ("gradient boosting", HistGradientBoostingClassifier()),
    ):
        yield name, np.mean([of_scikit_learn(run, model) for run in undefended], axis=0)
    yield "undefended", np.mean([of_fleet(run) for run in undefended], axis=0)
    for epsilon in CLAIMED_EPSILONS:
        private = ("defense=dp_sgd", f"defense.epsilon={epsilon}")
        yield f"ε = {epsilon}", np.mean([of_fleet(trained(arguments, data, seed, *private)) for seed in seeds], axis=0)
        if grid:
            each = [
                np.mean([of_fleet(trained(arguments, data, s, *private, *GRID_WORDS, rate)) for s in seeds], axis=0)
                for rate in (f"defense.trainer.optimizer.lr={rate}" for rate in GRID_RATES)
            ]
            yield f"ε = {epsilon}, linear, best of a grid", max(each, key=lambda means: float(means[0]))


def print_table(console: Console, title: str, measured: Iterator[tuple[str, np.ndarray]]) -> None:
    """A data set's table."""
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for place, heading in enumerate(("settings", "test accuracy", "calibration error", "TPR at 1 % FPR")):
        table.add_column(heading, justify="right" if place else "left")
    for name, means in measured:
        table.add_row(name, *("–" if np.isnan(value) else f"{100 * value:.1f} %" for value in means))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="a CSV file, packed or not")
    parser.add_argument("--label", help="its column to predict")
    parser.add_argument("--against", help="a class: predict it or any other")
    parser.add_argument("--drop", default="", help="columns to leave out, such as name,ticket")
    parser.add_argument("--size", type=int, default=3000, help="records a model is trained on")
    parser.add_argument("--runs", default="runs/tabular_defaults", help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    console = Console(width=100)
    if arguments.table:
        data = table_words(arguments)
        print_table(console, f"{arguments.table}, {arguments.size} records", rows(arguments, data, grid=False))
    for name in SMALL_DATA:
        print_table(console, name, rows(arguments, [f"data={name}"], grid=True))


if __name__ == "__main__":
    main()
