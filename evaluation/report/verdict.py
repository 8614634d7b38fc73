"""Verdict of an evaluation, in sentences that carry their scope."""

from __future__ import annotations

from palisade.evaluation.comparison import Comparison, Highlight
from palisade.evaluation.flags import masked, refutation
from palisade.evaluation.format import number, percent
from palisade.evaluation.guessing import compare_with_guessing, guessing_text
from palisade.evaluation.labels import canary_text, title
from palisade.evaluation.report.game import shadows_of
from palisade.evaluation.report.page import Entry
from palisade.evaluation.result import AUC, FPR, Result, tpr_at
from palisade.evaluation.table import IF_LEAKED, if_leaked

CAVEATS = {
    "": "",
    "masked": ", though only masked",
    "no_less": ", though no less was found than undefended",
}
"""Additions to a heading by the caveat of its highlight."""


def verdicts(comparison: Comparison) -> list[Entry]:
    """A verdict on each highlighted run."""
    told = []
    for highlight in comparison.highlights:
        result = highlight.result
        resolved = result.is_resolved
        told.append(
            {
                "heading": heading(highlight, comparison),
                "refuted": result.run in comparison.refuted,
                "measure": f"members found at {100 * FPR:g} % FPR" if resolved else AUC.upper(),
                "leakage": percent(result.strongest_row(tpr_at(FPR)), interval=True) if resolved else _auc(result),
                "utility": result.utility.text(result.get(result.utility.metric), interval=True),
                "sentence": _refutation(result, comparison) + sentence(result) + _masks(result, comparison),
            }
        )
    return told


def heading(highlight: Highlight, comparison: Comparison) -> str:
    """The reason why a run stands first, with its title, such as `Best protected: dp_sgd ε=8`."""
    kind, result, caveat = highlight
    named = f": {title(result)}{comparison.seed_text(result)}"
    if kind == "refuted":
        return f"Claim refuted{named}"
    if kind == "undefended":
        return f"Undefended{canary_text(result)}{comparison.seed_text(result)}"
    nearly = f" {result.utility.nearly}" if kind == "useful" else ""
    return f"Best protected{nearly}{CAVEATS[caveat]}{named}"


def sentence(result: Result) -> str:
    """TPR at 1 % FPR of the strongest attack, or else its AUC, under which threat model, and against guessing."""
    row, where = result.strongest_row(tpr_at(FPR)), scope(result)
    told = f"{where[0].upper()}{where[1:]}: at {100 * FPR:g} % false accusations"
    if row is None:
        return f"{told} it cannot be measured what attacks find."
    if not result.is_resolved:
        row = result.get(AUC, attack=result.strongest)
        told += (
            f" it cannot be measured what attacks find. The best attack ({result.strongest}) ranks members"
            f" above non-members with an AUC of {_auc(result)}; guessing has 0.5."
        )
    else:
        told += (
            f" the best attack ({result.strongest}) finds {percent(row, interval=True)} of members;"
            f" guessing finds {guessing_text(result, row)}."
        )
    unclear = row.low is not None and not result.excludes_guessing(row)
    return told + (compare_with_guessing(result, result.strongest) if unclear else "")


def scope(result: Result) -> str:
    """The threat model of the strongest attack, such as `black-box, 15 shadow models that know the defense`."""
    row = result.strongest_row(tpr_at(FPR))
    access = row.access.replace("_", "-") if row is not None else "no attack"
    if row is not None and if_leaked(result, row):
        access += f" ({IF_LEAKED})"
    shadows = shadows_of(result)
    return f"{access}, {shadows} shadow model{'s' * (shadows != 1)} that know the defense" if shadows else access


def _refutation(result: Result, comparison: Comparison) -> str:
    """The sentence that comes before all else, empty if the claim stands."""
    if (violation := comparison.refuted.get(result.run)) is None:
        return ""
    return f"The claim of {title(result)} is refuted: {refutation(violation).sentence} "


def _masks(result: Result, comparison: Comparison) -> str:
    """That the run only masks what it leaks, or that others which do were passed over for it."""
    if own := list(masked(result, comparison)):
        return f" Masked, not protected: {own[0].sentence}"
    others = [] if result.is_undefended else comparison.masked_but_lower(result)
    if not others:
        return ""
    listed = ", ".join(f"{title(other)}{comparison.seed_text(other)}" for other in others)
    return f" Passed over, since what looks like less leakage is only masked: {listed}."


def _auc(result: Result) -> str:
    return number(result.get(AUC, attack=result.strongest), interval=True)
