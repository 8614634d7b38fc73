"""Comparison of results: which may stand on one curve, and facts among them, each computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np

from palisade.evaluation.claims import Violation, deciding, level_of, violations
from palisade.evaluation.labels import canary_text, series_label, varying
from palisade.evaluation.result import AUC, FPR, Result, Row, tpr_at
from palisade.evaluation.statistics.epsilon import tpr_ceiling
from palisade.targets.config import flat
from palisade.targets.defaults import is_private
from palisade.targets.tuning import is_tuned

MAY_DIFFER = (
    *("defense", "names.defense", "guard", "names.guard", "canary", "names.canary", "fleet", "guesses", "seed"),
    "network.lora",
)
"""Configuration keys that may differ on one curve, with all below them, such as a defense's own trainer settings."""
IGNORED_KEYS = ("data.root", "data.slices")
"""Configuration keys that do not change what is learned: the folder of a data set, and the columns of slices."""
FEWEST_LINES = 3
"""Lines from which on the frontier is no line of the figure already."""
MOST_LABELED = 16
"""Most runs that a legend names."""
HIDDEN_SHARE = 0.5
"""The share of what scores tell beyond labels that a mask hides at least; to hold back a few decimals is none."""
DP_SGD = "dp_sgd"


@runtime_checkable
class Configured(Protocol):
    """A run or its results."""

    @property
    def folder(self) -> object:
        """Folder of the run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's whole configuration, as plain values."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run on the curve.

    Args:
        label: its name among the points of its line, such as `ε=8`, or `0.001 + 3` with that of the guard.
        utility: the measure that results are read by, with its interval.
        leakage: `Comparison.leakage_metric` of the run's strongest attack with its interval.
    """

    label: str
    utility: Row
    leakage: Row
    result: Result


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of the curve: a defense and a guard through their strengths, in rising order.

    Args:
        name: of the line.
        defense: the same for the fleet that is attacked on all records and those attacked on canaries alone.
        runs: at least one.
        metric: of the strongest attack, what its points say of leakage.
    """

    name: str
    defense: str
    runs: Sequence[Result]
    metric: str = tpr_at(FPR)

    @property
    def undefended(self) -> bool:
        """True for the line of the run without defense or guard."""
        return self.runs[0].is_undefended

    @property
    def canary(self) -> str:
        """Kind of the canaries that alone were attacked, or `none`."""
        return self.runs[0].canary

    @cached_property
    def points(self) -> list[Point]:
        """Points that can be drawn: not a run whose attacks were all skipped or whose strongest does not resolve the
        metric, nor one whose answers do not allow the utility that was chosen."""
        labeled = zip(self.runs, varying(self.runs), strict=True)
        return [point for result, label in labeled if (point := _point(result, label, self.metric)) is not None]


class Masking(NamedTuple):
    """A defense or guard that hides the scores of models that still leak.

    Args:
        labels: AUC of the best label-only attack.
        scores: AUC of the best attack on scores.
        before: AUC of the best attack on the scores of the same models without the guard; None where labels alone tell
            more than scores.
    """

    labels: Row
    scores: Row
    before: Row | None = None


class Highlight(NamedTuple):
    """A run that stands for the others where not all can be shown.

    Args:
        kind: why it stands here; `useful` is the best protected of those nearly as useful as any.
        result: of the run.
        caveat: `masked` where every candidate masks what it leaks; `no_less` where no less was found than undefended.
    """

    kind: Literal["refuted", "undefended", "protected", "useful"]
    result: Result
    caveat: Literal["", "masked", "no_less"] = ""


class Comparison:
    """Facts among results that are judged together.

    Args:
        results: of at least one run.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = ordered(results)

    @cached_property
    def level(self) -> float:
        """The level at which each claim is tested."""
        return level_of(self.results)

    @cached_property
    def refuted(self) -> dict[str, Violation]:
        """Refuted claims by the names of their runs."""
        return {violation.result.run: violation for violation in violations(self.results)}

    def audit(self, result: Result) -> Mapping[str, Any]:
        """The audit of a run, with the bound that decides on its claim beside all others."""
        return deciding(result, self.level)

    @cached_property
    def series(self) -> list[Series]:
        """The lines of the trade-off curve in the order of `ordered`; each seed and kind of canaries has its own.

        Raises:
            ValueError: if the runs are not comparable.
        """
        check_comparable(self.results)
        lines: dict[str, dict[str, list[Result]]] = {}
        for result in self.results:
            lines.setdefault(series_label(result) + self.seed_text(result), {}).setdefault(
                canary_text(result), []
            ).append(result)
        return [
            Series(name=defense + canaries, defense=defense, runs=runs, metric=self.leakage_metric)
            for defense, fleets in lines.items()
            for canaries, runs in sorted(fleets.items())
        ]

    @cached_property
    def leakage_metric(self) -> str:
        """Metric of the strongest attacks that says what leaks: TPR at 1 % FPR, or AUC where no run resolves that."""
        rows = [result.strongest_row(tpr_at(FPR)) for result in self.results]
        return tpr_at(FPR) if any(row is not None and row.value is not None for row in rows) else AUC

    @cached_property
    def frontier(self) -> list[Point]:
        """Pareto frontier of utility and leakage, both rising.

        Runs that mask what they leak, whose claim is refuted or whose TPR does not say how much leaks are no part of
        it, nor are fleets with canaries, of which other records were attacked.
        """
        points = [point for line in self.series for point in line.points if self._may_lead(point.result)]
        best: list[Point] = []
        for point in sorted(points, key=lambda point: (point.leakage.value, -point.result.worth)):
            if not best or point.result.worth > best[-1].result.worth:
                best.append(point)
        return best

    @property
    def has_frontier(self) -> bool:
        """True if a figure shows the frontier."""
        return sum(line.canary == "none" for line in self.series) >= FEWEST_LINES and len(self.frontier) > 1

    @property
    def are_many(self) -> bool:
        """True if figures with a legend of runs show only one of each line."""
        return len(self.results) > MOST_LABELED

    @cached_property
    def readable(self) -> Sequence[Series]:
        """All runs if a legend can name them, otherwise one of each line.

        That is where attacks find least among the runs of the line that are nearly as useful as any run; its most
        useful one where none is.
        """
        if not self.are_many:
            return self.series
        most = max(result.worth for result in self.results)
        return [replace(line, runs=[_best(line.runs, most)]) for line in self.series]

    @cached_property
    def highlights(self) -> list[Highlight]:
        """Runs whose claim is refuted, the undefended one, where attacks find least, and the same among the useful.

        Fleets with canaries are shown beside these, and stand here only where there is nothing else; so are runs that
        mask what they leak, with that caveat. AUC decides where no run can be resolved at 1 % FPR.
        """
        shown = [Highlight("refuted", violation.result) for violation in self.refuted.values()]
        shown += [Highlight("undefended", result) for result in self._attacked if result.is_undefended]
        sound = [result for result in self._attacked if not result.is_undefended and result.run not in self.refuted]
        defended = [result for result in sound if result.is_resolved] or sound
        protected = [result for result in defended if not self.masking(result)] or defended
        most = max((result.worth for result in self._attacked), default=-math.inf)
        useful = [result for result in protected if result.worth >= result.utility.least_affordable(most)]
        kinds: tuple[tuple[Literal["protected", "useful"], list[Result]], ...] = (
            ("protected", protected),
            ("useful", useful),
        )
        for kind, candidates in kinds:
            if candidates and (best := least_leaking(candidates)) not in [each.result for each in shown]:
                shown.append(Highlight(kind, best, self._caveat(best)))
        return shown

    def masked_but_lower(self, best: Result) -> list[Result]:
        """The runs that look better protected than this one, and only mask what they leak."""
        alike = [result for result in self._attacked if result.is_resolved == best.is_resolved]
        return [result for result in alike if result.leakage < best.leakage and self.masking(result)]

    def masking(self, result: Result) -> Masking | None:
        """Masking by this run's defense or guard: label-only attacks show what attacks on scores miss, in one of two
        ways.

        The best of them has a larger AUC than every attack on scores, beyond both intervals; not so where that holds of
        the undefended run as well, whose scores nothing hides: then the attacks on scores are weak ones, or copies of a
        record (`Votes`) tell more than the scores of one answer.

        Or, behind a guard: the best attack on scores has a smaller AUC than the same attacks have on the same models
        without it, beyond both intervals and by most of what scores tell beyond labels; and the best label-only attack
        does better than guessing, and not worse than without the guard, both beyond intervals. The second way is needed
        since an attack on scores whose shadow models stand behind the guard as well learns from hidden scores what one
        label tells: it is not below that, and below votes on many copies not always beyond intervals.
        """
        if result.run not in self._masking:
            self._masking[result.run] = self._find_masking(result)
        return self._masking[result.run]

    @cached_property
    def _masking(self) -> dict[str, Masking | None]:
        return {}

    def _find_masking(self, result: Result) -> Masking | None:
        labels, scores = best_auc(result, "label_only"), best_auc(result, "black_box")
        if labels is None or scores is None or result.is_undefended:
            return None
        fleet = (result.seed, result.canary)
        bare = [each for each in self.results if each.is_undefended and (each.seed, each.canary) == fleet]
        if labels_tell_more(result) and not any(map(labels_tell_more, bare)):
            return Masking(labels, scores)
        without = (each for each in self.results if (each.folder, each.guard) == (result.folder, "none"))
        if result.guard == "none" or (unguarded := next(without, None)) is None:
            return None
        before = _hidden(result, unguarded, labels, scores)
        return None if before is None else Masking(labels, scores, before)

    def better_dp_sgd(self, result: Result) -> Result | None:
        """The most private DP-SGD run that is at least as useful as one without ε, and leaks less; None if none does.

        At least as useful: by the measure that was chosen, on the same test records. Leaks less: the intervals of TPR
        at 1 % FPR, each of the run's strongest attack, do not touch, and the larger is more than luck explains.
        Clipping without noise counts as DP-SGD: it shows what private training costs, though it proves nothing.
        """
        if result.is_undefended or result.epsilon is not None:
            return None
        better = [each for each in self.results if each.run not in self.refuted and _dominates(each, result)]
        return min(better, key=lambda each: each.epsilon or 0.0, default=None)

    def seed_text(self, result: Result) -> str:
        """The seed of a run, such as ` (seed 1)`, if there are others; empty otherwise."""
        return f" (seed {result.seed})" if len({each.seed for each in self.results}) > 1 else ""

    @cached_property
    def _attacked(self) -> list[Result]:
        """The attacked runs on all records, or else those on canaries."""
        attacked = [result for result in self.results if result.attacks]
        return [result for result in attacked if not result.has_canaries] or attacked

    def _may_lead(self, result: Result) -> bool:
        resolved = result.is_resolved or self.leakage_metric == AUC
        sound = resolved and not result.has_canaries and result.run not in self.refuted
        return sound and not self.masking(result)

    def _caveat(self, best: Result) -> Literal["", "masked", "no_less"]:
        if self.masking(best):
            return "masked"
        bare = [result for result in self._attacked if result.is_undefended and result.seed == best.seed]
        alike = [result for result in bare if result.is_resolved == best.is_resolved]
        return "no_less" if any(result.leakage <= best.leakage for result in alike) else ""


