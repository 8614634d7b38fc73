"""Attack runs, and write table, curves and report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.commandline import EXIT_GATE_EXCEEDED, call, command_line

if TYPE_CHECKING:
    from palisade.evaluation.protocol import AttackProtocol
    from palisade.evaluation.settings import EvaluationSettings
    from palisade.targets.run import Run


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Entry point of `evaluate.py`, with the configuration that Hydra composed."""
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["command"] = command_line("evaluate.py")
    call(lambda: evaluate_runs(settings))


def evaluate_runs(plain: Mapping[str, Any]) -> None:
    """An evaluation by plain settings, as `main` resolves them; raises ValueError if one is wrong."""
    from palisade.evaluation.limit import refuse_limits
    from palisade.evaluation.report.scope import check_scope_of
    from palisade.evaluation.settings import EvaluationSettings
    from palisade.targets import device, engines, progress
    from palisade.targets.run import find

    settings = EvaluationSettings.parsed(plain)
    device.choose(settings.device)
    engines.choose(settings.engine)
    if settings.quiet:
        progress.silence()
    check_scope_of(plain)
    protocol = protocol_of(settings)
    if settings.audit:
        from palisade.evaluation.audit import audit

        if not audit(plain, protocol):
            raise SystemExit(EXIT_GATE_EXCEEDED)
        return
    for instead in ("search", "study"):
        if getattr(settings, instead):
            refuse_limits(plain, f"{instead}=…")
    if settings.search:
        search(settings, protocol)
        return
    runs = find(Path(settings.root), settings.data_name, settings.runs)
    check_paraphrases(runs, (settings.data or {}).get("paraphrases"))
    with ExitStack() as held:
        held.enter_context(progress.one_line_warnings())
        for run in runs:
            held.enter_context(run.read())
        evaluate_selected(runs, protocol, settings)


def check_paraphrases(runs: Sequence[Run], wanted: str | None) -> None:
    """Raises ValueError if a run holds other paraphrases of its documents than those that are wanted."""
    for run in runs:
        if wanted is not None and wanted != (own := run.config["data"].get("paraphrases")):
            raise ValueError(
                f"data.paraphrases={wanted}: expected the {'null' if own is None else own} of {run.folder}; call"
                " train.py again with the same settings and this one, which trains no model anew"
            )


def evaluate_selected(runs: Sequence[Run], protocol: AttackProtocol, settings: EvaluationSettings) -> None:
    """A plan, a study or a report of runs that are there."""
    folder = Path(settings.reports) / (settings.name or runs[0].dataset.name)
    if settings.plan:
        from palisade.evaluation.comparison import check_comparable
        from palisade.evaluation.cost import costs, show_evaluation_costs

        check_comparable(runs)
        show_evaluation_costs(costs(runs, protocol))
    elif settings.study:
        from palisade.evaluation.studies.study_runs import show_study

        show_study(settings.study, runs, protocol, folder)
    else:
        from palisade.evaluation.report.run_report import report_runs

        report_runs(runs, protocol, folder, settings)


def protocol_of(settings: EvaluationSettings) -> AttackProtocol:
    """The attacks that settings ask for, and how they are carried out."""
    from palisade.evaluation.protocol import AttackProtocol

    return AttackProtocol(
        attacks=settings.attack, threat=settings.threat, queries=settings.queries, adaptive=all_attacks(),
        utility=settings.utility, slices=(settings.data or {}).get("slices") or None,
    )  # fmt: skip


def all_attacks() -> dict[str, Any]:
    """The nodes of `conf/attack`, for what defenses and guards ask for beyond the attacks that were chosen."""
    import yaml

    files = (yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("conf/attack/*.yaml"))
    return {name: node for file in files for name, node in file.items() if name != "defaults"}


def search(settings: EvaluationSettings, protocol: AttackProtocol) -> None:
    """Trains and attacks runs that may lie on the frontier, composed by the settings of the other command."""
    from hydra.core.global_hydra import GlobalHydra

    from palisade.data.settings import validated
    from palisade.evaluation.frontier_search import Search, show_search
    from palisade.evaluation.search_plan import show_search_costs
    from palisade.targets.composition import composed
    from palisade.train import train_run

    wanted, data = validated(Search, "search", settings.search), settings.data
    if (name := settings.data_name) is None:
        raise ValueError(f"data=null: expected the data of search={wanted.name}; add data=<name>")
    GlobalHydra.instance().clear()

    def compose(*overrides: str) -> dict[str, Any]:
        chosen = composed(f"runs={settings.root}", f"device={settings.device}", *overrides)
        return {**chosen, "data": data, "engine": settings.engine}

    show = show_search_costs if settings.plan else show_search
    show(wanted, protocol, Path(settings.reports) / (settings.name or name), compose, train_run)


if __name__ == "__main__":
    call(main)
