"""Your own network: any torch module that is made from `shape` and `classes`, trained and attacked.

    python examples/own_network.py

`network._target_` is where Python finds the class: on PYTHONPATH, to which this adds the folder of this file.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

from torch import Tensor, nn

REPOSITORY_ROOT = Path(__file__).parents[1]
NETWORK_SETTINGS = "network._target_=own_network.Residual +network.width=48"


class Residual(nn.Module):
    """Dense layers around which the input of each is passed on.

    Args:
        shape: of one record, such as (1, 8, 8).
        classes: number of logits.
        width: of the layers, set by `+network.width=48`.
    """

    def __init__(self, *, shape: tuple[int, ...], classes: int, width: int = 64):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width))
        self.second, self.last = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(hidden + self.second(hidden.relu()).relu())


def main() -> None:
    run(f"train.py data=digits {NETWORK_SETTINGS} fleet.models=6 trainer.epochs=20")
    run("evaluate.py data=digits attack=quick")


def run(command: str) -> None:
    print(f"\n$ PYTHONPATH=examples python {command}", flush=True)
    script, *words = command.split()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT / "examples")}
    subprocess.run([sys.executable, REPOSITORY_ROOT / script, *words], check=True, env=environment)


if __name__ == "__main__":
    main()
