"""Words for what language models give back: texts word by word, and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palisade.evaluation.figures.extraction import GREEDY_PATTERN, SECRET_PATTERN
from palisade.evaluation.format import NO_NUMBER
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
TEXTS_TABLE_WORDS = (
    f"How many of {MIN_CROWD_SIZE:,} texts come out word by word when a model is given how they begin: of those that it"
    " was trained on, beside others, with 95 % intervals. In capitals: the same beginning is given in capitals, which a"
    " filter of exact copies does not know. The longest stretch is what the model writes of how a text goes on, on"
    " average."
)
SECRETS_TABLE_WORDS = (
    f"How far secrets are exposed, and of {MIN_CROWD_SIZE:,} of them, how many a model says outright when it is asked:"
    " secrets that stood in its training texts once or several times, beside others."
)
FILTER_TABLE_WORDS = (
    f"Whoever holds a text can see whether it was used: of {MIN_CROWD_SIZE:,} texts, so many have a true continuation"
    " of which the filter refuses a token. It keeps texts from being copied, and nobody's membership secret. Its price"
    " is the share of tokens that it refuses in texts that are new to it, as they share phrases with others."
)
STYLE_HEADINGS = {"as it is": "next {asked} characters, given {prompt}", "in capitals": "the same in capitals"}
"""Headings of columns by the style of a prompt, as `STYLE_WORDS` has them."""
Cells = Mapping[str, tuple[str, str]]
"""By the heading of a column what is told of members, and of others."""


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


def tables(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Texts and secrets that several runs give back, side by side; none where one run at most was asked.

    Returns:
        Of each table its `words`, the headings of its `labels` and of its `pairs` of columns, members beside others,
        its `rows`, each with labels and pairs of cells, and `notes` on how to read it.
    """
    if len(recitations(results)) < 2:
        return []
    runs = {label(result): result.rows for result in results}
    secrets = [((run, *own), cells) for run, rows in runs.items() for own, cells in _secret_cells(rows)]
    limits = {row.value for rows in runs.values() for row in rows if row.metric == SECRET_LIMIT}
    limit = limits.pop() if len(limits) == 1 else None
    drawn = (
        _table(TEXTS_TABLE_WORDS, ["run"], _text_cells(runs), [ONLY_MEMORIZED]),
        _table(SECRETS_TABLE_WORDS, ["run", "copies"], secrets, [_meaning_of_bits(limit), COPIES_ARE_A_GROUP]),
        _table(FILTER_TABLE_WORDS, ["run"], [((run,), _filter_cells(rows)) for run, rows in runs.items()], []),
    )
    return [table for table in drawn if table["rows"]]


def _table(
    words: str, labels: Sequence[str], rows: Sequence[tuple[tuple[str, ...], Cells]], notes: Sequence[str]
) -> dict[str, Any]:
    pairs = list(dict.fromkeys(heading for _, cells in rows for heading in cells))
    nothing = (NO_NUMBER, NO_NUMBER)
    shown = [
        {"labels": list(own), "pairs": [list(cells.get(heading, nothing)) for heading in pairs]}
        for own, cells in rows
        if cells
    ]
    return {"words": words, "labels": list(labels), "pairs": pairs, "rows": shown, "notes": list(notes)}


def _text_cells(runs: Mapping[str, Sequence[Row]]) -> list[tuple[tuple[str, ...], Cells]]:
    """For each run texts that come out: by the span by which most members of any run do, and by what it writes."""
    greedy = {run: _pairs(rows, GREEDY_PATTERN) for run, rows in runs.items()}
    spans = [(inside.value or 0.0, span) for own in greedy.values() for span, (inside, _) in own.items()]
    span = max(spans, key=lambda pair: pair[0])[1] if spans else ("", "")
    rows: list[tuple[tuple[str, ...], Cells]] = []
    for run, measured in runs.items():
        cells: dict[str, tuple[str, str]] = {}
        if (pair := greedy[run].get(span)) is not None:
            cells["next {1} tokens, given {0}".format(*span)] = _counts(pair)
        repeated, shared = _pairs(measured, REPEATED_PATTERN), _pairs(measured, SUBSTRING_PATTERN)
        for style, heading in STYLE_HEADINGS.items():
            for (prompt, own), pair in repeated.items():
                if own == style:
                    cells[heading.format(asked=CONTINUED_CHARACTERS, prompt=prompt)] = _counts(pair)
        for (_, own), (inside, outside) in shared.items():
            if own in STYLE_HEADINGS:
                name = "longest stretch (characters)" if own == "as it is" else "longest stretch, in capitals"
                cells[name] = (f"{inside.value:.1f}", f"{outside.value:.1f}")
        rows.append(((run,), cells))
    return rows


def _secret_cells(rows: Sequence[Row]) -> Iterator[tuple[tuple[str], Cells]]:
    """For each number of copies the exposure of secrets, and how many are said outright."""
    whole = _pairs(rows, SECRET_OUT_PATTERN)
    for key, pair in sorted(_pairs(rows, SECRET_PATTERN).items(), key=lambda item: int(item[0][0])):
        bits = tuple(f"{row.value:.1f}{_ends(row, '[{}–{}]')}" for row in pair)
        cells = {"exposure (bits)": (bits[0], bits[1])}
        if key in whole:
            cells["said outright"] = _counts(whole[key])
        yield (key[0],), cells


def _filter_cells(rows: Sequence[Row]) -> Cells:
    """Texts of which a filter refuses a token, and tokens."""
    texts, tokens = (
        _pairs(rows, re.compile(rf"({metric})$")).get((metric,)) for metric in (REFUSED_TEXTS, REFUSED_TOKENS)
    )
    cells = {} if texts is None else {"texts refused": _counts(texts)}
    if tokens is not None:
        inside, outside = (f"{100 * (row.value or 0.0):.1f} %" for row in tokens)
        cells["tokens refused"] = (inside, outside)
    return cells


def _counts(pair: tuple[Row, Row]) -> tuple[str, str]:
    inside, outside = (_count(row, "[{}–{}]") for row in pair)
    return inside, outside


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
        yield _meaning_of_bits(limit)
        yield COPIES_ARE_A_GROUP


def _meaning_of_bits(limit: float | None) -> str:
    return MEANING_OF_BITS.format(limit="" if limit is None else f", {limit:.1f} here,")


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


def _count(row: Row, ends: str = "({} to {})") -> str:
    """A share as a number of texts, with its interval in this form."""
    assert row.value is not None
    least, most = (None if end is None else count(end, MIN_CROWD_SIZE) for end in (row.low, row.high))
    return count(row.value, MIN_CROWD_SIZE) + ("" if least is None or most is None else f" {ends.format(least, most)}")


def _ends(row: Row, ends: str = "({} to {})") -> str:
    return "" if row.low is None or row.high is None else f" {ends.format(f'{row.low:.1f}', f'{row.high:.1f}')}"
