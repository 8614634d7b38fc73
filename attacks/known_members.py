"""Partial knowledge: whoever knows some of the members finds others, with the target model alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import blocks, room
from palisade.attacks.parts.cross_fitting import FEATURES_AT_ONCE
from palisade.attacks.parts.outputs import answer_features
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

MOST_FITTED = 50_000  # known records that the classifier is fitted on


@dataclass(frozen=True, kw_only=True)
class KnownMembers(Attack):
    """Score: log-odds of membership by a classifier fitted on half of the target's own records, known to the attacker.

    The supervised attack of Nasr et al. 2019 (section III) on answers alone. It needs no shadow models, hence knows
    nothing of the training: a former contributor can mount it against a single deployed model. The records of one
    person are never on both sides. It learns from at most 50,000 of the known ones: more change little.

    Args:
        seed: of the halves.
    """

    seed: Seed = 0

    name = "known_members"
    idea = "Knows some of those who were in, and looks for others about whom the model answers in the same way."
    threat = ThreatModel(outputs="top-k", known_members=True, whole_answers=True)

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, no target with both members and non-members."""
        both = view.membership.any(axis=1) & ~view.membership.all(axis=1)
        needed = "needs members and non-members of a target; audit records of both kinds"
        return super().missing(view) or (None if both.any() else needed)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        half_of, labels = self._halves(view), np.unique(view.labels)
        scores = room(view.membership.shape)

        def seen(model: int, records: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
            classes = np.equal.outer(view.labels[records], labels)  # answers about some classes are surer throughout
            return np.hstack([answer_features(view, model, records), classes])

        for (model, member), half in product(enumerate(view.membership), (0, 1)):
            known, attacked = np.flatnonzero(half_of != half), np.flatnonzero(half_of == half)
            known = known[:: max(1, -(-len(known) // MOST_FITTED))]
            if member[known].all() or not member[known].any():
                scores[model, attacked] = np.nan
                continue
            fitted = _fit(seen(model, known), member[known])
            for block in blocks(FEATURES_AT_ONCE, len(attacked)):
                scores[model, attacked[block]] = fitted.decision_function(seen(model, attacked[block]))
        return scores

    def _halves(self, view: View) -> Int[np.ndarray, "records"]:
        """Half that each record belongs to, the records of one person to the same."""
        _, person = np.unique(np.arange(view.records) if view.persons is None else view.persons, return_inverse=True)
        return np.random.default_rng(self.seed).permutation(person.max() + 1)[person] % 2


def _fit(seen: Float[np.ndarray, "known d"], member: Bool[np.ndarray, "known"]) -> Pipeline:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return classifier.fit(seen, member)
