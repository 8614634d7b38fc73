"""Attack runs, and write table, curves and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from commandline import call


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["command"] = shlex.join(["python", "evaluate.py", *sys.argv[1:]])
    call(lambda: evaluate(settings))


def evaluate(settings: dict[str, Any]) -> None:
    from evaluation.curves import check_comparable
    from evaluation.measure import findings_of
    from evaluation.report import write
    from evaluation.runs import find
    from evaluation.table import show

    runs = find(Path(settings["root"]), data_name(settings.get("data")), settings["runs"])
    check_comparable(runs)
    findings = findings_of(runs, settings["attack"])
    show(findings)
    folder = Path(settings["reports"]) / (settings["name"] or findings[0].data)
    for path in write(findings, folder, settings["command"]):
        print(path)


def data_name(data: dict[str, Any] | None) -> str | None:
    """The folder of a data set's runs: its name, or that of its file."""
    return None if data is None else data["name"] or Path(data["path"]).stem


if __name__ == "__main__":
    call(main)
