"""Sections of the report about claims, canaries and single records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palisade.evaluation.claims import is_refutable, ways_of
from palisade.evaluation.comparison import Comparison, ordered
from palisade.evaluation.format import NOTHING, bound_text, epsilon_text, percent
from palisade.evaluation.labels import setting, title
from palisade.evaluation.measuring.exposure import Exposure
from palisade.evaluation.report.scope import INTERNAL
from palisade.evaluation.result import AUC, FPR, Result, most_powerful, tpr_at

BOUNDS = {
    "one_run": (
        "one run",
        "assumes only that each record was in or out by the toss of a coin; the one bound that can refute a claim"
        " (Steinke, Nasr & Jagielski 2023)",
    ),
    "one_run_fdp": (
        "one run, f-DP, if the mechanism is Gaussian",
        "assumes that the mechanism is a Gaussian one or leaks like it (Mahloujifar, Melis & Chaudhuri 2024)",
    ),
    "gdp": (
        "GDP, if the mechanism is Gaussian",
        "assumes a Gaussian-shaped mechanism, and that the records of one model are independent trials, which they are"
        " not",
    ),
    "clopper_pearson": (
        "Clopper–Pearson",
        "assumes nothing about the mechanism, but that the records of one model are independent trials: indicative",
    ),
}
"""The lower bounds on ε in the order in which they are told: in words, with what each assumes."""
MOST = 10


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Lower bounds on ε by guesses, beside the claim; the number of right ones is told inside only."""

    title: str
    violated: bool
    refutable: bool
    claimed: str
    attack: str
    canaries: int
    guesses: int
    correct: int | None
    ways: int
    bounds: Sequence[tuple[str, str]]


def evidence(comparison: Comparison, scope: str = INTERNAL) -> list[Evidence]:
    """Lower bounds for every run that states a guarantee and was audited."""
    return [
        Evidence(
            title=title(result),
            violated=result.run in comparison.refuted,
            refutable=is_refutable(result, comparison.level),
            claimed=epsilon_text(result.epsilon or 0.0),
            bounds=[(words, bound_text(result.audit, method)) for method, (words, _) in BOUNDS.items()],
            correct=result.audit["correct"] if scope == INTERNAL else None,
            ways=ways_of(result),
            **{name: result.audit[name] for name in ("attack", "canaries", "guesses")},
        )
        for result in comparison.results
        if result.statement.guarantee and result.audit
    ]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A defense on all records, and on the canaries that leak most; what was not trained is a dash."""

    defense: str
    population: str
    kind: str
    canaries: str
    population_auc: str
    canaries_auc: str
    fitted: str


def compared(results: Sequence[Result]) -> list[Compared]:
    """Both numbers of every defense that was tried on canaries."""
    fleets: dict[tuple[str, int], list[Result]] = {}
    for result in ordered(results):
        fleets.setdefault((setting(result), result.seed), []).append(result)
    told = []
    for (defense, _), runs in fleets.items():
        canaries = [result for result in runs if result.has_canaries]
        if not canaries:
            continue
        population = next((result for result in runs if not result.has_canaries), None)
        powers = {i: (_value(result, tpr_at(FPR)), _value(result, AUC)) for i, result in enumerate(canaries)}
        strongest = canaries[most_powerful(powers)]
        told.append(
            Compared(
                defense=defense,
                population=NOTHING
                if population is None
                else percent(population.strongest_row(tpr_at(FPR)), interval=True),
                population_auc=NOTHING if population is None else _auc(population),
                kind=strongest.canary,
                canaries=percent(strongest.strongest_row(tpr_at(FPR)), interval=True),
                canaries_auc=_auc(strongest),
                fitted=percent(next((row for row in strongest.rows if row.metric == "canaries_fitted"), None)),
            )
        )
    return told


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """The records of a run that are found most often."""

    title: str
    attack: str
    mostly_found: int
    records: int
    most: Sequence[tuple[str, str, str, str]]


def exposed(comparison: Comparison) -> list[Exposed]:
    """The most exposed records of the undefended run and of the best protected ones."""
    told = []
    for _, result, _ in comparison.highlights:
        if not result.exposed:
            continue
        exposure = Exposure.from_json(result.exposed)
        trained = exposure.models > 0
        most = [
            (
                str(exposure.record[i]), str(exposure.label[i]), f"{exposure.found[i]} of {exposure.models[i]}",
                f"{100 * exposure.low[i]:.0f}–{100 * exposure.high[i]:.0f} %",
            )
            for i in exposure.order[:MOST] if trained[i]
        ]  # fmt: skip
        told.append(
            Exposed(
                title=title(result),
                attack=result.strongest,
                mostly_found=exposure.mostly_found,
                records=int(trained.sum()),
                most=most,
            )
        )
    return told


def pareto(comparison: Comparison) -> list[str]:
    """The runs that no other one beats in utility and leakage at once, leakage rising."""
    return [title(point.result) for point in comparison.frontier]


def _value(result: Result, metric: str) -> float | None:
    row = result.strongest_row(metric)
    return None if row is None else row.value


def _auc(result: Result | None) -> str:
    value = None if result is None else _value(result, AUC)
    return NOTHING if value is None else f"{value:.3f}"
