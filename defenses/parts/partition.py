"""Partitions of a training set, and Split-AI, which trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Real
from scipy.special import softmax

from palisade.data.secret import Secret
from palisade.data.split import Split
from palisade.targets.fleet import Fitter, Fleet

MODELS_PER_STACK = 32
"""Models of ensembles trained at once, if any are stacked: they are many, so that the overhead of a step counts."""


@dataclass(frozen=True, kw_only=True)
class Ensembles:
    """For every model of a fleet several others, each of which may see some records of the pool and not the rest.

    Args:
        fitter: of all these others, those of the first model first; its N is the expected number of their records.
        sees: which of them may see which record.
    """

    fitter: Fitter
    sees: Bool[np.ndarray, "models parts pool"]

    @classmethod
    def of(cls, fitter: Fitter, name: str, split: Split, *, parts: int, seen_by: int) -> Ensembles:
        """Deals out the records.

        Args:
            fitter: of the models.
            name: of the stage.
            split: the roles of the records.
            parts: the ensemble's size.
            seen_by: how many of an ensemble may see a record.
        """
        numbers = [model * parts + part for model in fitter.models for part in range(parts)]
        sees = [dealt_out(split, fitter.secret, model, parts=parts, seen_by=seen_by) for model in fitter.models]
        at_once = MODELS_PER_STACK if fitter.at_once > 1 else 1
        stage = fitter.stage(name, models=numbers, size=round(fitter.size * seen_by / parts), at_once=at_once)
        return cls(fitter=stage, sees=np.array(sees))

    def membership(self, membership: Bool[np.ndarray, "models pool"]) -> Bool[np.ndarray, "ensemble pool"]:
        """Membership of the ensembles' models, from the membership of the models."""
        return (membership[:, None] & self.sees).reshape(-1, membership.shape[1])

    def of_model(self, position: int, trained: Fleet) -> list[Fleet]:
        """The ensemble of one model, apart: what all of it predicts at once would take too much memory."""
        parts = self.sees.shape[1]
        return [trained.one(part) for part in range(position * parts, (position + 1) * parts)]


def dealt_out(split: Split, secret: Secret, model: int, *, parts: int, seen_by: int) -> Bool[np.ndarray, "parts pool"]:
    """Visibility of records to the models of an ensemble: `seen_by` of them, chosen uniformly.

    Each record is dealt out independently of all others and of who is a member: adding or removing one changes what
    these few learn from, and nothing else. Where the data name persons, a person's records go to the same ones.
    """
    persons = split.persons
    unit = np.arange(len(split.pool)) if persons is None else np.unique(persons, return_inverse=True)[1]
    order = secret.numpy("ensemble", model).random((unit.max() + 1, parts)).argsort(axis=1)
    dealt: Bool[np.ndarray, "parts pool"] = (order < seen_by)[unit].T
    return dealt


def soft_labels(
    sub_models: Sequence[Fleet],
    sees: Bool[np.ndarray, "parts records"],
    x: Real[np.ndarray, "all ..."],
    records: Int64[np.ndarray, " records"],
) -> Float32[np.ndarray, "records classes"]:
    """The mean probabilities, for each record, by the sub-models that did not see it (Split-AI: Tang et al. 2022).

    A non-member is answered by models that never saw it; so is a member here. One sub-model that did see it among
    those that are averaged would give it away.

    Args:
        sub_models: of one model, each a fleet of one.
        sees: which of them may have been trained on which record; every record is left out somewhere.
        x: inputs of the whole data set.
        records: whose labels are asked for.
    """
    total: Float32[np.ndarray, "records classes"] | None = None
    for sub_model, seen in zip(sub_models, sees, strict=True):
        if seen.all():
            continue
        probabilities = softmax(sub_model.predict(x[records[~seen]])[0], axis=-1)
        if total is None:
            total = np.zeros((len(records), probabilities.shape[-1]), dtype=np.float32)
        total[~seen] += probabilities
    assert total is not None
    return total / (~sees).sum(axis=0, dtype=np.float32)[:, None]
