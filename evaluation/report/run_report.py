"""The report of comparable runs: attacked, shown, written, and judged by the limits that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palisade.commandline import CLAIM_VIOLATED, GATE_EXCEEDED
from palisade.evaluation.comparison import Comparison, check_comparable
from palisade.evaluation.limit import Limit, gate, recommend
from palisade.evaluation.measuring.measure import results_of
from palisade.evaluation.method import Method
from palisade.evaluation.report.outsiders import false_accusations
from palisade.evaluation.report.provenance import releases
from palisade.evaluation.report.scope import PUBLIC
from palisade.evaluation.report.writing import write
from palisade.evaluation.settings import EvaluationSettings
from palisade.evaluation.studies.never_used import keys_of
from palisade.evaluation.studies.studies import NEVER_USED, STUDY_CSV
from palisade.evaluation.table import show_results
from palisade.targets.run import Run


def report_runs(runs: Sequence[Run], method: Method, folder: Path, settings: EvaluationSettings) -> None:
    """Attacks comparable runs, prints the table and writes the report; tells which keep the limits that were asked for.

    Exits with 3 if a claim is violated, with 4 if no run can be chosen or one does not pass the gate.
    """
    asked = [(judge, Limit.asked(name, settings.plain)) for name, judge in (("choose", recommend), ("gate", gate))]
    check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    results = results_of(runs, method)
    comparison = Comparison(results)
    show_results(comparison)
    shipped = releases(runs, Path(settings.released))
    scope = settings.report["scope"]
    place = folder / PUBLIC if scope == PUBLIC else folder  # apart from what earlier calls left for insiders
    study = folder / NEVER_USED / STUDY_CSV
    keys = [key for run in runs for key in keys_of(run, method).values()] if study.is_file() else []
    measured = false_accusations(study, results, keys)
    for path in write(comparison, place, settings.command, scope=scope, releases=shipped, accusations=measured):
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
