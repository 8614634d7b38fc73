"""False accusations of records that no model was trained on, as far as the study of them was run for a report."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palisade.evaluation.comparison import ordered
from palisade.evaluation.format import percent
from palisade.evaluation.labels import label
from palisade.evaluation.result import AUC, FPR, Result, tpr_at
from palisade.evaluation.studies.never_used import (
    CORRUPTED_COPIES,
    NEAR_DUPLICATES,
    NEEDS_THE_RECORD,
    OUTSIDER_ROLES,
    THRESHOLD_FPR,
)
from palisade.evaluation.studies.studies import FALSELY_ACCUSED, percents

OUTSIDER_KINDS: Mapping[str, str] = {
    CORRUPTED_COPIES: "corrupted copies of records that were never used",
    NEAR_DUPLICATES: "near-duplicates of members",
    **{role: f"{role} records" for role in OUTSIDER_ROLES},
}
OF_A_FILE = "records of another source"
"""Name of the records of a file in reports, which tell neither its name nor its place."""
STRONGEST_SHOWN = 3
"""Attacks of a run whose rates a report shows."""
ABOVE_BY_CHANCE = 0.025
"""Share of 95 % intervals that lie above the truth."""
ONLY_OF_A_REPORT = ("report", "gate", "choose", "plan")
"""Settings of a command that no study takes, or that it need not repeat."""
ONLY_CANARIES = (
    "How often attacks falsely accuse records that were never used cannot be measured here: thresholds are set by"
    " canaries, to which no other record compares. Fleets without canaries tell it."
)


@dataclass(frozen=True, kw_only=True)
class FalseAccusation:
    """A false positive rate of one attack on one kind of record.

    Args:
        title: of the run.
        attack: its name.
        kind: of the records, in words.
        value: the share accused at a threshold set for 1 % of the run's own non-members.
        low: lower end of its 95 % interval.
        high: its upper end.
        expected: the share of other records like the run's own that this threshold accuses on average.
    """

    title: str
    attack: str
    kind: str
    value: float
    low: float
    high: float
    expected: float

    @property
    def share(self) -> str:
        """The false positive rate with its 95 % interval, in percent."""
        return percent(self, interval=True)


@dataclass(frozen=True, kw_only=True)
class FalseAccusations:
    """The false positive rates that a study measured on the runs of a report.

    Args:
        worst: the highest of them.
        strongest: those of each run's strongest attacks, of the strongest first.
        rates: how many there are.
        above: how many have their whole interval above what is expected of records like the run's own.
        expected: that share, or the range of it, in words.
        unable: attacks that cannot score such records, as they need models trained on the very record.
        runs: how many of the report's runs the study covered.
        of: how many runs the report has that could be: those without canaries.
    """

    worst: FalseAccusation
    strongest: Sequence[FalseAccusation]
    rates: int
    above: int
    expected: str
    unable: Sequence[str]
    runs: int
    of: int

    @property
    def sentences(self) -> list[str]:
        """The rates in plain words."""
        meant, by_chance = f"{100 * THRESHOLD_FPR:g} %", ABOVE_BY_CHANCE * self.rates
        lines = [
            f"Every rate above is about records like those of the run. At a threshold that wrongly accuses {meant} of"
            " them, an attack may accuse more of other records that were never used either, such as near-duplicates of"
            " members, corrupted records or records of another source.",
            f"At worst, of {self.rates} rates measured, {self.worst.attack} on {self.worst.title} wrongly accuses"
            f" {self.worst.share} of {self.worst.kind}. Of others like the run's own the"
            f" thresholds accuse {self.expected} on average, as few records set each. {self.above} of the {self.rates}"
            " rates are above that with their whole interval; chance"
            f" alone explains about {by_chance:.0f}."
            + (" An accusation of such a record deserves less trust than its threshold promises." * self._is_more),
        ]
        if self.unable:
            attacks = ", ".join(self.unable)
            lines.append(f"Not among them, as they need models trained on the very record: {attacks}.")
        if self.runs < self.of:
            lines.append(f"{self.runs} of {self.of} runs were put to this test.")
        return lines

    @property
    def _is_more(self) -> bool:
        """True if chance does not explain how many rates are above what is expected."""
        return self.above > 2 * ABOVE_BY_CHANCE * self.rates


def false_accusations(study: Path, results: Sequence[Result], keys: Collection[str]) -> FalseAccusations | None:
    """The rates that a study measured on the very models of a report; None if it was not run on any.

    No record is named, and no file.

    Args:
        study: the `study.csv` of `study=shadow_mismatch` with `study.out`.
        results: of the report's runs, under the names of their folders.
        keys: of the rates that are the report's own (`keys_of`); others were measured on models or under a threat
            that it is not about.

    Raises:
        ValueError: if the file does not hold what a study writes.
    """
    if not study.is_file():
        return None
    runs = {result.run: result for result in ordered(results)}
    try:
        with study.open(newline="", encoding="utf-8") as file:
            rows = [
                row for row in csv.DictReader(file)
                if row.get("metric") == FALSELY_ACCUSED and row.get("run") in runs and row.get("key") in keys
            ]  # fmt: skip
        measured = [row for row in rows if row["value"]]
        rates = [_accusation(row, label(runs[row["run"]])) for row in measured]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{study} is not as a study wrote it ({error}); remove it, and measure anew") from None
    if not measured:
        return None
    strongest = []
    for name, result in runs.items():
        named = dict.fromkeys(row["attack"] for row in measured if row["run"] == name)
        shown = sorted(named, key=lambda attack: _power(result, attack), reverse=True)[:STRONGEST_SHOWN]
        of_run = [rate for rate, row in zip(rates, measured, strict=True) if row["run"] == name]
        strongest += [rate for attack in shown for rate in of_run if rate.attack == attack]
    return FalseAccusations(
        worst=max(rates, key=lambda rate: rate.value),
        strongest=strongest,
        rates=len(rates),
        above=sum(rate.low > rate.expected for rate in rates),
        expected=percents([rate.expected for rate in rates]),
        unable=list(dict.fromkeys(row["attack"] for row in rows if row["note"] == NEEDS_THE_RECORD)),
        runs=len({row["run"] for row in measured}),
        of=sum(not result.has_canaries for result in runs.values()),
    )


def outsiders(accusations: FalseAccusations | None, results: Sequence[Result], command: str) -> dict[str, Any]:
    """The part of a report on records that were never used: sentences, and the numbers if there are any.

    Args:
        accusations: None if the study was not run.
        results: of the report's runs.
        command: that wrote the report, as its readers may see it.
    """
    if accusations is not None:
        return {"sentences": accusations.sentences, "command": None, "rates": asdict(accusations)}
    if all(result.has_canaries for result in results):
        return {"sentences": [ONLY_CANARIES], "command": None, "rates": None}
    return {
        "sentences": [
            "How often attacks falsely accuse records that were never used, though these resemble members or come from"
            " another source, was not measured for these models under this threat. This measures it:"
        ],
        "command": shlex.join([*_of_a_study(shlex.split(command)), "study=shadow_mismatch", "study.out=test"]),
        "rates": None,
    }


def _of_a_study(words: Sequence[str]) -> list[str]:
    """The words of a command that decide rates: attacks are chosen where their settings need it."""
    keys = [word.lstrip("+~").split("=")[0] for word in words]
    needless = ONLY_OF_A_REPORT if any(key.startswith("attack.") for key in keys) else (*ONLY_OF_A_REPORT, "attack")
    return [word for word, key in zip(words, keys, strict=True) if key.split(".")[0] not in needless]


def accusation_table(rates: Mapping[str, Any] | None) -> tuple[list[str], list[tuple[str, ...]]]:
    """Kinds of record, and for each run and strong attack its title, name and share of each kind.

    Args:
        rates: those of `outsiders`.
    """
    strongest = [] if rates is None else [FalseAccusation(**rate) for rate in rates["strongest"]]
    kinds = list(dict.fromkeys(rate.kind for rate in strongest))
    shares = {(rate.title, rate.attack, rate.kind): rate.share for rate in strongest}
    named = dict.fromkeys((rate.title, rate.attack) for rate in strongest)
    return kinds, [(*name, *(shares.get((*name, kind), "–") for kind in kinds)) for name in named]


def _accusation(row: Mapping[str, str], run: str) -> FalseAccusation:
    shares = {name: round(float(row[name]), 3) for name in ("value", "low", "high", "expected")}
    if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares.values()):
        raise ValueError(f"{shares} are no shares")
    return FalseAccusation(
        title=run, attack=row["attack"], kind=OUTSIDER_KINDS.get(row["setting"], OF_A_FILE), **shares
    )


def _power(result: Result, attack: str) -> tuple[float, float]:
    """Strength of an attack: TPR at a low FPR, then AUC; below all others if the report has none of it."""
    rows = (result.find(metric, attack=attack) for metric in (tpr_at(FPR), AUC))
    tpr, auc = (-1.0 if row is None or row.value is None else row.value for row in rows)
    return tpr, auc
