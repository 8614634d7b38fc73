"""False accusations of records that no model was trained on, as far as the study of them was run for a report."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.curves import ordered
from evaluation.findings import Findings
from evaluation.studies.never_used import CORRUPTED, NEAR_DUPLICATES, OUTSIDER_ROLES, THRESHOLD_FPR
from evaluation.studies.studies import FALSELY_ACCUSED
from evaluation.titles import title

KINDS: Mapping[str, str] = {
    CORRUPTED: "corrupted copies of records that were never used",
    NEAR_DUPLICATES: "near-duplicates of members",
    **{role: f"{role} records" for role in OUTSIDER_ROLES},
}
OF_A_FILE = "records of another source"
"""What records of a file are called: its name and place are nobody's business."""
ONLY_OF_A_REPORT = ("report", "gate", "choose", "plan", "attack")
"""Settings of a command that no study takes, or that it need not repeat."""


@dataclass(frozen=True, kw_only=True)
class WorstAccusation:
    """The attack and the kind of record with the highest false positive rate of a study.

    Args:
        title: of the run.
        attack: its name.
        kind: of the records, in words.
        value: the share accused at a threshold set for 1 % of the run's own non-members.
        low: lower end of its 95 % interval.
        high: its upper end.
        runs: how many of the report's runs the study covered.
        of: how many runs the report has.
    """

    title: str
    attack: str
    kind: str
    value: float
    low: float
    high: float
    runs: int
    of: int

    @property
    def sentence(self) -> str:
        share = f"{100 * self.value:.1f} % [{100 * self.low:.1f}–{100 * self.high:.1f}]"
        words = (
            f"A threshold set for {100 * THRESHOLD_FPR:g} % of a run's own non-members may accuse more of other"
            f" records that were never used: at worst {self.attack} on {self.title} accuses {share} of {self.kind}"
        )
        words += "." if self.runs == self.of else f"; {self.runs} of {self.of} runs were put to this test."
        if self.low > THRESHOLD_FPR:
            words += " An accusation of such a record is wrong more often than the threshold says."
        return words


def worst_accusation(study: Path | None, findings: Sequence[Findings]) -> WorstAccusation | None:
    """The worst of the rates that a study measured on the very runs of a report; None if it was not run on any.

    No record is named, and no file.

    Args:
        study: the `study.csv` of `study=shadow_mismatch`.
        findings: of the report's runs, under the names of their folders.
    """
    if study is None or not study.is_file():
        return None
    with study.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == FALSELY_ACCUSED and row["value"]]
    titles = {found.run: title(found) for found in ordered(findings)}
    measured = [row for row in rows if row.get("run") in titles]
    if not measured:
        return None
    worst = max(measured, key=lambda row: float(row["value"]))
    return WorstAccusation(
        title=titles[worst["run"]],
        attack=worst["attack"],
        kind=KINDS.get(worst["setting"], OF_A_FILE),
        value=round(float(worst["value"]), 3),
        low=round(float(worst["low"]), 3),
        high=round(float(worst["high"]), 3),
        runs=len({row["run"] for row in measured}),
        of=len(titles),
    )


def outsiders(worst: WorstAccusation | None, command: str) -> dict[str, Any]:
    """The part of a report on records that were never used: a sentence, and the numbers if there are any.

    Args:
        worst: None if the study was not run.
        command: that wrote the report, as its readers may see it.
    """
    if worst is not None:
        return {"sentence": worst.sentence, "command": None, "worst": asdict(worst)}
    words = [
        word for word in shlex.split(command) if word.lstrip("+~").split("=")[0].split(".")[0] not in ONLY_OF_A_REPORT
    ]
    return {
        "sentence": "How often records that were never used are falsely accused, though they resemble members or come"
        " from another source, was not measured for these runs; this measures it:",
        "command": shlex.join([*words, "study=shadow_mismatch", "study.out=test"]),
        "worst": None,
    }
