"""Words for what language models give back: texts word by word, and secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palisade.evaluation.figures.extraction import GREEDY_PATTERN, SECRET_PATTERN
from palisade.evaluation.labels import label
from palisade.evaluation.result import MEMBER_GROUP, NONMEMBER_GROUP, Result, Row
from palisade.frequencies import MIN_CROWD_SIZE, count

ONLY_MEMORIZED = (
    "What a model completes that never saw the text is no memorization: the second number is what anybody could"
    " complete, such as a common phrase. Only what the first has above it was learnt by heart."
)
MEANING_OF_BITS = (
    "Exposure counts how many halvings of the list of all possible secrets the model saves an attacker. A secret that"
    " it never saw has about 1.4; at the full number the right one comes first."
)


def recitations(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each run that was asked for texts or secrets its title and sentences; none for classifiers."""
    entries = [{"title": label(result), "sentences": sentences(result.rows)} for result in results]
    return [entry for entry in entries if entry["sentences"]]


def sentences(rows: Sequence[Row]) -> list[str]:
    """Texts that come out, of the span by which most members do, and secrets by their copies, each beside others.

    Args:
        rows: of a run.
    """
    texts = _pairs(rows, GREEDY_PATTERN)
    words: list[str] = []
    if texts:
        (prefix, suffix), (inside, outside) = max(texts.items(), key=lambda item: item[1][0].value or 0.0)
        words.append(
            f"Given the first {prefix} tokens, the model goes on word by word for {suffix} more with"
            f" {_count(inside)} of {MIN_CROWD_SIZE:,} texts that it was trained on, and with {_count(outside)} of"
            f" {MIN_CROWD_SIZE:,} that it was not. {ONLY_MEMORIZED}"
        )
    secrets = _pairs(rows, SECRET_PATTERN)
    for (copies,), (inside, outside) in sorted(secrets.items()):
        times = "once" if copies == 1 else f"{copies} times"
        words.append(
            f"A secret that stood {times} in the training texts has an exposure of {inside.value:.1f} bits"
            f"{_ends(inside)}, one that did not stand there {outside.value:.1f}."
        )
    return [*words, MEANING_OF_BITS] if secrets else words


def _pairs(rows: Sequence[Row], pattern: re.Pattern[str]) -> Mapping[tuple[int, ...], tuple[Row, Row]]:
    """Rows of members and of non-members, by the numbers in the name of the metric; only where there are both."""
    sides: dict[tuple[int, ...], dict[str, Row]] = {}
    for row in rows:
        if (match := pattern.match(row.metric)) and row.value is not None:
            sides.setdefault(tuple(map(int, match.groups())), {})[row.group] = row
    both = {MEMBER_GROUP, NONMEMBER_GROUP}
    return {key: (own[MEMBER_GROUP], own[NONMEMBER_GROUP]) for key, own in sides.items() if own.keys() == both}


def _count(row: Row) -> str:
    assert row.value is not None
    ends = "" if row.low is None or row.high is None else _between(row.low, row.high)
    return count(row.value, MIN_CROWD_SIZE) + ends


def _between(low: float, high: float) -> str:
    return f" ({count(low, MIN_CROWD_SIZE)} to {count(high, MIN_CROWD_SIZE)})"


def _ends(row: Row) -> str:
    return "" if row.low is None or row.high is None else f" ({row.low:.1f} to {row.high:.1f})"
