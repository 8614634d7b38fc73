"""Words for what language models give back: texts word by word, and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palisade.evaluation.figures.extraction import GREEDY_PATTERN, SECRET_PATTERN
from palisade.evaluation.labels import label
from palisade.evaluation.measuring.extraction import REFUSED_TEXTS, REFUSED_TOKENS, SECRET_EXTRACTED, SECRET_LIMIT
from palisade.evaluation.measuring.generated import CONTINUED_CHARACTERS
from palisade.evaluation.result import MEMBER_GROUP, NONMEMBER_GROUP, Result, Row
from palisade.frequencies import MIN_CROWD_SIZE, count

ONLY_MEMORIZED = (
    "What a model completes that never saw the text is no memorization: the second number is what anybody could"
    " complete, such as a common phrase. Only what the first has above it was learnt by heart."
)
MEANING_OF_BITS = (
    "Exposure counts how many halvings of the list of all possible secrets the model saves an attacker. A secret that"
    " it never saw has about 1.4; at the full number{limit} the right one comes first."
)
COPIES_ARE_A_GROUP = (
    "A stated ε is about one text. Copies of a secret are several: what it promises gets weaker with every copy, unless"
    " it was stated for persons (records_per_person)."
)
NOTE_BEGINNINGS = ("What a model completes that never saw", "Exposure counts", "A stated ε is about")
"""Beginnings of the sentences that tell how to read the others."""
SECRET_OUT_PATTERN = re.compile(rf"{SECRET_EXTRACTED}@(\d+) copies$")
REPEATED_PATTERN = re.compile(r"repeated@(\d+) characters, (.+)$")
SUBSTRING_PATTERN = re.compile(r"longest_substring@(\d+) characters, (.+)$")
STYLE_WORDS = {
    "as it is": "Asked with the first {prompt} characters of a text",
    "in capitals": "Asked with the same in capitals, which a filter of exact copies does not know",
}
"""Beginnings of sentences by the style of a prompt, as `measuring.generated.PROMPT_STYLES` names them."""


def recitations(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each run that was asked for texts or secrets its title and sentences, none of classifiers.

    How to read them is told once.
    """
    entries, notes = [], set[str]()
    for result in results:
        own = [sentence for sentence in sentences(result.rows) if sentence not in notes]
        notes.update(sentence for sentence in own if sentence.startswith(NOTE_BEGINNINGS))
        if own:
            entries.append({"title": label(result), "sentences": own})
    return entries


def sentences(rows: Sequence[Row]) -> list[str]:
    """Texts that come out, copies that are nearly word by word, secrets, and refusals, each beside those of others.

    Args:
        rows: of a run.
    """
    return [*_of_texts(rows), *_near_verbatim(rows), *_of_secrets(rows), *_of_filter(rows)]


def _of_texts(rows: Sequence[Row]) -> Iterator[str]:
    """The span by which most members come out."""
    if texts := _pairs(rows, GREEDY_PATTERN):
        (prefix, suffix), (inside, outside) = max(texts.items(), key=lambda item: item[1][0].value or 0.0)
        yield (
            f"Given the first {prefix} tokens, the model goes on word by word for {suffix} more with"
            f" {_count(inside)} of {MIN_CROWD_SIZE:,} texts that it was trained on, and with {_count(outside)} of"
            f" {MIN_CROWD_SIZE:,} that it was not."
        )
        yield ONLY_MEMORIZED


def _near_verbatim(rows: Sequence[Row]) -> Iterator[str]:
    """The part of a text that the model writes when it goes on by itself, by the style of what it is asked with."""
    repeated, shared = _pairs(rows, REPEATED_PATTERN), _pairs(rows, SUBSTRING_PATTERN)
    for style, words in STYLE_WORDS.items():
        for (prompt, own), (inside, outside) in repeated.items():
            if own != style:
                continue
            sentence = (
                f"{words.format(prompt=prompt)}, the model writes what follows exactly, up to {CONTINUED_CHARACTERS}"
                f" characters, with {_count(inside)} of {MIN_CROWD_SIZE:,} texts that it was trained on, and with"
                f" {_count(outside)} of {MIN_CROWD_SIZE:,} others"
            )
            if (longest := shared.get((prompt, own))) is not None:
                most, its = (row.value or 0.0 for row in longest)
                sentence += (
                    f"; the longest stretch that it shares with how a text goes on has {most:.1f} characters on average"
                    f" (others {its:.1f})"
                )
            yield f"{sentence}."


def _of_secrets(rows: Sequence[Row]) -> Iterator[str]:
    """Secrets by their copies, and how to read bits."""
    secrets, whole = _pairs(rows, SECRET_PATTERN), _pairs(rows, SECRET_OUT_PATTERN)
    for key, (inside, outside) in sorted(secrets.items(), key=lambda item: int(item[0][0])):
        times = "once" if key[0] == "1" else f"{key[0]} times"
        sentence = (
            f"A secret that stood {times} in the training texts has an exposure of {inside.value:.1f} bits"
            f"{_ends(inside)}, one that did not stand there {outside.value:.1f}"
        )
        if key in whole:
            out, others = whole[key]
            sentence += (
                f". Asked for it, the model says it outright for {_count(out)} of {MIN_CROWD_SIZE:,} such secrets, and"
                f" for {count(others.value or 0.0, MIN_CROWD_SIZE)} of {MIN_CROWD_SIZE:,} that it never saw"
            )
        yield f"{sentence}."
    if secrets:
        limit = next((row.value for row in rows if row.metric == SECRET_LIMIT), None)
        yield MEANING_OF_BITS.format(limit="" if limit is None else f", {limit:.1f} here,")
        yield COPIES_ARE_A_GROUP


def _of_filter(rows: Sequence[Row]) -> Iterator[str]:
    """The other game of a filter against copying: who was trained on."""
    refused = {row.group: row for row in rows if row.metric == REFUSED_TEXTS and row.value is not None}
    tokens = {row.group: row for row in rows if row.metric == REFUSED_TOKENS and row.value is not None}
    if refused.keys() != {MEMBER_GROUP, NONMEMBER_GROUP}:
        return
    sentence = (
        "Whoever holds a text can see whether it was used: asked for its true continuation, the filter refuses a token"
        f" of {_count(refused[MEMBER_GROUP])} of {MIN_CROWD_SIZE:,} texts that were, and of"
        f" {_count(refused[NONMEMBER_GROUP])} of {MIN_CROWD_SIZE:,} that were not, as they share a phrase with one that"
        " was. It keeps texts from being copied, and nobody's membership secret."
    )
    if (own := tokens.get(NONMEMBER_GROUP)) is not None:
        share = 100 * (own.value or 0.0)
        sentence += f" Its price: of texts that are new to it, it refuses {share:.1f} % of the tokens."
    yield sentence


def _pairs(rows: Sequence[Row], pattern: re.Pattern[str]) -> Mapping[tuple[str, ...], tuple[Row, Row]]:
    """Rows of members and of non-members, by what stands in the name of the metric; only where there are both."""
    sides: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if (match := pattern.match(row.metric)) and row.value is not None:
            sides.setdefault(match.groups(), {})[row.group] = row
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
