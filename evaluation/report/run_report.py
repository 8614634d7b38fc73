"""Report of comparable runs: attacked, shown, written, and judged by the limits that were asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palisade.commandline import EXIT_CLAIM_VIOLATED, EXIT_GATE_EXCEEDED
from palisade.data.origins import UNKNOWN_ORIGINS, Origins
from palisade.evaluation.choice import PASSED_OVER, recommend
from palisade.evaluation.comparison import Comparison, check_comparable, ordered
from palisade.evaluation.figures.curves import exposure, roc
from palisade.evaluation.figures.extraction import recitation_figures
from palisade.evaluation.figures.style import svg
from palisade.evaluation.figures.tradeoff import tradeoff
from palisade.evaluation.flags import VIOLATED_FLAG, flags, meanings
from palisade.evaluation.format import NO_NUMBER, csv_text, percent
from palisade.evaluation.labels import crowd_word, label
from palisade.evaluation.limit import Limit, gate
from palisade.evaluation.measuring.exposure import Texts, exposed_csv
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.report.outsiders import FalseAccusations, accusation_table, false_accusations, outsiders
from palisade.evaluation.report.page import Entry, explained, render, write_files
from palisade.evaluation.report.permission import by_limit, in_public, without_limit
from palisade.evaluation.report.provenance import as_yaml, promises, provenance
from palisade.evaluation.report.queries import limit_tables, limits_on_queries, query_points
from palisade.evaluation.report.recitation import recitations, tables
from palisade.evaluation.report.scope import (
    INTERNAL_SCOPE,
    PUBLIC_SCOPE,
    SCOPE_NOTES,
    checked_scope,
    public_command,
    published,
)
from palisade.evaluation.report.sections import (
    EPSILON_BOUNDS,
    attack_tables,
    compared,
    costs,
    evidence,
    exposed,
    groups,
    pareto,
    tuned,
)
from palisade.evaluation.report.verdict import DOCUMENT_TERMS, GLOSSARY_TERMS, game, grants, verdicts
from palisade.evaluation.result import AUC, FPR, LARGEST_CLASS, RESULT_COLUMNS, Result
from palisade.evaluation.settings import EvaluationSettings
from palisade.evaluation.signals.documents import shown_texts
from palisade.evaluation.studies.never_used import keys_of
from palisade.evaluation.studies.queries import QUERIES_STUDY, key_of
from palisade.evaluation.studies.query_curves import query_figure
from palisade.evaluation.studies.studies import NEVER_USED, STUDY_CSV, StudyRow
from palisade.evaluation.table import TEXT_HEADINGS, corrections, headings, lines, reaches, show_results, skips
from palisade.targets.run import Run
from palisade.targets.shipped import releases

REPORT_TEXT_HEADINGS = (*TEXT_HEADINGS, "needs")
"""Headings of columns that hold no numbers."""


SECTION_TEMPLATES = tuple(f"report_{name}.html.j2" for name in (
    "verdict", "subject", "leakage", "queries", "utility", "claims", "tradeoff", "end",
))  # fmt: skip
"""Sections of a report on runs."""


def page_of(comparison: Comparison, content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the page: what report.json holds, and what is told of it in words and tables."""
    runs = comparison.results
    names, table = _table_of_runs(comparison)
    attack_headings, *attacks = attack_tables(comparison)
    network = f"{len(runs)} run{'s' * (len(runs) != 1)} of {content['network']}"
    alarms = [
        (
            f"Claim violated: {claim['title']}",
            f"ε = {claim['claimed']} is claimed; the guesses below prove more. Do not release this model.",
        )
        for claim in content["evidence"]
        if claim["violated"]
    ]
    return {
        **content,
        # The table of the verdict tells why the others may not leave.
        "decided": [[line for line in lines if not line.startswith(PASSED_OVER)] for lines in content["decided"]],
        **promises(runs),
        "title": f"Privacy evaluation: {content['data']}",
        "what": f"{network}, {content['models']} models each. Membership inference attacks on exactly what would be"
        " released.",
        "alarms": alarms,
        "sections": SECTION_TEMPLATES,
        "words": REPORT_TEXT_HEADINGS,
        "fpr": f"{100 * FPR:g} %",
        "by_auc": comparison.leakage_metric == AUC,
        "attacks": attacks,
        "ideas": explained(
            runs,
            [name for entry in content["leave"] for line in entry["lines"] for name in line["attacks"]]
            + [name for entry in content["verdicts"] for name in entry["attacks"]],
            [name for result in runs for name in result.attacks],
        ),
        "numbers": attack_headings,
        "headings": names,
        "table": table,
        "frontier": comparison.has_frontier,
        "one_each": comparison.are_many,
        "nearly": runs[0].utility.nearly,
        "recited_tables": tables(runs),
        "meanings": meanings(comparison),
        "bounds": list(EPSILON_BOUNDS.values()),
        "accused": accusation_table(content["never_used"]["rates"]),
        "limit_tables": limit_tables(content.get("queried")),
        "reaches": [*reaches(comparison), *corrections(runs)],
        "as_yaml": as_yaml,
    }


