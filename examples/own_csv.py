"""Your own table: train with and without DP-SGD, attack both, and see whom each of them exposes and serves.

    python examples/own_csv.py

A row is a visit, and all visits of a patient are used together or not at all. One patient in seven is ill, so accuracy
would flatter a model that says "no" to everybody: `utility=balanced_accuracy` does not. `data.slices` names columns by
which leakage and utility are told as well.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

REPOSITORY_ROOT = Path(__file__).parents[1]
DATA_SETTINGS = (
    "data=csv data.path=visits.csv data.label=ill data.person=patient data.slices=[sex,age_band] data.missing=impute"
)
FLEET_SETTINGS = "fleet.models=6 trainer.epochs=20"


def main() -> None:
    visits(patients=700).to_csv("visits.csv", index=False)
    run(f"train.py {DATA_SETTINGS} {FLEET_SETTINGS}")
    run(f"train.py {DATA_SETTINGS} {FLEET_SETTINGS} defense=dp_sgd defense.epsilon=8 defense.records_per_person=2")
    run(f"evaluate.py {DATA_SETTINGS} attack=quick utility=balanced_accuracy")
    results = pd.read_csv("reports/visits/results.csv")
    groups = results[results["group"].str.contains("sex|age_band") & (results["model"] == "all")]
    table = groups[groups["metric"].isin(["auc", "test_balanced_accuracy"])]
    print(table.pivot_table(index="group", columns=["metric", "defense"], values="value").round(3))


def visits(patients: int) -> pd.DataFrame:
    """Made-up visits, two of each patient; take your own table instead."""
    rng = np.random.default_rng(0)
    age, ill = rng.integers(18, 90, patients), rng.random(patients) < 1 / 7
    people = pd.DataFrame({"patient": range(patients), "age": age, "sex": rng.choice(["f", "m"], patients)})
    people["age_band"] = pd.cut(age, [0, 39, 64, 120], labels=["18-39", "40-64", "65+"])
    people["ill"] = np.where(ill, "yes", "no")
    table = people.loc[people.index.repeat(2)]
    for name in ("iron", "glucose", "sodium", "protein", "pulse", "weight"):
        values = rng.normal(table["ill"] == "yes", 1).round(2)
        table[name] = np.where(rng.random(len(table)) < 0.03, np.nan, values)
    return table


def run(command: str) -> None:
    print(f"\n$ python {command}", flush=True)
    script, *words = command.split()
    subprocess.run([sys.executable, REPOSITORY_ROOT / script, *words], check=True)


if __name__ == "__main__":
    main()
