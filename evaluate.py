"""Attack runs, and write table, curves and report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.commandline import CLAIM_VIOLATED, GATE_EXCEEDED, SOME_FAILED, call, command_line
from palisade.data.records import name_of

if TYPE_CHECKING:
    from palisade.evaluation.method import Method
    from palisade.targets.run import Run


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Entry point of `evaluate.py`, with the configuration that Hydra composed."""
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["command"] = command_line("evaluate.py")
    call(lambda: evaluate_runs(settings))


def evaluate_runs(settings: dict[str, Any]) -> None:
    """An evaluation by plain settings, as `main` resolves them: an audit, a search, a plan, a study or a report.

    Raises:
        ValueError: if a setting is wrong.
    """
    from palisade.evaluation.limit import refuse_limits
    from palisade.evaluation.method import Method
    from palisade.evaluation.report.scope import check_scope_of
    from palisade.evaluation.settings import check_settings
    from palisade.targets import progress
    from palisade.targets.run import find

    if settings["quiet"]:
        progress.silence()
    check_settings(settings)
    check_scope_of(settings)
    method = Method(
        attacks=settings["attack"], threat=settings["threat"], queries=settings["queries"], adaptive=all_attacks(),
        utility=settings["utility"], slices=(settings.get("data") or {}).get("slices") or None,
    )  # fmt: skip
    if settings.get("audit"):
        audit(settings, method)
        return
    for instead in ("search", "study"):
        if settings.get(instead):
            refuse_limits(settings, f"{instead}=…")
    if settings.get("search"):
        search(settings, method)
        return
    runs = find(Path(settings["root"]), data_name(settings.get("data")), settings["runs"])
    folder = Path(settings["reports"]) / (settings["name"] or runs[0].dataset.name)
    if settings["plan"]:
        plan(runs, method)
    elif settings.get("study"):
        study(settings["study"], runs, method, folder)
    else:
        report(runs, method, folder, settings)


def plan(runs: Sequence[Run], method: Method) -> None:
    """Prints what attacks on runs would train besides."""
    from palisade.evaluation.plan import cost_of_attacks, show_costs

    show_costs([cost_of_attacks(run, method.attacks_on(run)) for run in runs])


def all_attacks() -> dict[str, Any]:
    """The nodes of `conf/attack`, for what defenses and guards ask for beyond the attacks that were chosen."""
    import yaml

    files = (yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("conf/attack/*.yaml"))
    return {name: node for file in files for name, node in file.items() if name != "defaults"}


def report(runs: Sequence[Run], method: Method, folder: Path, settings: dict[str, Any]) -> None:
    """Attacks comparable runs, prints the table and writes the report; tells which keep the limits that were asked for.

    Exits with 3 if a claim is violated, with 4 if no run can be chosen or one does not pass the gate.
    """
    from palisade.evaluation.comparison import Comparison, check_comparable
    from palisade.evaluation.limit import Limit, gate, recommend
    from palisade.evaluation.measuring.measure import results_of
    from palisade.evaluation.report.outsiders import false_accusations
    from palisade.evaluation.report.provenance import releases
    from palisade.evaluation.report.scope import PUBLIC
    from palisade.evaluation.report.writing import write
    from palisade.evaluation.studies.never_used import keys_of
    from palisade.evaluation.studies.studies import NEVER_USED, STUDY_CSV
    from palisade.evaluation.table import show_results

    scope = settings["report"]["scope"]
    asked = [(judge, Limit.asked(name, settings)) for name, judge in (("choose", recommend), ("gate", gate))]
    check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    results = results_of(runs, method)
    comparison = Comparison(results)
    show_results(comparison)
    shipped = releases(runs, Path(settings["released"]))
    place = folder / PUBLIC if scope == PUBLIC else folder  # apart from what earlier calls left for insiders
    study = folder / NEVER_USED / STUDY_CSV
    keys = [key for run in runs for key in keys_of(run, method).values()] if study.is_file() else []
    measured = false_accusations(study, results, keys)
    for path in write(comparison, place, settings["command"], scope=scope, releases=shipped, accusations=measured):
        print(path)
    kept = True
    for judge, limit in asked:
        if limit is not None:
            lines, result = judge(comparison, limit)
            print("", *lines, sep="\n")
            kept &= bool(result)
    if comparison.refuted:
        raise SystemExit(CLAIM_VIOLATED)
    if not kept:
        raise SystemExit(GATE_EXCEEDED)


def audit(settings: dict[str, Any], method: Method) -> None:
    """Audits what was trained already; exits with 4 if it does not pass the gate."""
    from palisade.evaluation.audit import audit

    if not audit(settings, method):
        raise SystemExit(GATE_EXCEEDED)


def study(settings: dict[str, Any], runs: Sequence[Run], method: Method, folder: Path) -> None:
    """Attacks runs under several settings, prints the table and writes it."""
    from palisade.evaluation.studies.studies import FALSELY_ACCUSED, NEVER_USED, study_tables
    from palisade.evaluation.studies.study_runs import run_study, write_study
    from palisade.evaluation.terminal import console_for, show

    rows = run_study(settings, runs, method)
    show(console_for(), *study_tables(rows))
    accused = any(row.metric == FALSELY_ACCUSED for row in rows)
    for path in write_study(rows, folder / (NEVER_USED if accused else settings["name"])):
        print(path)


def search(settings: dict[str, Any], method: Method) -> None:
    """Trains and attacks runs that may lie on the frontier, prints it and writes what was tried; exits with 1 if some
    failed, with 3 if a claim is violated."""
    from hydra.core.global_hydra import GlobalHydra

    from palisade.data.settings import validated
    from palisade.evaluation.claims import violations
    from palisade.evaluation.frontier_search import SELECTED, Search, frontier_table, run_search, write_search
    from palisade.evaluation.terminal import console_for, show
    from palisade.targets.composition import composed
    from palisade.train import train_run

    wanted, data = validated(Search, "search", settings["search"]), settings.get("data")
    if (name := data_name(data)) is None:
        raise ValueError(f"search={wanted.name} needs data; add data=<name>")
    GlobalHydra.instance().clear()  # runs are composed from the settings of another command

    def compose(*overrides: str) -> dict[str, Any]:
        return {**composed(f"runs={settings['root']}", *overrides), "data": data}

    folder = Path(settings["reports"]) / (settings["name"] or name) / wanted.name
    searched = run_search(wanted, method, folder, compose, train_run)
    show(console_for(), frontier_table(searched), SELECTED)
    for path in write_search(searched, folder):
        print(path)
    print(f"{len(searched.trials) - searched.failed} done, {searched.failed} failed")
    if violations(searched.results):
        raise SystemExit(CLAIM_VIOLATED)
    if searched.failed:
        raise SystemExit(SOME_FAILED)


def data_name(data: dict[str, Any] | None) -> str | None:
    """The folder of a data set's runs: its name, or that of its file."""
    if data is None:
        return None
    if data.get("path", "???") == "???" and not data.get("name"):
        raise ValueError("data.path is not given; add it, or data.name, or name the runs with runs=<folder or pattern>")
    return data.get("name") or name_of(data["path"])


if __name__ == "__main__":
    call(main)
