"""Attack runs, and write table, curves and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from commandline import call
from datamodules.records import name_of


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

    for key in ("attack", "root", "reports"):
        if not settings.get(key):
            raise ValueError(f"{key}={settings.get(key)} is empty; leave it out for the default")
    runs = find(Path(settings["root"]), data_name(settings.get("data")), settings["runs"])
    check_comparable(runs)
    folder = Path(settings["reports"]) / (settings["name"] or runs[0].dataset.name)
    folder.mkdir(parents=True, exist_ok=True)
    findings = findings_of(runs, settings["attack"])
    show(findings)
    for path in write(findings, folder, settings["command"]):
        print(path)


def data_name(data: dict[str, Any] | None) -> str | None:
    """The folder of a data set's runs: its name, or that of its file."""
    if data is None:
        return None
    if data.get("path") == "???" and data["name"] is None:
        raise ValueError("data.path is not given; add it, or data.name, or name the runs with runs=<folder or pattern>")
    return data["name"] or name_of(data["path"])


if __name__ == "__main__":
    call(main)
