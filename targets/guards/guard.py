"""Guards between a model and whoever queries it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Real, Shaped

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.fields import CheckedFields
from palisade.targets.guards.ngram_filter import NgramFilter
from palisade.targets.statement import Statement

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter, Fleet

Level = Literal["label", "probabilities", "logits"]


class Query(NamedTuple):
    """Some inputs, what the model says about them, and what a guard may use to answer.

    Args:
        x: the inputs.
        logits: of the model.
        state: what the guard learned about this model.
        ask: gives the model's logits for other inputs.
    """

    x: Real[np.ndarray, "records ..."]
    logits: Float32[np.ndarray, "records classes"]
    state: Mapping[str, Tensor]
    ask: Callable[[Real[np.ndarray, "n ..."]], Float32[np.ndarray, "n classes"]]


@dataclass(frozen=True, kw_only=True)
class Guard(CheckedFields, ABC):
    """Changes a model's answers, not the model: it goes on any trained run.

    It adds nothing to ε, unless it was fitted on members.

    An answer is a fixed function of the query: an attacker who repeats one could average fresh randomness away. What
    a guard draws at random must come from the query, on a grid that last bits do not matter to, and from what `fit`
    drew from the secret.

    Shadows stand behind the same guard as the target, each with one fitted to itself.
    """

    name: ClassVar[str]
    """Its key in `conf/guard`."""
    level: ClassVar[Level] = "probabilities"
    """Level of its answers: logits, probabilities (unless they are held back, of all classes), or a class alone."""
    keeps_label: ClassVar[bool] = True
    """The predicted class is always that of the model."""
    uses_members: ClassVar[bool] = False
    """`fit` looks at the records that the model was trained on: its answers then reveal more than the model."""
    attacks: ClassVar[tuple[str, ...]] = ("correctness", "calibrated_correctness", "noise_agreement", "votes")
    """Attacks (of `conf/attack`) that know how to get around it, those on labels alone: every evaluation runs them."""
    note: ClassVar[str | None] = None
    """Note on a card besides what holds of every guard."""
    not_on_documents: ClassVar[str | None] = (
        "it changes what is said of the classes of a record, and of documents the tokens that follow are asked for"
    )
    """Reason why it cannot stand before language models; None if it can."""
    on_documents_alone: ClassVar[bool] = False
    """It means nothing before classifiers."""

    @property
    def roles(self) -> frozenset[str]:
        """The split's roles that it is fitted on."""
        return frozenset()

    @property
    def strength(self) -> float | None:
        """The value that a sweep varies, for axes and tables; None if there is nothing to vary."""
        return None

    @property
    def top_k(self) -> int | None:
        """Number of probabilities that are let out, the largest; None: all."""
        return None

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """State of the guard for a model, as tensors; nothing by default.

        Args:
            model: a fleet of this one.
            members: the records that it was trained on.
            fitter: of this model, with data, secret and the model's number.
            split: the roles of the records.
        """
        return {}

    def statement_after(self, claim: Statement, dataset: Dataset) -> Statement:
        """Claim of the answers, given the claim of the model: as much, unless the guard has seen members.

        Args:
            claim: of the model.
            dataset: that it was trained on.
        """
        claim = claim.leaving_out(self.not_covered(dataset))
        if not (self.uses_members and claim.guarantee):
            return claim
        unseen = f"guard={self.name} was fitted on members without noise, so the model's own guarantee does not hold"
        return Statement(guarantee=False, not_covered=claim.not_covered, warnings=(unseen,))

    def not_covered(self, dataset: Dataset) -> str | None:
        """Sentence for the statement on private facts in the guard's state; None where there are none."""
        return None

    def barrier(self, state: Mapping[str, Tensor]) -> NgramFilter | None:
        """Sequences of tokens that a language model behind it may not complete, by its state; None: it may any."""
        return None

    def note_on(self, state: Mapping[str, Tensor]) -> str | None:
        """Note on the card of a release, by its state."""
        return self.note

    @abstractmethod
    def answer(self, query: Query) -> Shaped[np.ndarray, "records *classes"]:
        """Float32 logits or probabilities of every class, or int64 classes, by `level`."""


@dataclass(frozen=True, kw_only=True)
class NoGuard(Guard):
    """Logits for whoever queries the model."""

    name = "none"
    level = "logits"
    attacks = ()
    not_on_documents = None

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """The model's logits, unchanged."""
        return query.logits
