"""Runs of a study: each setting attacked, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure
from pydantic import Field

from palisade.data.settings import place, validated
from palisade.data.slices import Slices
from palisade.evaluation.figures.style import save, svg
from palisade.evaluation.format import console_for, csv_text, show
from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.studies import plots
from palisade.evaluation.studies.never_used import OUT_CHOICES, never_used_rows
from palisade.evaluation.studies.queries import MAX_QUERIES, QUERIES_STUDY, query_rows
from palisade.evaluation.studies.query_curves import query_figure, query_tables
from palisade.evaluation.studies.risk_factors import risk_rows
from palisade.evaluation.studies.studies import (
    FALSELY_ACCUSED,
    NEVER_USED,
    STUDY_CSV,
    Study,
    StudyRow,
    labels,
    study_rows,
    study_tables,
)
from palisade.fields import CheckedFields, Count, as_written, remedy
from palisade.targets import engines, progress
from palisade.targets.files import write
from palisade.targets.guards.top_k import holds_back
from palisade.targets.run import Run


def same_secret(target: str, shadows: str) -> str:
    """The reason why two runs made with one secret are no pair of targets and shadows."""
    return (
        f"target={target}, shadows={shadows}: expected runs of different secrets, as one secret means one membership,"
        " which the shadows would give away; train one of them without secret=…"
    )


QueryCount = Annotated[int, Field(ge=1, le=MAX_QUERIES)]


@dataclass(frozen=True, kw_only=True)
class StudySettings(CheckedFields):
    """Settings of a study in `conf/study`.

    Args:
        name: which one.
        levels: of `output_levels`, and of `queries` beside the guards of the runs: for each level the settings of a
            `Grant`.
        out: of `shadow_mismatch`: a role or a file of records that were never used, for their false positive rate
            (`outside_records`); then this alone is measured, and one run is enough.
        records: of `queries`: budgets of different records a key.
        queries: of `queries`: queries a record, at most `MAX_QUERIES`.

    Raises:
        ValueError: if the name is unknown, no level, budget or number of queries is listed, or `out` is no name.
    """

    name: Literal["output_levels", "shadow_mismatch", "risk_factors", "queries"]
    levels: Sequence[Mapping[str, Any]] | None = None
    out: Annotated[str, remedy(OUT_CHOICES)] | None = None
    records: Annotated[Sequence[Count], Field(min_length=1)] | None = None
    queries: Annotated[Sequence[QueryCount], Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "output_levels" and not self.levels:
            raise ValueError(
                f"levels={as_written(self.levels)}: expected a list of levels; give such as [{{outputs: label}}]"
            )
        if self.name == QUERIES_STUDY and not (self.records and self.queries):
            missing = "queries" if self.records else "records"
            raise ValueError(
                f"{missing}={as_written(getattr(self, missing))}: expected a list of numbers; give such as [1,10]"
            )
        if self.out is not None:
            place("out", self.out)

    @property
    def grants(self) -> list[Grant]:
        """The levels.

        Raises:
            ValueError: if one is not to be had.
        """
        return [validated(Grant, f"study.levels.{place}", level) for place, level in enumerate(self.levels or ())]


def run_study(study: Mapping[str, Any], runs: Sequence[Run], protocol: AttackProtocol) -> list[StudyRow]:
    """The rows of a study.

    Args:
        study: its settings, as in `conf/study`.
        runs: complete runs of one data set.
        protocol: how they are attacked otherwise.

    Raises:
        ValueError: if no level is listed, no other run's shadows can stand in, or no two runs differ in a factor alone.
    """
    asked = validated(StudySettings, "study", study)
    if asked.name == "risk_factors":
        return risk_rows(runs, protocol)
    if asked.name == QUERIES_STUDY:
        levels = grants_of(asked, len(runs[0].dataset.classes))
        return query_rows(runs, protocol, levels=levels, records=asked.records or (), queries=asked.queries or ())
    if asked.name == "shadow_mismatch" and asked.out is not None:
        return never_used_rows(runs, protocol, asked.out)
    items: list[tuple[Run, str, Run | None, AttackProtocol]]
    if asked.name == "output_levels":
        varied = "released"
        fixed = {name: protocol.threat[name] for name in ("audit", "guesses")}
        grants = {grant.level: {**asdict(grant), **fixed} for grant in grants_of(asked, len(runs[0].dataset.classes))}
        items = [
            (run, name, None, replace(protocol, threat=grant))
            for run in runs
            for name, grant in grants.items()
            if has_answers(run) or (grant["decimals"], grant["top_k"]) == (None, None)
        ]
        if len(items) < len(runs) * len(grants):
            reason = "levels that cut answers are left out where signals alone are there; train with fleet.keep=both"
            if not items:
                raise ValueError(f"study.levels={as_written(asked.levels)}: expected others: {reason}")
            progress.say(f"study.levels: {reason}")
    else:
        varied = "shadows from"
        runs = [
            run for run in runs if not len(run.dataset.split.canaries)
        ] or runs  # others are not about the same records
        folders = [Run(folder) for folder in dict.fromkeys(run.folder for run in runs)]
        check_several(folders)
        check_strangers(folders)
        # What stands behind different guards answers at different levels.
        items = [(run, source.name, source, protocol) for run in runs for source in runs if run.guard == source.guard]
    with progress.Progress(runs[0].folder.parent, len(items), "settings attacked"):
        # No worker reads slices: the table that holds them is a file that its node need not have.
        work = [(place, *item, item[3].slices_of(item[0])) for place, item in enumerate(items)]
        measured = dict(engines.run(attacked, work, "auto", [run.folder for run in runs]))
    measurements = [measured[place] for place in range(len(items))]  # workers finish in any order
    first = {run.name: result for (run, *_), result in zip(reversed(items), reversed(measurements), strict=True)}
    titles = dict(zip(first, labels(list(first.values())), strict=True))
    return [
        row
        for (run, setting, *_), result in zip(items, measurements, strict=True)
        for row in study_rows(result, target=titles[run.name], varied=varied, setting=titles.get(setting, setting))
    ]


def has_answers(run: Run) -> bool:
    """True if whole answers of a run's models are to be had; of others there are only signals."""
    return run.has_weights() or run.dataset.positional


