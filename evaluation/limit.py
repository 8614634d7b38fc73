"""Limits on leakage: which run keeps one best, and the gate of a pipeline that all runs must pass."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import beta, t

from palisade.data.settings import validated
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import below_half
from palisade.evaluation.format import percent
from palisade.evaluation.guessing import guessing_text
from palisade.evaluation.labels import title
from palisade.evaluation.result import FPR, FPRS, TIED, Result, Row, tied_at, tpr_at
from palisade.targets.guards.registry import registered

KEPT, UNDECIDED, EXCEEDED = "kept", "not decided", "EXCEEDED"
FEWEST = 4
"""Models below which how much they differ is unknown."""
ENOUGH = 16
"""Models from which on a kind of model that is one in four is missing in one fleet of a hundred."""
RARE = 0.25
"""The share of models of a kind that a fleet should not miss."""
ALPHA = 0.05
CANARIES = "only its canaries were attacked, and no release may hold any"
SELECTED = (
    "It was chosen by the very numbers that it is shown with, which flatters it: train its setting again with another"
    " seed=… and attack that run before relying on them."
)


class LimitVerdict(NamedTuple):
    """The verdict on a run and a limit.

    Args:
        word: `kept`, `not decided` where more models might tell, or `EXCEEDED`.
        why: it is not known to be kept; None if it is.
    """

    word: str
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The largest share of members that attacks may find.

    It is compared with the upper end of the 95 % interval: a run keeps it where its measurement excludes more, not
    where its value happens to lie below.

    Args:
        name: of the settings, for errors.
        max_tpr: the limit, above `fpr` (an attack that guesses finds `fpr`) and at most 1.
        fpr: the share of non-members that are accused, 0.01 or 0.001; None: 0.01.

    Raises:
        ValueError: if no run could keep it, or every run would, or it is not measured at this FPR.

    Example:
        >>> str(Limit(name="gate", max_tpr=0.05))
        'at most 5 % of members found at 1 % FPR'
    """

    name: str
    max_tpr: float | None = None
    fpr: float | None = None

    def __post_init__(self) -> None:
        if self.at not in FPRS:
            measured = " or ".join(f"{fpr:g}" for fpr in FPRS)
            raise ValueError(f"{self.name}.fpr={self.fpr} is not measured; choose {measured}")
        if self.max_tpr is None:
            raise ValueError(f"{self.name}.fpr={self.fpr} limits nothing; add {self.name}.max_tpr=<share of members>")
        is_number = isinstance(self.max_tpr, int | float) and not isinstance(self.max_tpr, bool)
        if not (is_number and self.at < self.max_tpr <= 1):
            raise ValueError(
                f"{self.name}.max_tpr={self.max_tpr} is no share above {self.name}.fpr={self.at}, which guessing finds,"
                " and at most 1; choose such as 0.05 for 5 % of members"
            )

    @classmethod
    def asked(cls, name: str, settings: Mapping[str, Any]) -> Limit | None:
        """The limit of this name in the settings of `evaluate.py`; None if it was not asked for."""
        given = settings[name]
        if not isinstance(given, Mapping):
            raise ValueError(f"{name}={given} is no group of settings; give {name}.max_tpr=<share of members>")
        return None if all(value is None for value in given.values()) else validated(cls, name, {**given, "name": name})

    @property
    def at(self) -> float:
        """The FPR."""
        return FPRS[0] if self.fpr is None else self.fpr

    @property
    def most(self) -> float:
        """The largest TPR that is allowed, in (0, 1]."""
        return self.max_tpr or 1.0

    def __str__(self) -> str:
        return f"at most {100 * self.most:g} % of members found at {100 * self.at:g} % FPR"

    def highest(self, result: Result) -> Row | None:
        """The TPR of the attack with the largest upper limit; None unless all are resolved at this FPR.

        Its interval allows for how much the models differ, which is wider than that of the table where they are few.
        An attack on a sample of the records, or on few of the models, counts only where there is no other: the sample
        may be an easy one.
        """
        rows = self._rows(result)
        return None if any(row.high is None for row in rows) else max(rows, key=upper, default=None)

    def _rows(self, result: Result) -> list[Row]:
        attacks = result.on_all
        if result.sides is not None:  # the interval of one model's tie spans every FPR that the threshold jumps over
            attacks = [attack for attack in attacks if not _ties(result, attack)] or attacks
        return [widened(result.get(tpr_at(self.at), attack=attack), result) for attack in attacks]

    def measured(self, result: Result) -> str:
        """The TPR that is compared with the limit, and what guessing finds where that is not excluded."""
        row = self.highest(result)
        luck = "" if row is None or result.excludes_guessing(row) else f"; guessing finds {guessing_text(result, row)}"
        return tpr_text(row) + luck

    def verdict(self, result: Result, comparison: Comparison) -> LimitVerdict:
        """The verdict on a run, with the reason if it is not known to keep the limit.

        Args:
            result: of the run.
            comparison: of all runs that are judged together.
        """
        if result.run in comparison.refuted:
            return LimitVerdict(EXCEEDED, "its claim is refuted")
        if not result.attacks:
            return LimitVerdict(EXCEEDED, "every attack was skipped, so nothing was measured")
        row = self.highest(result)
        if row is None:
            return LimitVerdict(
                EXCEEDED,
                f"{100 * self.at:g} % FPR cannot be resolved: it takes {1 / self.at:.0f} non-members"
                + (" a model, that is more records" if result.sides is None else ""),
            )
        if result.guessing_level(row) >= self.most:
            return LimitVerdict(
                EXCEEDED,
                f"guessing finds {guessing_text(result, row)} of so few non-members, so that no run can be known to"
                " keep this limit: it takes a larger one, or more records",
            )
        if (leaky := self._leaky(result)) is not None:
            return LimitVerdict(EXCEEDED, leaky)
        about_one = result.sides is not None  # then nothing is said about other models
        if result.models < FEWEST and self.most < 1 and not about_one:
            known = (row.low or 0.0) > self.most
            few = f"{tpr_text(row)}, but models={result.models} do not tell how much models differ; train at least"
            return LimitVerdict(EXCEEDED if known else UNDECIDED, f"{few} {FEWEST}, better fleet.models={ENOUGH}")
        if upper(row) > self.most:
            may = f"{tpr_text(row)} may be more"
            if about_one or result.models >= ENOUGH or (row.low or 0.0) > self.most:
                return LimitVerdict(EXCEEDED, may)
            return LimitVerdict(UNDECIDED, f"{may}; more models tell, fleet.models={ENOUGH}")
        understated = _understated(result, row, comparison)
        return LimitVerdict(KEPT) if understated is None else LimitVerdict(EXCEEDED, understated)

    def _leaky(self, result: Result) -> str | None:
        """That one model alone leaks more than the limit, beyond what its records explain: a mean would hide it."""
        for row in self._rows(result):
            leakiest = worst(row, result)
            if leakiest is not None and leakiest[1] > self.most:
                model = leakiest[0]
                return f"{percent(model)} by {row.attack} in model {model.model}, which leaks more than the limit"
        return None


