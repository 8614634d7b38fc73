"""Models behind a guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64, Real, Shaped
from torch import Tensor

from palisade.data.sequences import GUARDED_TOKEN_ROW, LEAST_LOGPROB, NO_TOKEN, TOKEN_ROW
from palisade.targets.fleet import Fleet
from palisade.targets.generation import generate, next_logits_of
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.record_loss import own_log_probabilities, token_rows

RECORDS_AT_ONCE = 64
"""Documents whose answers are in memory together: a number for every token of the vocabulary at each position."""


class Guarded:
    """A fleet, each model behind the guard that was fitted to it.

    Args:
        fleet: the models.
        guard: which one.
        states: what it learned about each of them.
    """

    def __init__(self, fleet: Fleet, guard: Guard, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.fleet, self.guard, self.states = fleet, guard, states

    def one(self, position: int) -> Guarded:
        """A single one of these models."""
        return Guarded(self.fleet.one(position), self.guard, [self.states[position]])

    def predict(
        self,
        x: Real[np.ndarray, "records ..."],
        logits: Float32[np.ndarray, "models records classes"] | None = None,
    ) -> Shaped[np.ndarray, "models records *classes"]:
        """Answers of every model's guard.

        Args:
            x: the inputs.
            logits: of the models, where they are known already.
        """
        logits = self.fleet.predict(x) if logits is None else logits
        return np.stack(
            [
                self.guard.answer(Query(x, np.asarray(of_model), state, self._asker(position)))
                for position, (of_model, state) in enumerate(zip(logits, self.states, strict=True))
            ]
        )

    def answers(
        self,
        x: Real[np.ndarray, "records ..."],
        y: Int64[np.ndarray, "records *positions"],
        unguarded: Shaped[np.ndarray, "models records ..."],
    ) -> Shaped[np.ndarray, "models records ..."]:
        """Answers as they are kept: those of `predict`, or rows about tokens with what the guard refuses.

        Log-probabilities of a token are those of the model itself, whether the guard refuses the token or not.

        Args:
            x: the inputs.
            y: their labels.
            unguarded: answers of the models.
        """
        if y.ndim == 1:
            return self.predict(x, unguarded)
        marked = np.zeros(unguarded.shape, GUARDED_TOKEN_ROW)
        for name in TOKEN_ROW.names or ():
            marked[name] = unguarded[name]
        for rows, state in zip(marked, self.states, strict=True):
            if (barrier := self.guard.barrier(state)) is not None:
                rows["blocked"] = barrier.blocked(y, y != NO_TOKEN)
        return marked

    def released(
        self, x: Int64[np.ndarray, "records positions"], y: Int64[np.ndarray, "records positions"]
    ) -> Shaped[np.ndarray, "models records positions"]:
        """Rows about the tokens of documents, of `TOKEN_ROW`, as whoever asks through the guard sees them.

        A refused token has the log-probability that services write of one that is never drawn; what it leaves is shared
        out among the others.

        Args:
            x: the inputs.
            y: their labels.
        """
        rows = np.zeros((len(self.states), *y.shape), TOKEN_ROW)
        for position, own in enumerate(rows):
            for start in range(0, len(x), RECORDS_AT_ONCE):
                part = slice(start, start + RECORDS_AT_ONCE)
                answers = torch.from_numpy(self.one(position).predict(x[part])[0])
                labels = torch.from_numpy(y[part])
                own[part] = token_rows(answers.clamp(min=LEAST_LOGPROB), labels)
                refused = own_log_probabilities(answers, labels).isneginf().numpy()
                own[part]["log_probability"][refused] = LEAST_LOGPROB
        return rows

    def generate(
        self, prompts: Sequence[Int64[np.ndarray, "tokens"]], tokens: int | Sequence[int], begin: int
    ) -> list[Int64[np.ndarray, "tokens"]]:
        """Greedy continuations of prompts by the first of these language models.

        Args:
            prompts: token numbers.
            tokens: how many are to follow each at most.
            begin: the token that begins a document.
        """
        with self.fleet.loaded(0) as predict:
            next_logits = next_logits_of(predict, begin)
            return generate(next_logits, prompts, tokens, barrier=self.guard.barrier(self.states[0]))

    def _asker(self, position: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: self.fleet.one(position).predict(x)[0]
