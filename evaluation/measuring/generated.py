"""Generated continuations of audited texts: near-verbatim copies, also after a change of style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from palisade.evaluation.measuring.extraction import of_sides
from palisade.evaluation.result import Row
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.statistics.near_verbatim import overlap

Generate = Callable[[int, Sequence[str], int], Sequence[str]]
"""Continuations of prompts by a model, behind its guard: its number, the prompts, and how many tokens at most."""
PROMPT_STYLES: Mapping[str, Callable[[str], str]] = {"as it is": str, "in capitals": str.upper}
"""Changes of a prompt that a filter of exact copies does not know."""
NEAR_VERBATIM = ("longest_substring", "edit_similarity", "words_included", "repeated")
PROMPT_CHARACTERS, CONTINUED_CHARACTERS = 50, 50
"""Characters that are given at most, and that are asked for."""
MIN_CONTINUED_CHARACTERS = 10
"""Characters behind the prompt without which a text is not asked for."""
GENERATED_TEXTS, GENERATING_MODELS = 50, 8
"""Texts that are asked for, drawn by the public seed, and models that are asked, the first ones: tokens come one by
one."""


def near_verbatim_rows(
    texts: Sequence[str], prompt: int, generate: Generate, membership: Bool[np.ndarray, "models records"],
    bootstrap: Bootstrap,
) -> Iterator[Row]:  # fmt: skip
    """Overlap of what models generate with how the texts go on, members beside others, for every style of the prompt.

    Letters are compared without their case. `repeated` is the share of texts whose next characters, at most 50, come
    back in full; where a guard lets none through as it is, the row in capitals shows whether it only moved the leak.

    Args:
        texts: audited ones; those that hardly go on behind the prompt count nowhere.
        prompt: characters that are given.
        generate: asked once for each model and style, greedily.
        membership: which model was trained on which text.
        bootstrap: how to resample; persons whole.
    """
    rests = [text[prompt : prompt + CONTINUED_CHARACTERS].casefold() for text in texts]
    long_enough = np.flatnonzero([len(rest) >= MIN_CONTINUED_CHARACTERS for rest in rests])
    drawn = np.random.default_rng([bootstrap.seed, *b"generated"]).permutation(long_enough)[:GENERATED_TEXTS]
    for style, change in PROMPT_STYLES.items() if len(drawn) else ():
        values = np.full((len(NEAR_VERBATIM), *membership.shape), np.nan)
        prompts = [change(texts[record][:prompt]) for record in drawn]
        for model in range(min(len(membership), GENERATING_MODELS)):
            answers = generate(model, prompts, CONTINUED_CHARACTERS)
            for record, text in zip(drawn, answers, strict=True):
                values[:, model, record] = _measures(text.casefold()[: len(rests[record])], rests[record])
        for name, own in zip(NEAR_VERBATIM, values, strict=True):
            yield from of_sides(f"{name}@{prompt} characters, {style}", own, membership, bootstrap)


def prompt_length(length: int) -> int:
    """Characters of a prompt, where models read so many tokens: half of them, and 50 at most."""
    return min(PROMPT_CHARACTERS, length // 2)


def _measures(text: str, rest: str) -> Float[np.ndarray, "4"]:
    shared = overlap(text, rest)
    return np.array([shared.substring, shared.similarity, shared.words, float(text == rest)])