def check_comparable(runs: Sequence[Configured]) -> None:
    """Refuses runs whose difference would be mistaken for that of their defenses.

    Raises:
        ValueError: if the runs differ in more than defense, guard, canaries, fleet, seed and the rank of low-rank
            adaptation; names the keys.
    """
    first, free = must_agree(runs[0].config), replaced_settings(runs[0].config)
    for run in runs[1:]:
        other, unused = must_agree(run.config), replaced_settings(run.config)
        keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if keys := [key for key in keys if not f"{key}.".startswith((*free, *unused))]:
            some = "<glob>"
            if "names.network" in keys:  # whose settings differ with it
                keys = ["names.network", *(key for key in keys if not key.startswith(("names.", "network.")))]
                some = f"'{Path(str(runs[0].folder)).parent}/{first['names.network']}-*'"
            listed = ", ".join(f"{key.removeprefix('names.')}={first.get(key)} and {other.get(key)}" for key in keys)
            raise ValueError(
                f"{listed} differ between {runs[0].folder} and {run.folder}; runs on one curve may differ only in"
                f" defense, guard, canary, fleet and seed, choose some with runs={some}"
            )
        first |= {key: value for key, value in other.items() if f"{key}.".startswith(free)}
        free = tuple(set(free) & set(unused))


