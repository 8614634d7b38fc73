"""Continuations that a run's models generate, behind its guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from palisade.data.sequences import Sequences
from palisade.evaluation.signals.signals import guarded
from palisade.targets.run import Run

Continue = Callable[[int, Sequence[str], int], list[str]]
"""Greedy continuations of prompts by a model: its number, the prompts, and how many tokens at most."""


def continuation(run: Run) -> Continue | None:
    """Generates texts by the models of a run, as whoever queries them gets them; None where weights were removed."""
    if not run.has_weights():
        return None
    models, tokens = guarded(run), run.dataset.preprocessing
    assert isinstance(tokens, Sequences)

    def goes_on(model: int, prompts: Sequence[str], count: int) -> list[str]:
        texts = [tokens.encode(prompt)[: tokens.length] for prompt in prompts]
        room = [min(count, tokens.length - len(text)) for text in texts]
        return [text_of(tokens, text) for text in models.one(model).generate(texts, room, tokens.begin)]

    return goes_on


def text_of(tokens: Sequences, text: Sequence[int]) -> str:
    """The text of tokens; bytes that make no letter are marked."""
    return tokens.decode([int(token) for token in text]).decode("utf-8", "replace")
