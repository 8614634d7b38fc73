"""Verdict of leakage beyond guessing, and the chance level beside a TPR in words and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from palisade.evaluation.result import AUC, FPRS, Result, Row, chance_at, null_at, tpr_at

HALF = 0.5
"""The AUC of guessing."""


@runtime_checkable
class Searchable(Protocol):
    """Results of attacks on a fleet or on one model, by metric."""

    def find(self, metric: str, *, attack: str = ..., group: str = ...) -> Row | None:
        """The result of this metric, attack and group; None where there is none."""


def excludes_guessing(result: Searchable, row: Row) -> bool:
    """Verdict of leakage: the lower end of the interval lies above the 95 % quantile of the null distribution.

    The mean of the null, the chance level, is no bar: half of all fleets that leak nothing lie above it, and the
    interval of a TPR that rests on few non-members is too narrow to make up for that.

    Args:
        result: what attacks found, with what guessing finds.
        row: a TPR at 1 % or 0.1 % FPR, or an AUC, of an attack on all records or on a group.
    """
    return row.low is not None and row.low > null_quantile(result, row)


def null_quantile(result: Searchable, row: Row) -> float:
    """The null's 95 % quantile, corrected for choosing the strongest attack or group; of an AUC ½."""
    if row.metric == AUC:
        return HALF
    fpr = _fpr(row)
    return _value(result.find(null_at(fpr), attack=row.attack, group=row.group), guessing_level(result, row))


def guessing_level(result: Searchable, row: Row) -> float:
    """Chance level of a metric; the FPR itself where it was not measured, ½ for an AUC."""
    if row.metric == AUC:
        return HALF
    fpr = _fpr(row)
    return _value(result.find(chance_at(fpr), attack=row.attack, group=row.group), fpr)


def guessing_text(result: Searchable, row: Row) -> str:
    """Chance level and null quantile of a TPR in words, such as `1.5 % (luck explains up to 2.0 %)`."""
    level, quantile = guessing_level(result, row), null_quantile(result, row)
    return f"{_share(level)} %" + (f" (luck explains up to {_share(quantile)} %)" if quantile > level else "")


def guessing_range(results: Iterable[Result]) -> str:
    """A sentence on what guessing finds at 1 % FPR in these runs; empty where it was not measured."""
    told = [(result, result.find(tpr_at(FPRS[0]), attack=result.strongest)) for result in results if result.attacks]
    rows = [(result, row) for result, row in told if row and result.find(null_at(FPRS[0]), attack=row.attack)]
    measured = [(result, row) for result, row in rows if row.value is not None]
    if not measured:
        return ""
    level = max(guessing_level(result, row) for result, row in measured)
    quantile = max(null_quantile(result, row) for result, row in measured)
    return (
        f"finds {_share(level)} % at {_share(FPRS[0])} % FPR on average, the strongest attack by luck up to"
        f" {_share(quantile)} %; what begins above that has leaked"
    )


def drawn_level(results: Iterable[Result]) -> float:
    """The height at which a figure of TPRs at 1 % FPR draws guessing: the highest of the runs' strongest attacks."""
    rows = [(result, result.find(tpr_at(FPRS[0]), attack=result.strongest)) for result in results if result.attacks]
    return max([FPRS[0], *(guessing_level(result, row) for result, row in rows if row is not None)])


def _fpr(row: Row) -> float:
    return next(fpr for fpr in FPRS if tpr_at(fpr) == row.metric)


def _value(row: Row | None, otherwise: float) -> float:
    return otherwise if row is None or row.value is None else row.value


def _share(rate: float) -> str:
    """A rate in percent, two digits that count where it is small."""
    percent = 100 * rate
    return f"{percent:.1f}".removesuffix(".0") if percent >= 1 else f"{percent:.2g}"
