"""Attack runs, and write table, curves and report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from commandline import CLAIM_VIOLATED, call
from datamodules.records import name_of

if TYPE_CHECKING:
    from evaluation.method import Method
    from evaluation.runs import Run


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["command"] = shlex.join(["python", "evaluate.py", *sys.argv[1:]])
    call(lambda: evaluate(settings))


def evaluate(settings: dict[str, Any]) -> None:
    from evaluation.method import Method
    from evaluation.runs import find

    for key in ("attack", "threat", "root", "reports"):
        if not settings.get(key):
            raise ValueError(f"{key} is empty; leave it out for the default")
    method = Method(
        attacks=settings["attack"], threat=settings["threat"], queries=settings["queries"], adaptive=all_attacks()
    )
    runs = find(Path(settings["root"]), data_name(settings.get("data")), settings["runs"])
    folder = Path(settings["reports"]) / (settings["name"] or runs[0].dataset.name)
    if settings.get("study"):
        study(settings["study"], runs, method, folder)
    else:
        report(runs, method, folder, settings["command"])


def all_attacks() -> dict[str, Any]:
    """The nodes of `conf/attack`, for what defenses and guards ask for beyond the attacks that were chosen."""
    import yaml

    files = (yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("conf/attack/*.yaml"))
    return {name: node for file in files for name, node in file.items() if name != "defaults"}


def report(runs: Sequence[Run], method: Method, folder: Path, command: str) -> None:
    """Attacks comparable runs, prints the table and writes the report; exits with 3 if a claim is violated."""
    from evaluation.claims import violations
    from evaluation.curves import check_comparable
    from evaluation.measure import findings_of
    from evaluation.report import write
    from evaluation.table import show

    check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    findings = findings_of(runs, method)
    show(findings)
    for path in write(findings, folder, command):
        print(path)
    if violations(findings):
        raise SystemExit(CLAIM_VIOLATED)


def study(settings: dict[str, Any], runs: Sequence[Run], method: Method, folder: Path) -> None:
    """Attacks runs under several settings, prints the table and writes it."""
    from evaluation.studies import study_table, write_study
    from evaluation.study_runs import run_study
    from evaluation.table import console_for

    rows = run_study(settings, runs, method)
    console_for().print(study_table(rows))
    for path in write_study(rows, folder / settings["name"]):
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