def must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that must agree on one curve with their values, such as `trainer.optimizer.lr`.

    Settings of the trainer that the defense has its own in the place of decide nothing. The network of a tuned run was
    chosen with its defense, and so was the linear one of a private run.
    """
    free = (*(f"{key}." for key in (*MAY_DIFFER, *IGNORED_KEYS)), *replaced_settings(config))
    return {key: value for key, value in flat(config) if not f"{key}.".startswith(free)}


def replaced_settings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of keys that belong to the defense: the trainer's settings that it replaces, and those of the network
    where that was chosen with it, as DP-SGD has a linear one where others have hidden layers."""
    replaced = tuple(f"trainer.{key}." for key in (config["defense"].get("trainer") or {}))
    if is_tuned(config["defense"]):
        return (*replaced, "network.")
    linear = is_private(config["defense"]) and config["network"].get("hidden") == []
    return (*replaced, "network.hidden.", "names.network.") if linear else replaced


def ordered(results: Sequence[Result]) -> list[Result]:
    """Undefended first, then by defense, guard and their strengths, canaries below: as in every table and legend."""

    def place(result: Result) -> tuple[bool, str, str, float, float, int, bool, str]:
        strength, of_guard = (-math.inf if s is None else s for s in (result.strength, result.guard_strength))
        fleet = (not result.is_undefended, result.defense, result.guard, strength, of_guard, result.seed)
        return (*fleet, result.has_canaries, result.canary)

    return sorted(results, key=place)