def grants_of(study: StudySettings, classes: int) -> list[Grant]:
    """Levels of a study that differ where there are so few classes; those that hold nothing back are reported."""
    complete = [each for each in study.grants if each.top_k is not None and not holds_back(each.top_k, classes)]
    for grant in complete:
        progress.say(f"study.levels: {grant.level} is left out, since {classes} probabilities sum to 1")
    return [grant for grant in study.grants if grant not in complete]


def attacked(
    place: int, run: Run, setting: str, source: Run | None, protocol: AttackProtocol, slices: Slices
) -> tuple[int, Result]:
    """The work item of a process: one run under one setting."""
    # Rows of a study have no bounds on ε: taken all the same, they would lower those of the report.
    results = measure(run, protocol, None if source in (None, run) else source, slices=slices, bounds=False)
    progress.report(run.name, 1)
    return place, results


def check_several(runs: Sequence[Run]) -> None:
    """Raises ValueError if there is no other run that shadows could be from."""
    if len(runs) < 2:
        raise ValueError(
            f"study=shadow_mismatch: expected two runs or more, not {len(runs)}; train them with"
            " experiment=shadow_mismatch, or set study.out=test to attack records that were never used"
        )


def check_strangers(runs: Sequence[Run]) -> None:
    """Raises ValueError if two runs have one secret, and with it the same members."""
    for position, run in enumerate(runs):
        for other in runs[:position]:
            if run.secret == other.secret:
                raise ValueError(same_secret(str(run.folder), str(other.folder)))


def show_study(study: Mapping[str, Any], runs: Sequence[Run], protocol: AttackProtocol, reports: Path) -> None:
    """Attacks runs under several settings, prints the table and writes it into a folder of the study's own.

    Args:
        study: its settings, as in `conf/study`.
        runs: complete runs of one data set.
        protocol: how they are attacked otherwise.
        reports: folder of the reports on these runs.
    """
    rows = run_study(study, runs, protocol)
    if study["name"] == QUERIES_STUDY:
        show(console_for(), *query_tables(rows))
        drawn = query_figure(rows, {run.name for run in runs if run.statement.guarantee})
        for path in _written(rows, reports / QUERIES_STUDY, drawn):
            print(path)
        return
    show(console_for(), *study_tables(rows))
    never_used = any(row.metric == FALSELY_ACCUSED for row in rows)
    for path in write_study(rows, reports / (NEVER_USED if never_used else study["name"])):
        print(path)


def write_study(rows: Sequence[StudyRow], folder: Path) -> list[Path]:
    """Writes study.csv into a folder, and study.png and study.svg if attacks were varied; each whole or not at all."""
    study = Study([row for row in rows if row.metric != FALSELY_ACCUSED])
    if not study.rows:
        return _written(rows, folder)
    return _written(rows, folder, plots.factors(study) if study.numeric else plots.study(study))


def _written(rows: Sequence[StudyRow], folder: Path, figure: Figure | None = None) -> list[Path]:
    text = csv_text([field.name for field in fields(StudyRow)], map(asdict, rows))
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / STUDY_CSV, text)
    if figure is None:
        return [folder / STUDY_CSV]
    write(folder / "study.svg", svg(figure))
    save(figure, folder / "study.png")
    return [folder / STUDY_CSV, folder / "study.png"]
