"""Near-verbatim overlap of generated text with a document."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of two texts.

    Args:
        substring: characters of the longest common substring.
        similarity: 1 − edit distance over the longer length, 0 to 1; NaN without rapidfuzz (extra `lm`).
        words: share of the document's words, each as often as it stands there, that the generated text holds.
    """

    substring: int
    similarity: float
    words: float


def overlap(generated: str, document: str) -> Overlap:
    """Longest common substring, normalized edit similarity and word inclusion (Ippolito et al. 2023, section 4).

    Args:
        generated: by a model.
        document: that it may repeat.
    """
    longest = SequenceMatcher(None, generated, document, autojunk=False).find_longest_match()
    wanted, held = Counter(document.split()), Counter(generated.split())
    count = wanted.total()
    return Overlap(
        substring=longest.size,
        similarity=_similarity(generated, document),
        words=(wanted & held).total() / count if count else 0.0,
    )


def _similarity(generated: str, document: str) -> float:
    try:
        from rapidfuzz.distance import Levenshtein
    except ModuleNotFoundError:
        return float("nan")
    return float(Levenshtein.normalized_similarity(generated, document))
