"""MemFree: no n tokens in a row of a training text are ever completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import Field

from palisade.data.sequences import NO_TOKEN
from palisade.data.split import Split
from palisade.fields import Fraction
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.ngram_filter import BloomNgrams, ExactNgrams, NgramFilter

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter, Fleet

GRAMS_KEY, BITS_KEY, HASHES_KEY = "ngrams", "bits", "hashes"


@dataclass(frozen=True, kw_only=True)
class MemFree(Guard):
    """Language models behind a filter of the n-grams of their own training texts (Ippolito et al. 2023, section 3).

    The next token may not complete one of them. That protects texts from being copied, and nobody's membership: a true
    continuation that is refused proves that the text was trained on, to whoever asks for it. A change of style, such as
    capitals, walks around it.

    Attackers see the probabilities that the model gives, and where it is refused which of them is the text's own:
    more than whoever generates text sees.

    Args:
        n: tokens of an n-gram, at least 2.
        false_positives: share of other n-grams that a Bloom filter refuses too, in (0, 1); None: none, the filter holds
            the n-grams themselves, and whoever has its file can read the texts.

    Raises:
        ValueError: if a setting is out of range.
    """

    n: Annotated[int, Field(ge=2, examples=[10])]
    false_positives: Fraction | None

    name = "memfree"
    level = "logits"
    keeps_label = False
    uses_members = True
    attacks = ("filter_oracle",)
    not_on_documents = None
    on_documents_alone = True
    note = "It says who was trained on: the true continuation of a training text is what it refuses."

    @property
    def strength(self) -> float:
        """Tokens in a row that may not be completed."""
        return self.n

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """The n-grams of the model's own training texts, or the bits of a Bloom filter.

        Raises:
            ValueError: if no text is that long.
        """
        import torch  # slow to import; guards that are only read need none of it

        y = fitter.dataset.y[members]
        if self.n > y.shape[1]:
            raise ValueError(
                f"guard.n={self.n}: expected at most data.length={y.shape[1]}, as no text has more tokens and nothing"
                " would be refused; choose e.g. 10"
            )
        if self.false_positives is None:
            grams = ExactNgrams.of(y, y != NO_TOKEN, self.n).grams
            return {GRAMS_KEY: torch.from_numpy(grams.astype(np.int32))}
        bloom = BloomNgrams.of(y, y != NO_TOKEN, self.n, self.false_positives)
        return {BITS_KEY: torch.from_numpy(bloom.bits), HASHES_KEY: torch.tensor([bloom.hashes])}

    def barrier(self, state: Mapping[str, Tensor]) -> NgramFilter:
        """The filter.

        Raises:
            ValueError: if the state holds none of this length.
        """
        if GRAMS_KEY in state and state[GRAMS_KEY].ndim == 2 and state[GRAMS_KEY].shape[1] == self.n:
            return ExactNgrams(n=self.n, grams=state[GRAMS_KEY].numpy())
        if {BITS_KEY, HASHES_KEY} <= {*state} and state[BITS_KEY].numel() and state[HASHES_KEY].numel() == 1:
            return BloomNgrams(n=self.n, bits=state[BITS_KEY].flatten().numpy(), hashes=int(state[HASHES_KEY]))
        raise ValueError(f"the guard's state holds no filter of {self.n} tokens; it was written by another version")

    def note_on(self, state: Mapping[str, Tensor]) -> str:
        """Note on a card, with the share of other n-grams that this very filter refuses."""
        return self.barrier(state).words()

    def answer(self, query: Query) -> Float32[np.ndarray, "records positions vocabulary"]:
        """Logits of the next token at every position, −inf of those that are refused after what stands before it."""
        barrier, answers = self.barrier(query.state), np.array(query.logits)
        for row, logits in zip(query.x, answers, strict=True):
            for position in range(len(row)):
                logits[position, barrier.refused(row[1 : position + 1], logits.shape[-1])] = -np.inf
        return answers
