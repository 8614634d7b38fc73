"""The study of records that were never used: which of them the attacks on each run accuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palisade.evaluation.method import Method
from palisade.evaluation.result import Result
from palisade.evaluation.studies.never_used import accusations, keys_of
from palisade.evaluation.studies.outside_records import SETTING, outside_records
from palisade.evaluation.studies.studies import FALSELY_ACCUSED, StudyRow, labels
from palisade.targets import progress, workers
from palisade.targets.run import Run


def never_used_rows(runs: Sequence[Run], method: Method, out: str) -> list[StudyRow]:
    """False positive rates on records that were never used, of every run by its own shadows.

    Runs with canaries are left out, with a note: their thresholds are set by canaries, to which no other record
    compares.

    Args:
        runs: complete runs of one data set.
        method: how they are attacked.
        out: a role of the split, or a file of other records (`outside_records`).

    Raises:
        ValueError: if all runs have canaries, or there are no such records.
    """
    compared = [run for run in runs if not len(run.dataset.split.canaries)]
    if not compared:
        raise ValueError(
            f"{SETTING}={out} compares with the run's own records, and all runs have canaries in their place; choose"
            " runs that were trained without canary=…"
        )
    for run in compared:
        outside_records(run, out)  # what is wrong with them is said before anything is attacked
    if left_out := len(runs) - len(compared):
        progress.say(f"left out: {left_out} of {len(runs)} runs, whose thresholds would be set by canaries")
    titles = labels([Result.of(run, rows=(), roc={}, skipped={}) for run in compared])
    items = [(place, run, method, out, titles[place]) for place, run in enumerate(compared)]
    with progress.Progress(runs[0].folder.parent, len(items), "runs attacked"):
        measured = dict(workers.run(accused, items, workers.count("auto")))
    return [row for place in range(len(items)) for row in measured[place]]  # workers finish in any order


def accused(place: int, run: Run, method: Method, out: str, target: str) -> tuple[int, list[StudyRow]]:
    """The work item of a process: the rates of one run."""
    keys = keys_of(run, method)  # before others may extend the run
    named: dict[str, Any] = {"target": target, "varied": "never used", "metric": FALSELY_ACCUSED, "run": run.name}
    rows = [
        StudyRow(
            setting=kind, attack=attack, note=note, key=keys[attack], **named,
            **({"value": None} if rate is None else rate._asdict()),
        )
        for kind, attack, rate, note in accusations(run, method, out)
    ]  # fmt: skip
    progress.report(run.name, 1)
    return place, rows
