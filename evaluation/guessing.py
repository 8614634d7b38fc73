"""Guessing in words and figures: what it finds beside a TPR, and what to say of an attack that does no better."""

from __future__ import annotations

from collections.abc import Iterable

from palisade.evaluation.format import number, share_text
from palisade.evaluation.result import AUC, FPR, Result, Row, null_at, tpr_at


def guessing_text(result: Result, row: Row) -> str:
    """Chance level and null quantile of a TPR in words, such as `1.5 % (luck explains up to 2.0 %)`."""
    level, quantile = result.guessing_level(row), result.null_quantile(row)
    return f"{share_text(level)} %" + (f" (luck explains up to {share_text(quantile)} %)" if quantile > level else "")


def guessing_range(results: Iterable[Result]) -> str:
    """A sentence on what guessing finds at 1 % FPR in these runs; empty where it was not measured."""
    rows = [(result, row) for result in results if (row := result.strongest_row(tpr_at(FPR))) is not None]
    measured = [
        (result, row) for result, row in rows if row.value is not None and result.find(null_at(FPR), attack=row.attack)
    ]
    if not measured:
        return ""
    level = max(result.guessing_level(row) for result, row in measured)
    quantile = max(result.null_quantile(row) for result, row in measured)
    return (
        f"finds {share_text(level)} % at {share_text(FPR)} % FPR on average, the strongest attack by luck up to"
        f" {share_text(quantile)} %; what begins above that has leaked"
    )


def drawn_level(results: Iterable[Result]) -> float:
    """The height at which a figure of TPRs at 1 % FPR draws guessing: the highest of the runs' strongest attacks."""
    rows = [(result, row) for result in results if (row := result.strongest_row(tpr_at(FPR))) is not None]
    return max([FPR, *(result.guessing_level(row) for result, row in rows)])


def compare_with_guessing(result: Result, attack: str) -> str:
    """A sentence for an attack whose interval at few false accusations does not exclude guessing.

    Few records decide there; over all of them its AUC, or that of another attack, may well exclude guessing.

    Args:
        result: of attacks on a fleet or on one model.
        attack: that finds most at few false accusations.
    """
    own = result.get(AUC, attack=attack)
    if result.excludes_guessing(own):
        text = number(own, interval=True)
        return f" Over all records it does better than guessing: its AUC is {text}; guessing has 0.5."
    highest = result.highest
    if result.excludes_guessing(highest):
        text = number(highest, interval=True)
        return f" Of the {len(result.attacks)} attacks, {highest.attack} has the highest AUC: {text}."
    return " That is no better than guessing within its interval, which proves nothing about stronger attacks."
