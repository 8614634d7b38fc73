"""Your own arrays: embeddings, labels and the hospital of each record, attacked without and with a guard.

    python examples/own_npz.py

An .npz file needs `x` (records, …) and `y` (0 to C − 1). `slice_hospital` names a group of each record, for
`data.slices=[hospital]`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification

REPOSITORY_ROOT = Path(__file__).parents[1]
DATA_SETTINGS = "data=npz data.path=embeddings.npz data.slices=[hospital]"


def main() -> None:
    x, y = make_classification(1500, 32, n_informative=10, n_classes=4, class_sep=1.2, random_state=0)
    hospital = np.random.default_rng(0).choice(["north", "south"], len(y))
    np.savez("embeddings.npz", x=x.astype(np.float32), y=y, slice_hospital=hospital)  # words and numbers, no objects
    run(f"train.py {DATA_SETTINGS} fleet.models=6 trainer.epochs=20")
    run(f"train.py {DATA_SETTINGS} fleet.models=6 trainer.epochs=20 guard=label_only")  # before the same models
    run(f"evaluate.py {DATA_SETTINGS} attack=quick")


def run(command: str) -> None:
    print(f"\n$ python {command}", flush=True)
    script, *words = command.split()
    subprocess.run([sys.executable, REPOSITORY_ROOT / script, *words], check=True)


if __name__ == "__main__":
    main()
