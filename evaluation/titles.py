"""Titles of runs in tables, legends and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from palisade.evaluation.result import Result

CLOSE = 0.02
"""A stated ε this near to a defense's strength is that strength: calibration stays a little below what is asked for."""


def is_undefended(result: Result) -> bool:
    """Absence of defense and guard."""
    return result.defense == "none" and result.guard == "none"


def has_canaries(result: Result) -> bool:
    """Test for canaries that alone were scored, rather than all records that a model may be trained on."""
    return result.canary != "none"


def line_name(result: Result) -> str:
    """The defense without its strength, with the guard on top."""
    if is_undefended(result):
        return "undefended"
    return result.defense if result.guard == "none" else f"{result.defense} + {result.guard}"


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
    kept = [column if len(set(column)) > 1 or len(runs) == 1 else ("",) * len(runs) for column in columns]
    return [str(Strength(*row)) for row in zip(*kept, strict=True)]


def setting(result: Result) -> str:
    """The defense with its strength, such as `dp_sgd ε=8` or `l2 0.001 + topk 3`; a fleet with canaries shares it."""
    if is_undefended(result):
        return "undefended"
    return _with_guard(f"{result.defense} {Strength.of(result).defense}".strip(), result)


def brief(result: Result) -> str:
    """The defense with its strength for a table that tells ε in another column, such as `none + topk 3`."""
    return _with_guard(f"{result.defense} {Strength.of(result).own}".strip(), result)


def title(result: Result) -> str:
    """A run in a few words, such as `dp_sgd ε=8` or `dp_sgd ε=8 with label_noise canaries`."""
    return setting(result) + canary_text(result)


def canary_text(result: Result) -> str:
    """Addition to a title where only canaries were scored."""
    return f" with {result.canary} canaries" if has_canaries(result) else ""


def epsilon_text(epsilon: float) -> str:
    """ε for labels, rounded up: a claim may be understated in protection, never in ε.

    >>> epsilon_text(7.921), epsilon_text(31.2), epsilon_text(math.inf)
    ('8', '32', '∞')
    """
    if math.isinf(epsilon):
        return "∞"
    unit = 1.0 if epsilon >= 10 else 0.1 if epsilon >= 1 else 0.01
    return f"{round(math.ceil(epsilon / unit - 1e-9) * unit, 2):g}"


def is_strength_epsilon(result: Result) -> bool:
    """Test for a stated ε that is the very value that a sweep over the defense varies."""
    if result.epsilon is None or result.strength is None:
        return False
    return math.isclose(result.strength, result.epsilon, rel_tol=CLOSE)


def defense_name(config: Mapping[str, Any]) -> str:
    """The defense of a configuration with the one it builds on, such as `selena(dp_sgd)`."""
    base = _base_name(config["defense"].get("base"))
    named: str = config["names"]["defense"]
    return f"{named}({base})" if base else named


def _base_name(node: Mapping[str, Any] | None) -> str:
    """The file of a base's class, such as `dp_sgd` of `defenses.dp_sgd.DPSGDDefense`; empty if it defends nothing."""
    if node is None or (own := str(node["_target_"]).split(".")[-2]) == "none":
        return ""
    inner = _base_name(node.get("base"))
    return f"{own}({inner})" if inner else own


def _with_guard(defense: str, result: Result) -> str:
    return defense if result.guard == "none" else f"{defense} + {result.guard} {Strength.of(result).guard}".strip()
