"""Generated continuations of audited texts: near-verbatim copies, also after a change of style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from palisade.evaluation.measuring.extraction import of_sides
from palisade.evaluation.result import Row
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.statistics.near_verbatim import overlap

Generate = Callable[[int, str, int], str]
"""Continuation of a prompt by a model, behind its guard: its number, the prompt, the number of characters."""
PROMPT_STYLES: Mapping[str, Callable[[str], str]] = {"as it is": str, "in capitals": str.upper}
"""Changes of a prompt that a filter of exact copies does not know."""
NEAR_VERBATIM = ("longest_substring", "edit_similarity", "words_included", "repeated")


def near_verbatim_rows(
    texts: Sequence[str], prompt: int, generate: Generate, membership: Bool[np.ndarray, "models records"],
    bootstrap: Bootstrap,
) -> Iterator[Row]:  # fmt: skip
    """Overlap of what models generate with how the texts go on, members beside others, for every style of the prompt.

    Letters are compared without their case. `repeated` is the share of texts that come back in full; where a guard
    lets none through as it is, the row in capitals shows whether it only moved the leak.

    Args:
        texts: audited ones; those no longer than the prompt count nowhere.
        prompt: characters that are given.
        generate: asked once for each model, text and style.
        membership: which model was trained on which text.
        bootstrap: how to resample; persons whole.
    """
    for style, change in PROMPT_STYLES.items():
        values = np.full((len(NEAR_VERBATIM), *membership.shape), np.nan)
        for model, record in np.ndindex(membership.shape):
            if (rest := texts[record][prompt:].casefold()) == "":
                continue
            text = generate(model, change(texts[record][:prompt]), len(rest)).casefold()
            values[:, model, record] = _measures(text, rest)
        for name, own in zip(NEAR_VERBATIM, values, strict=True):
            yield from of_sides(f"{name}@{prompt} characters, {style}", own, membership, bootstrap)


def _measures(text: str, rest: str) -> Float[np.ndarray, "4"]:
    shared = overlap(text, rest)
    return np.array([shared.substring, shared.similarity, shared.words, float(text[: len(rest)] == rest)])