def refuse_limits(settings: Mapping[str, Any], what: str) -> None:
    """Raises ValueError if a limit was asked for where no runs are judged, rather than pass it over."""
    for name in ("choose", "gate"):
        if Limit.asked(name, settings) is not None:
            raise ValueError(f"{name}.max_tpr judges runs, not {what}; call evaluate.py without {what} for it")


def upper(row: Row) -> float:
    """The upper end of the interval; 1 where there is none."""
    return 1.0 if row.high is None else row.high


def tpr_text(row: Row | None) -> str:
    """A measurement in words, such as `3.1 % [2.4–3.9] by lira`."""
    if row is None:
        return "nothing measured"
    return f"{percent(row, interval=True)} by {row.attack}"


def _understated(result: Result, row: Row, comparison: Comparison) -> str | None:
    """The reason why the measured TPR is below what leaks; None if there is none."""
    if _ties(result, row.attack):
        return f"the scores of {row.attack} tie, so that its TPR is that of a smaller FPR"
    if len(below_half(result)) == len(result.attacks):
        swapped = "" if result.sides is None else "; are the two files swapped?"
        return f"members rank below non-members in every attack{swapped}"
    if result.sides is not None and result.sides.shared:
        return f"{result.sides.shared} records are on both sides, so that attacks look weaker than they are"
    if comparison.masking(result):
        return "it masks what it leaks: labels alone tell more than these attacks on scores find"
    return None


def _ties(result: Result, attack: str) -> bool:
    """True if many non-members tie at the threshold of an attack at 1 % FPR."""
    return result.value(tied_at(FPR), 0.0, attack=attack) > TIED


