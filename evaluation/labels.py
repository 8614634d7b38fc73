"""Labels: how results and lines are named, and guessing in words beside their figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from palisade.evaluation.format import NO_NUMBER, epsilon_text, number, share_text
from palisade.evaluation.result import AUC, FPR, GUESSING_AUC, Result, Row, fpr_of, null_at, tpr_at
from palisade.evaluation.statistics.chance import chance_level
from palisade.frequencies import PEOPLE_WORD, TEXTS_WORD, count, crowd, frequencies

EPSILON_TOLERANCE = 0.02
"""A stated ε this near to a defense's strength is that strength: calibration stays a little below what is asked for."""


def series_label(result: Result) -> str:
    """The defense without its strength, with the unit of its ε where data name persons, and the guard on top."""
    if result.is_undefended:
        return "undefended"
    defense = f"{result.defense}{unit_text(result)}"
    return defense if result.guard == "none" else f"{defense} + {result.guard}"


def unit_text(result: Result) -> str:
    """The unit of a stated ε, such as ` per person`, where data name persons: an ε alone is no claim there."""
    if result.epsilon is None or (result.dataset.get("persons") is None and result.statement.unit == "record"):
        return ""
    several = result.statement.records_per_unit or 1
    return f" per {result.statement.unit}" + (f" (≤ {several} records)" if several > 1 else "")


def epsilon_cell(result: Result) -> str:
    """A stated ε for a table, such as `8` or `8 per person`; a dash where none is."""
    return NO_NUMBER if result.epsilon is None else f"{epsilon_text(result.epsilon)}{unit_text(result)}"


class Strength(NamedTuple):
    """The texts of what a sweep varies, and of ε; each is empty where there is none.

    Args:
        own: the defense's strength, such as `0.001`, unless it is ε.
        epsilon: what is stated, such as `ε=8`.
        guard: the guard's strength.
    """

    own: str = ""
    epsilon: str = ""
    guard: str = ""

    @classmethod
    def of(cls, result: Result) -> Strength:
        """The texts of a run's strengths; ε is left to `epsilon` where it is what varies."""
        own = "" if result.strength is None or is_strength_epsilon(result) else f"{result.strength:g}"
        stated = "" if result.epsilon is None else f"ε={epsilon_text(result.epsilon)}"
        return cls(own, stated, "" if result.guard_strength is None else f"{result.guard_strength:g}")

    @property
    def defense(self) -> str:
        """Without that of the guard: `ε=8` where ε is what varies, `100, ε=1.92` where ε follows, `0.001` elsewhere."""
        return ", ".join(filter(None, (self.own, self.epsilon)))

    def __str__(self) -> str:
        return " + ".join(filter(None, (self.defense, self.guard)))


def varying(runs: Sequence[Result]) -> list[str]:
    """Labels that tell the runs of a line apart, such as `0.001 + 3` if both strengths vary; all of a single run."""
    strengths = [Strength.of(result) for result in runs]
    columns = zip(*strengths, strict=True)
    varied = [column if len(set(column)) > 1 or len(runs) == 1 else ("",) * len(runs) for column in columns]
    return [str(Strength(*row)) for row in zip(*varied, strict=True)]


def label(result: Result, *, short: bool = False) -> str:
    """A result in a few words: its defense with its strength, or the name of one existing model.

    Such as `dp_sgd ε=8`, `l2 0.001 + topk 3`, or `dp_sgd ε=8 per person` where data name persons.

    Args:
        result: of attacks on a fleet or on one model.
        short: True: the defense alone, which a fleet with canaries shares with the one without; False: with what was
            attacked, such as `dp_sgd ε=8 with label_noise canaries`.
    """
    if not short:
        return result.run if result.sides is not None else label(result, short=True) + canary_text(result)
    if result.is_undefended:
        return "undefended"
    return _with_guard(f"{result.defense} {Strength.of(result).defense}".strip() + unit_text(result), result)


def defense_cell(result: Result) -> str:
    """The defense with its strength for a table with a column of ε, such as `none + topk 3`."""
    return _with_guard(f"{result.defense} {Strength.of(result).own}".strip(), result)


def canary_text(result: Result) -> str:
    """Addition to a label where only canaries were scored."""
    return f" with {result.canary} canaries" if result.has_canaries else ""


def is_strength_epsilon(result: Result) -> bool:
    """Test for a stated ε that is the very value that a sweep over the defense varies."""
    if result.epsilon is None or result.strength is None:
        return False
    return math.isclose(result.strength, result.epsilon, rel_tol=EPSILON_TOLERANCE)


def _with_guard(defense: str, result: Result) -> str:
    return defense if result.guard == "none" else f"{defense} + {result.guard} {Strength.of(result).guard}".strip()


def guessing_text(result: Result, row: Row) -> str:
    """Chance level and null quantile of a TPR in words, such as `1.5 % (luck explains up to 2.0 %)`."""
    level, quantile = result.guessing_level(row), result.null_quantile(row)
    return f"{share_text(level)} %" + (f" (luck explains up to {share_text(quantile)} %)" if quantile > level else "")


def crowd_word(result: Result) -> str:
    """The word for those who were in or not: records where a person has several, texts, or canaries."""
    if result.has_canaries:
        return "canaries"
    if "vocabulary" in result.dataset:
        return TEXTS_WORD
    over_persons = result.sides is not None and result.sides.over_persons
    several = over_persons or (result.dataset.get("persons") or math.inf) < result.dataset.get("records", 0)
    return "records" if several else PEOPLE_WORD


def detection_text(result: Result, row: Row) -> str:
    """A TPR that was measured, for laymen: in natural frequencies with its interval, beside what guessing finds.

    Args:
        result: of attacks on a fleet or on one model.
        row: a TPR at 1 % or 0.1 % FPR that has a value.
    """
    ends = None if row.low is None or row.high is None else (row.low, row.high)
    text = frequencies(row.value or 0.0, fpr := fpr_of(row), ends=ends, who=crowd_word(result))
    level, quantile, size = result.guessing_level(row), result.null_quantile(row), crowd(fpr)
    if result.sides is not None:
        level = chance_level([result.sides.nonmembers], fpr)
    luck = f" (luck explains up to {count(quantile, size)})" if quantile > level else ""
    return f"{text}; guessing finds {count(level, size)}{luck}"


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


def drawn_level(results: Iterable[Result], metric: str = tpr_at(FPR)) -> float:
    """The height at which a figure of leakage draws guessing: of TPRs the highest of the runs' strongest attacks."""
    if metric == AUC:
        return GUESSING_AUC
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
