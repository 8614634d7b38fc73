"""Scores that cannot be split: a threshold jumps over them, and a TPR of 0 beyond it is no sign of protection."""

from __future__ import annotations

from collections.abc import Iterator

from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.result import FPRS, Result, tied_at

TIED = 0.05
"""Share of non-members that may stand at the threshold itself."""


def tied(result: Result) -> Iterator[Flag]:
    """Too many non-members tie at the threshold of the strongest attack."""
    if is_tied(result):
        yield ties_of(result.strongest, _share(result))


def ties_of(attack: str, share: float) -> Flag:
    """The flag of an attack at whose threshold this share of the non-members ties."""
    return Flag(
        "many ties at 1%",
        f"{100 * share:.0f} % of the non-members have the very score at which {attack} stops at 1 % FPR. Ties cannot be"
        " split, so the TPR is that of a smaller FPR: read the AUC beside it.",
    )


def is_tied(result: Result) -> bool:
    """Ties: the run's TPR at 1 % FPR is that of a much smaller one, as of attacks on labels alone."""
    return bool(result.attacks) and _share(result) > TIED


def _share(result: Result) -> float:
    row = result.find(tied_at(FPRS[0]), attack=result.strongest)
    return (row and row.value) or 0.0