def gate(comparison: Comparison, limit: Limit) -> tuple[list[str], bool]:
    """A line for each result, and whether all of them keep the limit.

    Unmeasured leakage does not pass: an FPR that takes more records, attacks that were all skipped, a claim that
    is refuted, and scores behind which the models still leak. Nor does what too few models leave undecided.
    """
    lines, passed = [f"gate: {limit}"], True
    for result in comparison.results:
        word, why = limit.verdict(result, comparison)
        if why is None:
            why = limit.measured(result)
            if result.models < ENOUGH and result.sides is None:
                why += f"; {unseen(result.models)}"
        whose = f"{title(result)} ({result.run}): " if result.sides is None else ""
        lines.append(f"{word}: {whose}{why}")
        passed &= word == KEPT
    return lines, passed


def recommend(comparison: Comparison, limit: Limit) -> tuple[list[str], Result | None]:
    """Lines that name the run of best utility that keeps the limit, if any does, and say why others do not.

    Returns:
        The lines, and the run; None if none keeps the limit. The lines then name the one that comes nearest.

    Raises:
        ValueError: if the utility can be measured on none of the runs.
    """
    results = comparison.results
    if all(math.isinf(result.worth) for result in results):
        name = results[0].utility.name
        raise ValueError(f"utility={name} cannot be measured on any of these runs; choose another, such as accuracy")
    objections = {result.run: _objection(result, comparison, limit) for result in results}
    fit = [result for result in results if objections[result.run] is None]
    best = max(fit, key=lambda result: result.worth, default=None)
    lines = [f"choose: {limit}", *(_told(best, limit) if best is not None else _nearest(results, objections, limit))]
    lines += [f"not {title(result)} ({result.run}): {why}" for result in results if (why := objections[result.run])]
    return lines, best


def ship_command(result: Result) -> str:
    """The command that trains the release of a run, behind the guard that it was measured with."""
    words = [f"ship={result.folder}"]
    if result.guard != "none":
        guard = registered(Path(result.folder), result.run.partition("+")[2])
        words += [f"guard={guard.name}", *(f"guard.{key}={value}" for key, value in asdict(guard).items())]
    return shlex.join(["python", "train.py", *words])


def _objection(result: Result, comparison: Comparison, limit: Limit) -> str | None:
    if result.has_canaries:
        return CANARIES
    if math.isinf(result.worth):
        return f"its {result.utility.words} cannot be measured"
    return limit.verdict(result, comparison).why


def _told(best: Result, limit: Limit) -> Iterator[str]:
    utility = best.utility.text(best.find(best.utility.metric), interval=True)
    yield f"{title(best)} ({best.run}): {best.utility.words} {utility}, {limit.measured(best)}"
    yield SELECTED
    if best.models < ENOUGH:
        yield f"{unseen(best.models)}: train fleet.models={ENOUGH} before relying on it"
    yield f"to ship it: {ship_command(best)}"


def _nearest(results: Sequence[Result], objections: dict[str, str | None], limit: Limit) -> Iterator[str]:
    """That no run keeps the limit, and which of those that exceed it does so least."""
    exceeding = [
        (result, row)
        for result in results
        if not result.has_canaries and (row := limit.highest(result)) is not None and upper(row) > limit.most
    ]
    told = ""
    if exceeding:
        result, row = min(exceeding, key=lambda pair: upper(pair[1]))
        told = f"; {title(result)} comes nearest, with {tpr_text(row)}"
    yield f"none of {len(results)} runs keeps it{told}"


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
    half = float(t.ppf(1 - ALPHA / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
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
    least = float(beta.ppf(ALPHA / 2 / len(models), hits, members - hits + 1)) if hits else 0.0
    return highest, least


def unseen(models: int) -> str:
    """The chance that a fleet misses a kind of model, such as `of 8 models a kind that is one in four …`."""
    return (
        f"of {models} models, a kind that is one in {1 / RARE:.0f} is missing with probability"
        f" {100 * (1 - RARE) ** models:.0f} %"
    )


def _units(values: Sequence[float], result: Result) -> Float[np.ndarray, "units"]:
    """A value of each independent draw: two models of complementary membership are one."""
    drawn = np.array(values, dtype=np.float64)
    paired = len(drawn) > 0 and result.config["membership"]["how"] == "complementary" and len(drawn) % 2 == 0
    return drawn.reshape(-1, 2).mean(axis=1) if paired else drawn