def ceiling(result: Result, fpr: np.ndarray) -> np.ndarray | None:
    """The largest TPR that the run's claim lets any attack reach at each FPR; None where it bounds none."""
    claim = result.statement
    if not (claim.guarantee and result.bounded):
        return None
    curve = claim.privacy_curve or ((claim.epsilon, claim.delta),)
    return tpr_ceiling(fpr, np.array(curve, dtype=np.float64))


def least_leaking(results: Sequence[Result]) -> Result:
    """The run in which attacks find least; of equal ones the most useful."""
    return min(results, key=lambda result: (result.leakage, -result.worth))


def labels_tell_more(result: Result) -> bool:
    """True if the best label-only attack leaks, and beats every attack on scores beyond both intervals."""
    labels, scores = best_auc(result, "label_only"), _aucs(result, "black_box")
    return _leaking(labels) and bool(scores) and all(_below(row, labels) for row in scores)


def best_auc(result: Result, access: str, attacks: Sequence[str] | None = None) -> Row | None:
    """The largest AUC of the attacks that need this access, and ran on another run as well if that is given."""
    return max(_aucs(result, access, attacks), key=_value, default=None)


def _aucs(result: Result, access: str, attacks: Sequence[str] | None = None) -> list[Row]:
    rows = [result.get(AUC, attack=attack) for attack in result.attacks if attacks is None or attack in attacks]
    return [row for row in rows if row.access == access and row.value is not None]


def _hidden(result: Result, bare: Result, labels: Row, scores: Row) -> Row | None:
    """Leakage of the scores without the guard, if it took most of that beyond labels, and left what labels tell."""
    labels_before, scores_before = (best_auc(bare, access, result.attacks) for access in ("label_only", "black_box"))
    if labels_before is None or scores_before is None:
        return None
    hidden, beyond_labels = (_value(scores_before) - _value(row) for row in (scores, labels))
    leaking = _leaking(labels) and not _below(labels, labels_before)
    masks = leaking and _below(scores, scores_before) and hidden > HIDDEN_SHARE * beyond_labels
    return scores_before if masks else None


def _leaking(row: Row | None) -> TypeGuard[Row]:
    """True if an attack ranks members above others beyond its interval."""
    return row is not None and row.low is not None and row.low > 0.5


def _below(one: Row, other: Row) -> bool:
    """True if a value is smaller beyond both intervals."""
    return one.high is not None and other.low is not None and one.high < other.low


def _value(row: Row) -> float:
    return row.value or 0.0


def _point(result: Result, label: str, metric: str) -> Point | None:
    leakage, utility = result.strongest_row(metric), result.get(result.utility.metric)
    if leakage is None or leakage.value is None or utility.value is None:
        return None
    return Point(label=label, utility=utility, leakage=leakage, result=result)


def _best(runs: Sequence[Result], most: float) -> Result:
    attacked = [result for result in runs if result.attacks] or runs
    useful = [result for result in attacked if result.worth >= result.utility.least_affordable(most)]
    return least_leaking(useful) if useful else max(attacked, key=lambda result: result.worth)


def _dominates(other: Result, result: Result) -> bool:
    """Private training alone (what a guard hides would not be its merit), attacked on the same records with at least as
    many shadow models, at least as useful and leaking less."""
    is_dp_sgd = other.defense.partition("(")[0] == DP_SGD and other.epsilon is not None and other.guard == "none"
    alike = all(getattr(other, name) == getattr(result, name) for name in ("seed", "canary", "threat"))
    if not (is_dp_sgd and alike and other.models >= result.models) or other.is_tied:
        return False
    its, own = (run.strongest_row(tpr_at(FPR)) for run in (other, result))
    if its is None or own is None or its.high is None or own.low is None:
        return False
    return other.worth >= result.worth > -math.inf and its.high < own.low and result.excludes_guessing(own)
