"""Limits on leakage, and the gate of a pipeline that all runs must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.stats import beta, t

from palisade.data.settings import check_group, validated
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import below_half
from palisade.evaluation.format import number, percent
from palisade.evaluation.labels import guessing_text, label
from palisade.evaluation.result import AUC, GUESSING_AUC, REPORTED_FPRS, Result, Row, tpr_at
from palisade.fields import CheckedFields

WITHIN_LIMIT, NOT_DECIDED, LIMIT_EXCEEDED = "kept", "not decided", "EXCEEDED"
MIN_MODELS = 4
"""Models below which how much they differ is unknown."""
ENOUGH_MODELS = 16
"""Models from which on a kind of model that is one in four is missing in one fleet of a hundred."""
RARE_SHARE = 0.25
"""The share of models of a kind that a fleet should not miss."""
LIMIT_ALPHA = 0.05
NO_MEASUREMENT = "nothing measured"
NOTHING_MEASURED = "every attack was skipped, so nothing was measured"
WITHOUT_SHADOWS = " as far as an audit without shadows can tell"


class LimitVerdict(NamedTuple):
    """The verdict on a run and a limit.

    Args:
        word: `kept`, `not decided` where the measurement cannot tell, as more models or records might, or `EXCEEDED`.
        why: it is not known to be kept; None if it is.
    """

    word: str
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limit(CheckedFields):
    """The most that attacks may find, and that accuracy may be lower on records that a model was not trained on.

    Each is compared with the upper end of the 95 % interval: a run keeps it where its measurement excludes more, not
    where its value happens to lie below.

    Args:
        name: of the group of settings, `gate` or `choose`.
        max_tpr: share of members that may be found, above `fpr` (an attack that guesses finds `fpr`) and at most 1.
        fpr: the false positive rate, 0.01 or 0.001; None: 0.01.
        max_auc: the largest AUC, above ½, which guessing has, and at most 1.
        max_gap: accuracy on members less that on others, at most, above 0 and at most 1.

    Raises:
        ValueError: if no run could keep it, or every run would, or it is not measured at this FPR.

    Example:
        >>> str(Limit(name="gate", max_tpr=0.05))
        'at most 5 % of members found at 1 % FPR'
    """

    name: str
    max_tpr: Annotated[float, Field(gt=0, le=1, examples=[0.05])] | None = None
    fpr: Annotated[float, Field(gt=0, lt=1, examples=[REPORTED_FPRS[0]])] | None = None
    max_auc: Annotated[float, Field(gt=GUESSING_AUC, le=1, examples=[0.6])] | None = None
    max_gap: Annotated[float, Field(gt=0, le=1, examples=[0.05])] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at not in REPORTED_FPRS:
            measured = " or ".join(f"{fpr:g}" for fpr in REPORTED_FPRS)
            raise ValueError(f"fpr={self.fpr}: expected {measured}, which are measured; choose one of them")
        if self.max_tpr is None and self.fpr is not None:
            raise ValueError(f"fpr={self.fpr}: expected a limit at this FPR; add {self.name}.max_tpr=<share>")
        if not any(self._limits):
            raise ValueError("max_tpr=null: expected a limit; give the share of members that may be found")
        if self.max_tpr is not None and self.max_tpr <= self.at:
            raise ValueError(
                f"max_tpr={self.max_tpr}: expected a number > {self.name}.fpr={self.at}, which guessing finds;"
                " choose e.g. 0.05"
            )

    @classmethod
    def asked(cls, name: str, settings: Mapping[str, Any]) -> Limit | None:
        """The limit of this name in the settings of `evaluate.py`; None if it was not asked for."""
        group = settings[name]
        check_group(name, group)
        return None if all(value is None for value in group.values()) else validated(cls, name, {**group, "name": name})

    @property
    def _limits(self) -> tuple[bool, bool, bool]:
        return self.max_tpr is not None, self.max_auc is not None, self.max_gap is not None

    @property
    def key(self) -> str:
        """The first setting that limits something, such as `gate.max_tpr`."""
        return f"{self.name}.{('max_tpr', 'max_auc', 'max_gap')[self._limits.index(True)]}"

    @property
    def at(self) -> float:
        """The FPR."""
        return REPORTED_FPRS[0] if self.fpr is None else self.fpr

    @property
    def most(self) -> float:
        """The largest TPR that is allowed, in (0, 1]."""
        return self.max_tpr or 1.0

    def __str__(self) -> str:
        parts = []
        if self.max_tpr is not None:
            parts.append(f"at most {100 * self.most:g} % of members found at {100 * self.at:g} % FPR")
        if self.max_auc is not None:
            parts.append(f"an AUC of at most {self.max_auc:g}")
        if self.max_gap is not None:
            parts.append(f"accuracy at most {100 * self.max_gap:g} points lower on others than on members")
        return ", ".join(parts)

    def highest(self, result: Result) -> Row | None:
        """The TPR of the attack with the largest upper limit; None unless all are resolved at this FPR.

        Its interval allows for how much the models differ, which is wider than that of the table where they are few.
        An attack on a sample of the records, or on few of the models, counts only where there is no other: the sample
        may be an easy one.
        """
        return _largest(self._rows(result))

    def _rows(self, result: Result) -> list[Row]:
        attacks = result.on_all
        if result.sides is not None:  # the interval of one model's tie spans every FPR that the threshold jumps over
            attacks = [attack for attack in attacks if not result.ties(attack, self.at)] or attacks
        return [widened(result.get(tpr_at(self.at), attack=attack), result) for attack in attacks]

    def measured(self, result: Result) -> str:
        """Measurements that are compared with the limit, beside those of guessing where it is not excluded."""
        parts = []
        if self.max_tpr is not None:
            row = self.highest(result)
            unclear = row is not None and not result.excludes_guessing(row)
            luck = f"; guessing finds {guessing_text(result, row)}" if row is not None and unclear else ""
            parts.append(tpr_text(row) + luck)
        if self.max_auc is not None:
            parts.append(_auc_text(highest_auc(result)))
        if self.max_gap is not None:
            parts.append(_gap_text(result.gap))
        return "; ".join(parts)

    def verdict(self, result: Result, comparison: Comparison) -> LimitVerdict:
        """The verdict on a run, with the reason if it is not known to keep the limit.

        Args:
            result: of the run.
            comparison: of all runs that are judged together.
        """
        if result.run in comparison.refuted:
            return LimitVerdict(LIMIT_EXCEEDED, "its claim is refuted")
        if result.explained == 1:
            return LimitVerdict(
                LIMIT_EXCEEDED, "members and non-members differ by themselves, so that nothing here measures leakage"
            )
        judges = (self._verdict_on_tpr, self._verdict_on_auc, self._verdict_on_gap)
        verdicts = [judge(result, comparison) for judge, asked in zip(judges, self._limits, strict=True) if asked]
        word = max((each.word for each in verdicts), key=(WITHIN_LIMIT, NOT_DECIDED, LIMIT_EXCEEDED).index)
        return LimitVerdict(word, "; ".join(each.why for each in verdicts if each.why is not None) or None)

    def _verdict_on_tpr(self, result: Result, comparison: Comparison) -> LimitVerdict:
        if not result.attacks:
            return LimitVerdict(NOT_DECIDED, NOTHING_MEASURED)
        row = self.highest(result)
        if row is None:
            return LimitVerdict(
                NOT_DECIDED,
                f"{100 * self.at:g} % FPR cannot be resolved: it takes {1 / self.at:.0f} non-members"
                + (" a model, that is more records" if result.sides is None else ""),
            )
        if result.guessing_level(row) >= self.most:
            return LimitVerdict(
                NOT_DECIDED,
                f"guessing finds {guessing_text(result, row)} of so few non-members, so that no run can be known to"
                " keep this limit: it takes a larger one, or more records",
            )
        if (leaky := self._leaky(result)) is not None:
            return LimitVerdict(LIMIT_EXCEEDED, leaky)
        if (tied := _tied_beyond(result, self.at)) is not None:
            auc = number(result.get(AUC, attack=tied), interval=True)
            return LimitVerdict(
                NOT_DECIDED,
                f"the scores of {tied} only tie at {100 * self.at:g} % FPR, so that nobody can say what it finds there;"
                f" its AUC is {auc}",
            )
        return _compared(row, self.most, tpr_text(row), result) or _if_understated(result, row, comparison, self.at)

    def _verdict_on_auc(self, result: Result, comparison: Comparison) -> LimitVerdict:
        if not result.attacks:
            return LimitVerdict(NOT_DECIDED, NOTHING_MEASURED)
        row, most = highest_auc(result), self.max_auc or 1.0
        if row is None:
            return LimitVerdict(NOT_DECIDED, "the AUC has no interval")
        return _compared(row, most, _auc_text(row), result) or _if_understated(result, row, comparison, None)

    def _verdict_on_gap(self, result: Result, comparison: Comparison) -> LimitVerdict:
        row, most = result.gap, self.max_gap or 1.0
        if row is None or row.high is None:
            return LimitVerdict(NOT_DECIDED, "accuracy was not measured on members and on others")
        return _compared(row, most, _gap_text(row), result) or LimitVerdict(WITHIN_LIMIT)

    def _leaky(self, result: Result) -> str | None:
        """Objection to one model that leaks beyond the limit and what its records explain: a mean would hide it."""
        for row in self._rows(result):
            leakiest = worst(row, result)
            if leakiest is not None and leakiest[1] > self.most:
                model = leakiest[0]
                return f"{percent(model)} by {row.attack} in model {model.model}, which leaks more than the limit"
        return None


def refuse_limits(settings: Mapping[str, Any], what: str) -> None:
    """Raises ValueError if a limit was asked for where no runs are judged, rather than pass it over."""
    for name in ("choose", "gate"):
        if (limit := Limit.asked(name, settings)) is not None:
            raise ValueError(f"{limit.key}: expected runs to judge, not {what}; call evaluate.py without {what} for it")


def _compared(row: Row, most: float, text: str, result: Result) -> LimitVerdict | None:
    """The verdict on a measurement that is not known to keep a limit; None if it is."""
    about_one = result.sides is not None  # then nothing is said about other models
    known = (row.low or 0.0) > most
    if result.models < MIN_MODELS and most < 1 and not about_one:
        few = f"{text}, but models={result.models} do not tell how much models differ; train at least"
        return LimitVerdict(
            LIMIT_EXCEEDED if known else NOT_DECIDED, f"{few} {MIN_MODELS}, better fleet.models={ENOUGH_MODELS}"
        )
    if upper(row) <= most:
        return None
    if known:
        return LimitVerdict(LIMIT_EXCEEDED, f"{text} is more than the limit")
    above = f"{text} may be more than the limit"
    if about_one or result.models >= ENOUGH_MODELS:
        return LimitVerdict(LIMIT_EXCEEDED, above)
    return LimitVerdict(NOT_DECIDED, f"{above}; more models tell, fleet.models={ENOUGH_MODELS}")


def _largest(rows: Sequence[Row]) -> Row | None:
    """The row with the largest upper limit; None unless all have one."""
    return None if any(row.high is None for row in rows) else max(rows, key=upper, default=None)


def highest_auc(result: Result) -> Row | None:
    """The AUC of the attack with the largest upper limit; None unless all have one."""
    return _largest([widened(result.get(AUC, attack=attack), result) for attack in result.on_all])


def _tied_beyond(result: Result, fpr: float) -> str | None:
    """An attack that ranks members clearly better than guessing and than every attack whose scores do not tie at this
    FPR; None if there is none.

    The TPR of such an attack at this FPR is unknown: its threshold jumps over it.
    """
    aucs = {attack: result.get(AUC, attack=attack) for attack in result.on_all}
    untied = [max(upper(row), GUESSING_AUC) for attack, row in aucs.items() if not result.ties(attack, fpr)]
    tied = [attack for attack in aucs if result.ties(attack, fpr)]
    best = max(tied, key=lambda attack: aucs[attack].value or 0.0, default=None)
    return None if best is None or (aucs[best].low or 0.0) <= max(untied, default=GUESSING_AUC) else best


def _auc_text(row: Row | None) -> str:
    if row is None:
        return NO_MEASUREMENT
    return f"AUC {number(row)}{_up_to(row)} by {row.attack}"


def _gap_text(row: Row | None) -> str:
    if row is None:
        return "accuracy gap not measured"
    return f"accuracy {number(row, factor=100, digits=1, unit=' points', interval=True)} lower on others"


def upper(row: Row) -> float:
    """The upper end of the interval; 1 where there is none."""
    return 1.0 if row.high is None else row.high


def tpr_text(row: Row | None) -> str:
    """A TPR and the upper end of its interval, which alone is compared with a limit: `3.1 % (up to 3.9 %) by lira`."""
    if row is None:
        return NO_MEASUREMENT
    return f"{percent(row)}{_up_to(row, factor=100, digits=1, unit=' %')} by {row.attack}"


def _up_to(row: Row, *, factor: float = 1, digits: int = 3, unit: str = "") -> str:
    return "" if row.high is None else f" (up to {factor * row.high:.{digits}f}{unit})"


def _if_understated(result: Result, row: Row, comparison: Comparison, fpr: float | None) -> LimitVerdict:
    """The verdict on a TPR at an FPR, or an AUC, that lies below the limit: kept unless more leaks than it says."""
    why = _understated(result, row, comparison, fpr)
    return LimitVerdict(WITHIN_LIMIT) if why is None else LimitVerdict(LIMIT_EXCEEDED, why)


def _understated(result: Result, row: Row, comparison: Comparison, fpr: float | None) -> str | None:
    """The reason why the measured number is below what leaks; None if there is none."""
    if fpr is not None and result.ties(row.attack, fpr):
        return f"the scores of {row.attack} tie, so that its TPR is that of a smaller FPR"
    if len(below_half(result)) == len(result.attacks):
        swapped = "" if result.sides is None else "; are the two files swapped?"
        return f"members rank below non-members in every attack{swapped}"
    if result.sides is not None and result.sides.shared:
        return f"{result.sides.shared} records are on both sides, so that attacks look weaker than they are"
    if comparison.masking(result):
        return "it masks what it leaks: labels alone tell more than these attacks on scores find"
    return None


def gate(comparison: Comparison, limit: Limit) -> tuple[list[str], bool]:
    """A line for each result, and whether all of them keep the limit.

    One model that exists already is judged by attacks without shadow models, and so is a fleet where no other was
    chosen. These usually find less than attacks with shadows, and the line says so.

    Unmeasured leakage does not pass: an FPR that takes more records, attacks that were all skipped, a claim that
    is refuted, and scores behind which the models still leak. Nor does what too few models leave undecided.
    """
    lines, passed = [f"gate: {limit}"], True
    for result in comparison.results:
        word, why = limit.verdict(result, comparison)
        if why is None:
            why = limit.measured(result)
            if result.models < ENOUGH_MODELS and result.sides is None:
                why += f"; {unseen(result.models)}"
        whose = f"{label(result)} ({result.run}): " if result.sides is None else ""
        passed &= word == WITHIN_LIMIT
        scope = WITHOUT_SHADOWS if word == WITHIN_LIMIT and is_shadowless(result) else ""
        lines.append(f"{word}{scope}: {whose}{why}")
    return lines, passed


def is_shadowless(result: Result) -> bool:
    """True where no attack had shadow models of other members, with which attacks usually find more."""
    shadows = any("shadows" in result.needs.get(attack, {}).get("text", "") for attack in result.attacks)
    return not shadows or (result.sides is not None and not result.sides.shadow_models)


def of_models(result: Result, row: Row) -> list[Row]:
    """The rows of each model that a row is the mean of."""
    named = row.attack, row.metric, row.group
    return [each for each in result.rows if each.model != "all" and (each.attack, each.metric, each.group) == named]


def widened(row: Row, result: Result) -> Row:
    """A row whose interval also holds what the spread of the models allows for, by t-quantiles.

    Resampling a few models understates how much they differ: of two, half of the resamples hold one alone.

    Args:
        row: a mean over models.
        result: what it belongs to.
    """
    values = _units([each.value for each in of_models(result, row) if each.value is not None], result)
    if len(values) < 2 or row.low is None or row.high is None:
        return row
    half = float(t.ppf(1 - LIMIT_ALPHA / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    middle = float(values.mean())
    return replace(row, low=min(row.low, max(0.0, middle - half)), high=max(row.high, min(1.0, middle + half)))


def worst(row: Row, result: Result) -> tuple[Row, float] | None:
    """The model in which most members are found, and the least share that its records, were they others, would give.

    The share is the lower end of a Clopper–Pearson interval at 97.5 % for all models together.

    Args:
        row: a mean over models.
        result: what it belongs to.
    """
    models = [each for each in of_models(result, row) if each.value is not None and each.members]
    if not models:
        return None
    highest = max(models, key=lambda each: each.value or 0.0)
    members = highest.members or 0
    hits = round((highest.value or 0.0) * members)
    least = float(beta.ppf(LIMIT_ALPHA / 2 / len(models), hits, members - hits + 1)) if hits else 0.0
    return highest, least


def unseen(models: int) -> str:
    """The chance that a fleet misses a kind of model, such as `of 8 models a kind that is one in four …`."""
    return (
        f"of {models} models, a kind that is one in {1 / RARE_SHARE:.0f} is missing with probability"
        f" {100 * (1 - RARE_SHARE) ** models:.0f} %"
    )


def _units(values: Sequence[float], result: Result) -> Float[np.ndarray, "units"]:
    """A value of each independent draw: two models of complementary membership are one."""
    drawn = np.array(values, dtype=np.float64)
    paired = len(drawn) > 0 and result.config["membership"]["how"] == "complementary" and len(drawn) % 2 == 0
    return drawn.reshape(-1, 2).mean(axis=1) if paired else drawn