def _table_of_runs(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and for each run the kind of its line and its cells; a column in which nothing stands is left out."""
    table_lines = [
        # Sorted by another column, a fleet with canaries no longer stands under the one that it belongs to.
        line._replace(cells=(label(result), *line.cells[1:])) if result.has_canaries else line
        for result, line in zip(comparison.results, lines(comparison), strict=True)
    ]
    cells = zip(*(line.cells for line in table_lines), strict=True)
    columns = dict(zip(headings(comparison.results[0].utility), cells, strict=True))
    shown = [name for name, column in columns.items() if set(column) != {NO_NUMBER}]
    rows = zip(*(columns[name] for name in shown), strict=True)
    kinds = [line.kind + " opens" * line.opens for line in table_lines]
    return [name.replace("\n", " ") for name in shown], [
        (kind, list(row)) for kind, row in zip(kinds, rows, strict=True)
    ]


def summary(
    comparison: Comparison,
    command: str,
    *,
    table: str = "",
    scope: str = INTERNAL_SCOPE,
    releases: Mapping[str, str] | None = None,
    accusations: FalseAccusations | None = None,
    asked: Sequence[StudyRow] = (),
    decided: Sequence[Sequence[str]] = (),
    leave: Sequence[Entry] = (),
) -> dict[str, Any]:
    """Content of report.json and report.html, in the same order.

    Args:
        comparison: of comparable runs; for the public scope those that are `published`.
        command: what was called.
        table: the text of results.csv, of which a hash is shown.
        scope: `internal` or `public`.
        releases: of results, by name, the folder of the release that was trained by the same recipe.
        accusations: false positive rates on records that were never used; None if they were not measured.
        asked: points of a study of queries; none if it was not run.
        decided: lines of the choice and of the gate, as far as they were asked for; internal only, since they name
            folders of runs and accuracy on members.
        leave: answers to whether a model may leave, as `permission` gives them.
    """
    results, shipped = comparison.results, releases or {}
    sizes = sorted({result.models for result in results})
    return {
        "scope": scope,
        "note": SCOPE_NOTES[scope],
        "data": results[0].data,
        "network": " and ".join(dict.fromkeys(result.network for result in results)),
        "models": "–".join(map(str, sizes if len(sizes) < 3 else (sizes[0], sizes[-1]))),
        "utility": asdict(results[0].utility),
        "leave": list(leave) or [without_limit(comparison)],
        "verdicts": verdicts(comparison),
        "decided": [list(lines) for lines in decided] if scope == INTERNAL_SCOPE else [],
        "released": {
            "facts": dict(results[0].dataset),
            "answers": ", ".join(dict.fromkeys(result.released for result in results)),
            "releases": {label(result): shipped[result.run] for result in results if result.run in shipped},
        },
        "game": game(results[0]),
        "granted": grants(results),
        "exposed": exposed(comparison),
        "groups": groups(comparison),
        "compared": compared(results),
        "costs": costs(results),
        "largest_class": percent(results[0].find(LARGEST_CLASS)),
        "tuned": tuned(results),
        "evidence": evidence(comparison, scope),
        "pareto": pareto(comparison),
        "runs": [_run(result, comparison, scope) for result in results],
        "never_used": outsiders(accusations, results, command),
        "skipped": [skip._asdict() for skip in skips(results)],
        **({"recited": recited} if (recited := recitations(results)) else {}),
        **({"queried": queried} if (queried := limits_on_queries(asked)) else {}),
        "reproduce": provenance(results, command, table),
        "glossary": {**GLOSSARY_TERMS, **(DOCUMENT_TERMS if "vocabulary" in results[0].dataset else {})},
    }


def _run(result: Result, comparison: Comparison, scope: str) -> dict[str, Any]:
    flagged, audit = flags(result, comparison), comparison.audit(result)
    return {
        "run": result.run,
        "title": label(result),
        "folder": result.folder,
        "network": result.network,
        "defense": result.defense,
        "guard": result.guard,
        "canary": result.canary,
        "threat": result.threat,
        "released": result.released,
        "strength": result.strength,
        "guard_strength": result.guard_strength,
        "seed": result.seed,
        "models": result.models,
        "strongest": result.strongest if result.attacks else None,
        "who": crowd_word(result),
        "rows": [vars(row) for row in result.rows],
        "roc": {attack: {"fpr": list(fpr), "tpr": list(tpr)} for attack, (fpr, tpr) in result.roc.items()},
        "statement": {**asdict(result.statement), "sentence": result.statement.sentence()},
        "needs": dict(result.needs),
        "audit": {name: value for name, value in audit.items() if scope == INTERNAL_SCOPE or name != "correct"},
        "violated": any(flag.name == VIOLATED_FLAG for flag in flagged),
        "flags": [asdict(flag) for flag in flagged],
        "skipped": dict(result.skipped),
        "config": result.config,
    }


def write(
    comparison: Comparison,
    folder: Path,
    command: str,
    *,
    scope: str = INTERNAL_SCOPE,
    releases: Mapping[str, str] | None = None,
    accusations: FalseAccusations | None = None,
    asked: Sequence[StudyRow] = (),
    decided: Sequence[Sequence[str]] = (),
    limits: Sequence[Limit] = (),
    origins: Origins = UNKNOWN_ORIGINS,
    texts: Texts | None = None,
) -> list[Path]:
    """Writes tidy numbers, figures and report of comparable runs, each file whole or not at all.

    Args:
        comparison: of at least one run.
        folder: where to; made if it is missing.
        command: what was called, for whoever wants to repeat it.
        scope: `internal`, or `public`: then what names records or counts members is left out.
        releases: of runs, by name, the folder of the release that was trained by the same recipe.
        accusations: false positive rates on records that were never used; None if they were not measured.
        asked: points of a study of queries; none if it was not run.
        decided: lines of the choice and of the gate, as far as they were asked for; internal only, since they name
            folders of runs and accuracy on members.
        limits: of the choice and of the gate, as far as they were asked for.
        origins: persons and lines of the records, which exposed.csv names.
        texts: of each run its documents, by record, which exposed.csv then shows.

    Returns:
        The files, each figure as PNG; an SVG of it stands beside.

    Raises:
        ValueError: if the runs are not comparable, or the scope is unknown.
    """
    checked_scope(scope)
    shipped = dict(releases or {})
    promised = {result.run for result in comparison.results if result.statement.guarantee}
    leave = [by_limit(comparison, limit) for limit in limits] or [without_limit(comparison)]
    if scope == PUBLIC_SCOPE:
        pairs = [*zip(comparison.results, public := published(comparison.results), strict=True)]
        shipped = {new.run: Path(shipped[old.run]).name for old, new in pairs if old.run in shipped}
        command, comparison = public_command(command), Comparison(public)
        leave = list(map(in_public, leave))
    figures = {"tradeoff": tradeoff(comparison), "roc": roc(comparison)}
    files = {"results.csv": tidy_csv(comparison.results)}
    if any(result.exposed for result in comparison.results):
        figures["exposure"] = exposure(comparison)
        files["exposed.csv"] = exposed_csv(comparison.results, origins, texts)
    figures |= recitation_figures(comparison)
    if any(row.value is not None for row in asked):
        figures["queries"] = query_figure(asked, promised)
    content = summary(
        comparison, command, table=files["results.csv"], scope=scope, releases=shipped, accusations=accusations,
        asked=asked, decided=decided, leave=leave,
    )  # fmt: skip
    drawings = {name: svg(figure) for name, figure in figures.items()}
    html = render(page_of(comparison, content), drawings)
    files |= {"report.html": html, "report.json": _strict_json(content)}
    return write_files(folder, files, drawings, figures)


def tidy_csv(results: Sequence[Result]) -> str:
    """Every number of every run by `COLUMNS`; an infinite ε is `inf`, what is missing is empty."""
    return csv_text(RESULT_COLUMNS, (row for result in ordered(results) for row in result.tidy()))


def _strict_json(content: Mapping[str, Any]) -> str:
    return json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """Plain values in which infinity is the text "inf"."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def report_runs(runs: Sequence[Run], protocol: AttackProtocol, folder: Path, settings: EvaluationSettings) -> None:
    """Attacks comparable runs, prints the table and writes the report; tells which keep the limits that were asked for.

    Exits with 3 if a claim is violated, with 4 if no run can be chosen or one does not pass the gate.
    """
    asked = [(judge, Limit.asked(name, settings.plain)) for name, judge in (("choose", recommend), ("gate", gate))]
    check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    results = results_of(runs, protocol)
    comparison = Comparison(results)
    show_results(comparison)
    shipped = releases(runs, Path(settings.released))
    scope = settings.report["scope"]
    # apart from what earlier calls left for insiders
    place = folder / PUBLIC_SCOPE if scope == PUBLIC_SCOPE else folder
    study = folder / NEVER_USED / STUDY_CSV
    keys = [key for run in runs for key in keys_of(run, protocol).values()] if study.is_file() else []
    measured = false_accusations(study, results, keys)
    of_queries = folder / QUERIES_STUDY / STUDY_CSV
    asked_keys = {key_of(run, protocol) for run in runs} if of_queries.is_file() else set()
    judged = [judge(comparison, limit) for judge, limit in asked if limit is not None]
    decided = [lines for lines, _ in judged]
    for path in write(
        comparison,
        place,
        settings.command,
        scope=scope,
        releases=shipped,
        accusations=measured,
        asked=query_points(of_queries, results, asked_keys),
        decided=decided,
        limits=[limit for _, limit in asked if limit is not None],
        origins=Origins.of(runs[0].config["data"]),
        texts={run.name: shown_texts(run) for run in runs} if settings.shows_texts else None,
    ):
        print(path)
    for sentences in decided:
        print("", *sentences, sep="\n")
    if comparison.refuted:
        raise SystemExit(EXIT_CLAIM_VIOLATED)
    if not all(result for _, result in judged):
        raise SystemExit(EXIT_GATE_EXCEEDED)
