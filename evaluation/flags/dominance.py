"""Dominance: a defense that proves nothing does better than DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from palisade.evaluation.claims import violations
from palisade.evaluation.curves import FPR, strongest_row
from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.flags.ties import is_tied
from palisade.evaluation.guessing import excludes_guessing
from palisade.evaluation.result import Result, tpr_at
from palisade.evaluation.titles import is_undefended, setting
from palisade.evaluation.utility import worth

DP_SGD = "dp_sgd"


def dominated(result: Result, together: Sequence[Result]) -> Iterator[Flag]:
    """A defense without ε, where some DP-SGD run is at least as useful and leaks less.

    At least as useful: by the measure that was chosen, on the same test records. Leaks less: the intervals of TPR at
    1 % FPR, each of the run's strongest attack, do not touch, and the larger is more than luck explains. Clipping
    without noise counts as DP-SGD: it shows what private training costs, though it proves nothing.
    """
    if is_undefended(result) or result.epsilon is not None:
        return
    refuted = {violation.result.run for violation in violations(together)}
    better = [other for other in together if other.run not in refuted and _dominates(other, result)]
    if not better:
        return
    best = min(better, key=lambda other: other.epsilon or 0.0)
    proof = "It has a guarantee besides." if best.statement.guarantee else "It proves nothing either."
    yield Flag(
        "dominated by DP-SGD",
        f"{setting(best)} is at least as useful ({_useful(best)} against {_useful(result)} {result.utility.words}), and"
        f" attacks find fewer members at {100 * FPR:g} % FPR"
        f" ({100 * _leakage(best):.1f} % against {100 * _leakage(result):.1f} %). {proof}",
    )


def _dominates(other: Result, result: Result) -> bool:
    if not (_is_dp_sgd(other) and _is_measured_alike(other, result)) or is_tied(other):
        return False
    its, own = (strongest_row(run, tpr_at(FPR)) for run in (other, result))
    if its is None or own is None or its.high is None or own.low is None:
        return False
    return worth(other) >= worth(result) > -math.inf and its.high < own.low and excludes_guessing(result, own)


def _is_dp_sgd(result: Result) -> bool:
    """Private training alone: what a guard hides would not be its merit."""
    return result.defense.partition("(")[0] == DP_SGD and result.epsilon is not None and result.guard == "none"


def _is_measured_alike(other: Result, result: Result) -> bool:
    """Attacked on the same records, with at least as many shadow models."""
    same = ("seed", "canary", "threat")
    return other.models >= result.models and all(getattr(other, name) == getattr(result, name) for name in same)


def _useful(result: Result) -> str:
    return result.utility.text(result.get(result.utility.metric))


def _leakage(result: Result) -> float:
    row = strongest_row(result, tpr_at(FPR))
    return (row and row.value) or 0.0
