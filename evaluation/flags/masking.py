"""Masking: a defense hides from scores what labels still tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.result import AUC, Result, Row
from palisade.evaluation.titles import is_undefended

MASKED = "masked, not protected"
MOST = 0.5
"""The share of what scores tell beyond labels that a mask hides at least; to hold back a few decimals is none."""


def masked(result: Result, together: Sequence[Result]) -> Iterator[Flag]:
    """Label-only attacks show what attacks on scores miss, in one of two ways.

    The best of them has a larger AUC than every attack on scores, beyond both intervals; not so where that holds of the
    undefended run as well, whose scores nothing hides: then the attacks on scores are weak ones, or copies of a record
    (`Votes`) tell more than the scores of one answer.

    Or, behind a guard: the best attack on scores has a smaller AUC than the same attacks have on the same models
    without it, beyond both intervals and by most of what scores tell beyond labels; and the best label-only attack does
    better than guessing, and not worse than without the guard, both beyond intervals. The second way is needed since an
    attack on scores whose shadow models stand behind the guard as well learns from hidden scores what one label tells:
    it is not below that, and below votes on many copies not always beyond intervals.
    """
    labels, scores = _best(result, "label_only"), _best(result, "black_box")
    if labels is None or scores is None or is_undefended(result):
        return
    if _labels_tell_more(result) and not any(map(_labels_tell_more, _undefended(result, together))):
        yield Flag(
            MASKED,
            f"{labels.attack}, which sees predicted labels alone{_asked(result, labels)}, has an AUC of"
            f" {labels.value:.3f}; the best attack on scores, {scores.attack}, reaches {scores.value:.3f}. The"
            " defense hides the scores while the models still leak: judge it by the label-only attack.",
        )
    elif (bare := _without_guard(result, together)) is not None and (before := _hidden(result, bare)) is not None:
        yield Flag(
            MASKED,
            f"Behind {result.guard} the best attack on scores, {scores.attack}, has an AUC of {scores.value:.3f}; on"
            f" the same models without it {before.attack} reaches {before.value:.3f}. {labels.attack}, which sees"
            f" predicted labels alone{_asked(result, labels)}, finds as much as before ({labels.value:.3f}). The"
            " guard hides what the models still tell: judge them without it.",
        )


def _labels_tell_more(result: Result) -> bool:
    labels, scores = _best(result, "label_only"), _aucs(result, "black_box")
    return _leaking(labels) and bool(scores) and all(_below(row, labels) for row in scores)


def _leaking(row: Row | None) -> TypeGuard[Row]:
    """Success of an attack: it ranks members above others beyond its interval."""
    return row is not None and row.low is not None and row.low > 0.5


def _undefended(result: Result, together: Sequence[Result]) -> list[Result]:
    """Result on the same records where nothing is hidden."""
    fleet = (result.seed, result.canary)
    return [other for other in together if is_undefended(other) and (other.seed, other.canary) == fleet]


def _hidden(result: Result, bare: Result) -> Row | None:
    """The best result of scores without the guard, if it took most of that beyond labels, and left what labels tell."""
    labels, scores = _best(result, "label_only"), _best(result, "black_box")
    labels_before, scores_before = (_best(bare, access, result.attacks) for access in ("label_only", "black_box"))
    if labels is None or scores is None or labels_before is None or scores_before is None:
        return None
    hidden, beyond_labels = (_value(scores_before) - _value(row) for row in (scores, labels))
    leaking = _leaking(labels) and not _below(labels, labels_before)
    masks = leaking and _below(scores, scores_before) and hidden > MOST * beyond_labels
    return scores_before if masks else None


def _without_guard(result: Result, together: Sequence[Result]) -> Result | None:
    """Result on these models by whoever gets around the guard."""
    if result.guard == "none":
        return None
    return next((other for other in together if (other.folder, other.guard) == (result.folder, "none")), None)


def _best(result: Result, access: str, attacks: Sequence[str] | None = None) -> Row | None:
    """The largest AUC of the attacks that need this access, and ran on another run as well if that is given."""
    return max(_aucs(result, access, attacks), key=_value, default=None)


def _aucs(result: Result, access: str, attacks: Sequence[str] | None = None) -> list[Row]:
    rows = [result.get(AUC, attack=attack) for attack in result.attacks if attacks is None or attack in attacks]
    return [row for row in rows if row.access == access and row.value is not None]


def _asked(result: Result, row: Row) -> str:
    """The queries behind a value, where an attack on labels made more of them than those on scores."""
    queries = result.needs.get(row.attack, {}).get("measured", 1.0)
    return f" ({queries:.0f} queries a record)" if queries > 1 else ""


def _below(one: Row, other: Row) -> bool:
    """Test for a value that is smaller beyond both intervals."""
    return one.high is not None and other.low is not None and one.high < other.low


def _value(row: Row) -> float:
    return row.value or 0.0
