"""A model that was trained elsewhere: does it leak, and were these fifty records used?

    python examples/audit_outputs.py

Only what a random forest answers is saved, with the records beside it, so that it can be checked whether members and
non-members come from one source.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

REPOSITORY_ROOT = Path(__file__).parents[1]


def main() -> None:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    used, unused = order[:900], order[900:]  # a coin decides: nothing but their use tells them apart
    forest = RandomForestClassifier(50, random_state=0).fit(x[used], y[used])
    for name, chosen in (("in", used), ("out", unused), ("mine", used[:50])):
        np.savez(f"{name}.npz", probabilities=forest.predict_proba(x[chosen]), labels=y[chosen], features=x[chosen])
    run("evaluate.py audit=outputs members=in.npz nonmembers=out.npz")
    run("evaluate.py audit=records records=mine.npz nonmembers=out.npz")


def run(command: str) -> None:
    print(f"\n$ python {command}", flush=True)
    script, *words = command.split()
    subprocess.run([sys.executable, REPOSITORY_ROOT / script, *words], check=True)


if __name__ == "__main__":
    main()
