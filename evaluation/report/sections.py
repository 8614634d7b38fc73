"""Sections of the report about claims, canaries and single records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palisade.evaluation.choice import chosen
from palisade.evaluation.claims import is_refutable, level_of, violations, ways_of
from palisade.evaluation.curves import FPR, ordered, series, strongest_row
from palisade.evaluation.findings import AUC, Findings, most_powerful, tpr_at
from palisade.evaluation.frontier import frontier
from palisade.evaluation.measuring.exposure import Exposure
from palisade.evaluation.report.scope import INTERNAL
from palisade.evaluation.table import NOTHING, bound_text, percent
from palisade.evaluation.titles import epsilon_text, has_canaries, setting, title

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


def evidence(findings: Sequence[Findings], scope: str = INTERNAL) -> list[Evidence]:
    """Lower bounds for every run that states a guarantee and was audited."""
    false, level = {violation.found.run for violation in violations(findings)}, level_of(findings)
    return [
        Evidence(
            title=title(found),
            violated=found.run in false,
            refutable=is_refutable(found, level),
            claimed=epsilon_text(found.epsilon or 0.0),
            bounds=[(words, bound_text(found, method)) for method, (words, _) in BOUNDS.items()],
            correct=found.audit["correct"] if scope == INTERNAL else None,
            ways=ways_of(found),
            **{name: found.audit[name] for name in ("attack", "canaries", "guesses")},
        )
        for found in ordered(findings)
        if found.statement.guarantee and found.audit
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


def compared(findings: Sequence[Findings]) -> list[Compared]:
    """Both numbers of every defense that was tried on canaries."""
    fleets: dict[tuple[str, int], list[Findings]] = {}
    for found in ordered(findings):
        fleets.setdefault((setting(found), found.seed), []).append(found)
    told = []
    for (defense, _), runs in fleets.items():
        canaries = [found for found in runs if has_canaries(found)]
        if not canaries:
            continue
        population = next((found for found in runs if not has_canaries(found)), None)
        powers = {i: (_value(found, tpr_at(FPR)), _value(found, AUC)) for i, found in enumerate(canaries)}
        strongest = canaries[most_powerful(powers)]
        told.append(
            Compared(
                defense=defense,
                population=NOTHING
                if population is None
                else percent(strongest_row(population, tpr_at(FPR)), interval=True),
                population_auc=NOTHING if population is None else _auc(population),
                kind=strongest.canary,
                canaries=percent(strongest_row(strongest, tpr_at(FPR)), interval=True),
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


def exposed(findings: Sequence[Findings]) -> list[Exposed]:
    """The most exposed records of the undefended run and of the best protected ones."""
    told = []
    for _, found in chosen(findings):
        if not found.exposed:
            continue
        exposure = Exposure.from_json(found.exposed)
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
                title=title(found),
                attack=found.strongest,
                mostly_found=exposure.mostly_found,
                records=int(trained.sum()),
                most=most,
            )
        )
    return told


def pareto(findings: Sequence[Findings]) -> list[str]:
    """The runs that no other one beats in utility and leakage at once, leakage rising."""
    return [title(point.findings) for point in frontier(series(findings))]


def _value(found: Findings, metric: str) -> float | None:
    row = strongest_row(found, metric)
    return None if row is None else row.value


def _auc(found: Findings | None) -> str:
    value = None if found is None else _value(found, AUC)
    return NOTHING if value is None else f"{value:.3f}"
