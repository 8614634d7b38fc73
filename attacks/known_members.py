"""Partial knowledge: whoever knows some of the members finds others, with the target model alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.outputs import answer_features
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed


@dataclass(frozen=True, kw_only=True)
class KnownMembers(Attack):
    """Score: log-odds of membership by a classifier fitted on half of the target's own records, known to the attacker.

    The supervised attack of Nasr et al. 2019 (section III) on answers alone. It needs no shadow models, hence knows
    nothing of the training: a former contributor can mount it against a single deployed model. The records of one
    person are never on both sides.

    Args:
        seed: of the halves.
    """

    seed: Seed = 0

    name = "known_members"
    idea = "Knows some of those who were in, and looks for others about whom the model answers in the same way."
    threat = ThreatModel(outputs="top-k", known_members=True)

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, no target with both members and non-members."""
        both = view.membership.any(axis=1) & ~view.membership.all(axis=1)
        needed = "needs members and non-members of a target; audit records of both kinds"
        return super().missing(view) or (None if both.any() else needed)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        features, half_of = answer_features(view), self._halves(view)
        classes = np.equal.outer(view.labels, np.unique(view.labels))  # answers about some classes are surer throughout
        scores = np.full(view.membership.shape, np.nan)
        for model, member in enumerate(view.membership):
            seen = np.hstack([features[model], classes])
            for half in (0, 1):
                known, attacked = half_of != half, half_of == half
                if member[known].any() and not member[known].all():
                    scores[model, attacked] = _fit(seen[known], member[known]).decision_function(seen[attacked])
        return scores

    def _halves(self, view: View) -> Int[np.ndarray, "records"]:
        """Half that each record belongs to, the records of one person to the same."""
        _, person = np.unique(np.arange(view.records) if view.persons is None else view.persons, return_inverse=True)
        return np.random.default_rng(self.seed).permutation(person.max() + 1)[person] % 2


def _fit(seen: Float[np.ndarray, "known d"], member: Bool[np.ndarray, "known"]) -> Pipeline:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return classifier.fit(seen, member)
