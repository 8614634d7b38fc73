"""Generation of texts by language models, token by token, behind a filter of training n-grams or without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Real

from palisade.sampling import SamplingLaw
from palisade.targets.guards.ngram_filter import NgramFilter

Text = Int[np.ndarray, "tokens"]
NextLogits = Callable[[Sequence[Text]], Float[np.ndarray, "texts vocabulary"]]
"""A model's logits for the token that follows each of some texts."""
Predict = Callable[[Real[np.ndarray, "texts positions"]], Float[np.ndarray, "texts positions vocabulary"]]
"""A model's logits at every position of inputs: at each the token before."""
TOKENS_AT_ONCE = 8192
"""Tokens whose answers are in memory together: each is as long as the vocabulary."""


def generate(
    next_logits: NextLogits,
    prompts: Sequence[Text],
    tokens: int | Sequence[int],
    *,
    law: SamplingLaw | None = None,
    barrier: NgramFilter | None = None,
    seed: int = 0,
) -> list[Text]:
    """Continuations of prompts, without them; one ends early where every token is refused.

    Each text's draws are its own: what stands beside it in the list plays no part.

    Args:
        next_logits: of the model.
        prompts: token numbers.
        tokens: how many are to follow each at most.
        law: by which they are drawn; None: the most likely one.
        barrier: what may not be completed; probabilities are those of the tokens that are left.
        seed: of the draws.
    """
    texts = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    counts = np.broadcast_to(tokens, len(texts)).copy()
    rngs = [np.random.default_rng((seed, place)) for place in range(len(texts))]
    for step in range(counts.max(initial=0)):
        places = np.flatnonzero(counts > step)
        current = [texts[place] for place in places]
        logits = np.array(next_logits(current), dtype=np.float64)
        if law is None:
            chosen = _likeliest(logits, current, barrier)
        else:
            chosen = [
                _drawn(own, text, law, barrier, rngs[place])
                for own, text, place in zip(logits, current, places, strict=True)
            ]
        for place, token in zip(places, chosen, strict=True):
            if token is None:
                counts[place] = step
            else:
                texts[place] = np.append(texts[place], token)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def next_logits_of(predict: Predict, begin: int) -> NextLogits:
    """A network's logits of the next token, texts of any lengths side by side.

    Args:
        predict: gives logits at every position.
        begin: the token that begins a document, and pads it.
    """

    def asked(texts: Sequence[Text]) -> Float[np.ndarray, "texts vocabulary"]:
        lengths = np.array([len(text) for text in texts])
        x = np.full((len(texts), lengths.max() + 1), begin, dtype=np.int64)
        for row, text in zip(x, texts, strict=True):
            row[1 : 1 + len(text)] = text
        at_once = max(1, TOKENS_AT_ONCE // x.shape[1])
        parts = [slice(start, start + at_once) for start in range(0, len(x), at_once)]
        return np.concatenate([predict(x[part])[np.arange(len(x[part])), lengths[part]] for part in parts])

    return asked


def _likeliest(
    logits: Float[np.ndarray, "texts vocabulary"], texts: Sequence[Text], barrier: NgramFilter | None
) -> list[int | None]:
    """The most likely token after each text of those that are not refused; None where all are."""
    left = np.arange(len(texts)) if barrier is not None else np.arange(0)
    chosen = logits.argmax(axis=1)
    while barrier is not None and len(left):
        refused = barrier.refuses([texts[int(place)] for place in left], chosen[left])
        left = left[refused]
        logits[left, chosen[left]] = -np.inf
        chosen[left] = logits[left].argmax(axis=1)
        left = left[np.isfinite(logits[left, chosen[left]])]
    possible = np.isfinite(logits[np.arange(len(texts)), chosen])
    return [int(token) if any_left else None for token, any_left in zip(chosen, possible, strict=True)]


def _drawn(
    logits: Float[np.ndarray, "vocabulary"],
    text: Text,
    law: SamplingLaw,
    barrier: NgramFilter | None,
    rng: np.random.Generator,
) -> int | None:
    """A token after a text; None where all are refused."""
    if barrier is not None:
        logits = np.where(barrier.refused(text, len(logits)), -np.inf, logits)
    if not np.isfinite(logits.max()):
        return None
    return int(rng.choice(len(logits), p=np.exp(law.log_law(logits))))
