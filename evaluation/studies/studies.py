"""Studies: the same targets attacked under several settings, such as output levels or sources of shadows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from palisade.evaluation.comparison import must_agree
from palisade.evaluation.format import NO_NUMBER, empty_table, percent
from palisade.evaluation.labels import label
from palisade.evaluation.result import AUC, REPORTED_FPRS, Result, most_powerful, tpr_at

FALSELY_ACCUSED = "falsely_accused"
"""The share of records that were never used above a threshold set for 1 % of non-members."""
NEVER_USED = "never_used"
"""Folder of a study of records that were never used."""
STUDY_CSV = "study.csv"
TPR = tpr_at(REPORTED_FPRS[0])
LEAKAGE_METRICS = (AUC, *(tpr_at(fpr) for fpr in REPORTED_FPRS))
UTILITY_METRICS = ("test_accuracy", "train_accuracy")
ACCURACY_GAP = "accuracy_gap"
"""Accuracy on members less that on non-members."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One number of a study.

    Args:
        target: the run that was attacked, in a few words.
        varied: what differs between settings: `released`, `shadows from` which run, or a factor such as `epochs`.
        setting: one of these, such as `top-3`.
        attack: which one; empty for accuracies.
        metric: `auc`, `tpr@1%fpr` or `tpr@0.1%fpr`, the mean over the fleet, or an accuracy.
        value: None where the attack was skipped or the metric cannot be resolved.
        low: lower end of the 95 % interval, None where there is none.
        high: its upper end.
        note: why the attack was skipped, empty otherwise.
        run: the name of the target, empty where several are meant.
        expected: false positive rate of the threshold on records like the run's own.
        key: of false accusations, what decides them: these very models, what is granted, and the attack's settings.
    """

    target: str
    varied: str
    setting: str
    attack: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    run: str = ""
    expected: float | None = None
    key: str = ""


@dataclass(frozen=True)
class Study:
    """The rows of a study, by what they are about."""

    rows: Sequence[StudyRow]

    @property
    def targets(self) -> list[str]:
        """The runs that were attacked, in order of appearance."""
        return list(dict.fromkeys(row.target for row in self.rows))

    @property
    def settings(self) -> list[str]:
        """Settings in order of appearance; numbers rise."""
        named = list(dict.fromkeys(row.setting for row in self.rows))
        return sorted(named, key=float) if all(map(_is_number, named)) else named

    @property
    def varied(self) -> str:
        """The name of what differs between settings; a study of several things has `parts`."""
        return self.rows[0].varied

    @property
    def parts(self) -> list[Study]:
        """One for each thing that is varied."""
        names = dict.fromkeys(row.varied for row in self.rows)
        return [Study([row for row in self.rows if row.varied == name]) for name in names]

    @property
    def numeric(self) -> bool:
        """Test for settings that are numbers, over which curves can be drawn."""
        return all(map(_is_number, self.settings))

    def attacks(self, target: str) -> list[str]:
        """Names of the attacks on one target, in order of appearance."""
        return list(dict.fromkeys(row.attack for row in self.rows if row.target == target and row.attack))

    def row(self, target: str, setting: str, attack: str, metric: str) -> StudyRow | None:
        """One number with its interval; None where it was not measured."""
        wanted = (target, setting, attack, metric)
        result = (row for row in self.rows if (row.target, row.setting, row.attack, row.metric) == wanted)
        return next(result, None)

    def value(self, target: str, setting: str, attack: str, metric: str) -> float | None:
        """One number; None where there is none."""
        row = self.row(target, setting, attack, metric)
        return None if row is None else row.value

    def strongest(self, target: str, setting: str) -> str | None:
        """The most powerful attack; None if all were skipped."""
        ran = [attack for attack in self.attacks(target) if self.value(target, setting, attack, AUC) is not None]
        powers = {
            attack: (self.value(target, setting, attack, TPR), self.value(target, setting, attack, AUC))
            for attack in ran
        }
        return most_powerful(powers) if powers else None

    def skips(self) -> list[tuple[list[str], str, list[str]]]:
        """Each reason why attacks were skipped once: these, the reason, and the settings."""
        reasons: dict[str, list[StudyRow]] = {}
        for row in self.rows:
            if row.note:
                reasons.setdefault(row.note, []).append(row)
        skipped = []
        for note, rows in reasons.items():
            among = {row.setting for row in rows}
            attacks = list(dict.fromkeys(row.attack for row in rows))
            skipped.append((attacks, note, [setting for setting in self.settings if setting in among]))
        return skipped


def _is_number(setting: str) -> bool:
    return setting.replace(".", "", 1).isdigit()


def study_rows(result: Result, *, target: str, varied: str, setting: str) -> list[StudyRow]:
    """Rows of a study for one run under one setting; skipped attacks have no values, but a note."""
    named: dict[str, Any] = {"target": target, "varied": varied, "setting": setting}
    measured = [
        StudyRow(attack=row.attack, metric=row.metric, value=row.value, low=row.low, high=row.high, **named)
        for row in result.rows
        if row.attack and row.metric in LEAKAGE_METRICS and row.model == row.group == "all"
    ]
    skipped = [
        StudyRow(attack=attack, metric=metric, value=None, note=reason, **named)
        for attack, reason in result.skipped.items()
        for metric in LEAKAGE_METRICS
    ]
    return measured + skipped


def labels(results: Sequence[Result]) -> list[str]:
    """Labels of the runs: the defense, and the settings in which a run differs from most others that have them; its
    folder too where that leaves several alike."""
    settings = [
        {"seed": result.seed}
        | {key: value for key, value in must_agree(result.config).items() if not key.startswith("network.")}
        | {"names.network": result.config["names"]["network"]}
        for result in results
    ]
    keys = sorted({key for values in settings for key in values})
    usual = {
        key: Counter(str(values[key]) for values in settings if key in values).most_common(1)[0][0] for key in keys
    }
    named = [
        ", ".join(
            [label(result)]
            + [f"{key.removeprefix('names.')}={values[key]}" for key in values if str(values[key]) != usual[key]]
        )
        for result, values in zip(results, settings, strict=True)
    ]
    return [
        f"{name} ({result.run})" if named.count(name) > 1 else name for name, result in zip(named, results, strict=True)
    ]


def study_tables(rows: Sequence[StudyRow]) -> list[Table | Text]:
    """Tables of the strongest attack by target and setting, TPR at 1 % FPR and AUC of all, and reasons of skips."""
    attacked = Study([row for row in rows if row.metric != FALSELY_ACCUSED])
    never_used = Study([row for row in rows if row.metric == FALSELY_ACCUSED])
    return [part for study in attacked.parts for part in _tables(study)] + _accusations(never_used)


def _accusations(never_used: Study) -> list[Table | Text]:
    """False positive rates of each attack on each kind of record, and why some attacks have none."""
    scored = [row for row in never_used.rows if row.value is not None]
    reasons = [
        Text.assemble(
            (f"cannot score {', '.join(attacks)}: ", "dim"), reason + ("" if whole else f" ({'; '.join(at)})")
        )
        for attacks, reason, at in never_used.skips()
        for whole in [at == never_used.settings]
    ]
    return [*([_false_positives(Study(scored))] if scored else []), *reasons]


def _false_positives(study: Study) -> Table:
    """The share of each kind of record that each attack accuses falsely, with its interval."""
    table = empty_table()
    expected = percents([row.expected for row in study.rows if row.expected is not None])
    table.caption = (
        "share falsely accused at a threshold set for 1 % of the run's own non-members [95 %];"
        f" of others like these, it accuses {expected} on average"
    )
    table.caption_justify = "left"
    for heading in ("target ↓, records never used →", *study.settings):
        table.add_column(heading, justify="right" if table.columns else "left")
    for target in study.targets:
        table.add_row(target, style="bold")
        for attack in study.attacks(target):
            shown = [study.row(target, kind, attack, FALSELY_ACCUSED) for kind in study.settings]
            table.add_row(f"  {attack}", *(NO_NUMBER if row is None else percent(row, interval=True) for row in shown))
    return table


def percents(shares: Sequence[float]) -> str:
    """Shares as one percentage, or as a range of them such as `1.0–1.6 %`.

    Raises:
        ValueError: if there is none.
    """
    ends = dict.fromkeys(f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return f"{'–'.join(ends)} %"


def _tables(study: Study) -> list[Table | Text]:
    table = empty_table()
    table.caption, table.caption_justify = "TPR at 1 % FPR · AUC; on top the strongest attack", "left"
    for heading in (f"target ↓, {study.varied} →", *study.settings):
        first = not table.columns
        table.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for target in study.targets:
        best = [study.strongest(target, setting) or "all skipped" for setting in study.settings]
        table.add_row(target, *best, style="bold")
        gaps = [study.value(target, setting, "", ACCURACY_GAP) for setting in study.settings]
        if any(gap is not None for gap in gaps):
            table.add_row("  accuracy gap", *(NO_NUMBER if gap is None else f"{100 * gap:.1f} %" for gap in gaps))
        for attack in study.attacks(target):
            table.add_row(f"  {attack}", *(cell(study, target, setting, attack) for setting in study.settings))
    notes = []
    for attacks, reason, settings in study.skips():
        where = "" if settings == study.settings else f" ({study.varied} {'; '.join(settings)})"
        notes.append(Text.assemble((f"skipped {', '.join(attacks)}: ", "dim"), reason + where))
    return [table, *notes]


def cell(study: Study, target: str, setting: str, attack: str) -> str:
    """TPR at 1 % FPR and AUC of an attack, a dash where it was skipped."""
    tpr, auc = (study.value(target, setting, attack, metric) for metric in (TPR, AUC))
    if auc is None:
        return NO_NUMBER
    return f"{NO_NUMBER if tpr is None else f'{100 * tpr:.1f} %'} · {auc:.3f}"
