"""Intervals that lie above the FPR and yet below what luck reaches, as where few non-members set the threshold."""

from __future__ import annotations

from collections.abc import Iterator

from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.guessing import excludes_guessing, guessing_text
from palisade.evaluation.result import FPRS, Result, tpr_at


def explained(result: Result) -> Iterator[Flag]:
    """The strongest attack's interval excludes the FPR, though not guessing."""
    for fpr in FPRS if result.attacks else ():
        row = result.get(tpr_at(fpr), attack=result.strongest)
        if row.low is not None and row.low > fpr and not excludes_guessing(result, row):
            yield Flag(
                f"{100 * fpr:g}% by luck",
                f"The interval of the TPR at {100 * fpr:g} % FPR begins above {100 * fpr:g} %, but guessing finds"
                f" {guessing_text(result, row)} there: the threshold lies between the very non-members that are"
                " counted, and the best of several attacks is shown. By itself this is no sign of leakage.",
            )
