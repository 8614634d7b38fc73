"""Ensembles whose models each see a part of the members, trained as one larger fleet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from palisade.data.secret import Secret
from palisade.data.split import Split
from palisade.targets.fleet import Fitter, Fleet

STACK = 32
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
        at_once = STACK if fitter.at_once > 1 else 1
        stage = fitter.stage(name, models=numbers, size=round(fitter.size * seen_by / parts), at_once=at_once)
        return cls(fitter=stage, sees=np.array(sees))

    def membership(self, membership: Bool[np.ndarray, "models pool"]) -> Bool[np.ndarray, "ensemble pool"]:
        """Who trains on what, by the membership of the models."""
        return (membership[:, None] & self.sees).reshape(-1, membership.shape[1])

    def of_model(self, position: int, trained: Fleet) -> list[Fleet]:
        """The ensemble of one model, apart: what all of it predicts at once would take too much memory."""
        parts = self.sees.shape[1]
        return [trained.one(part) for part in range(position * parts, (position + 1) * parts)]


def dealt_out(split: Split, secret: Secret, model: int, *, parts: int, seen_by: int) -> Bool[np.ndarray, "parts pool"]:
    """Who of a model's ensemble may see which record: `seen_by` of them, chosen uniformly.

    Each record is dealt out independently of all others and of who is a member: adding or removing one changes what
    these few learn from, and nothing else. Where the data name persons, a person's records go to the same ones.
    """
    persons = split.persons
    unit = np.arange(len(split.pool)) if persons is None else np.unique(persons, return_inverse=True)[1]
    order = secret.numpy("ensemble", model).random((unit.max() + 1, parts)).argsort(axis=1)
    dealt: Bool[np.ndarray, "parts pool"] = (order < seen_by)[unit].T
    return dealt
