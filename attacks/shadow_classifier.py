"""The shadow classifier: a classifier learns from shadow models what answers about members look like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.cross_fitting import cross_fit
from palisade.attacks.parts.outputs import answer_features
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed


@dataclass(frozen=True, kw_only=True)
class ShadowClassifier(Attack):
    """Score: log-odds of membership by a classifier per class, fitted on shadows (Shokri et al. 2017, section V).

    It finds members by the shape of the whole answer, so hiding the loss alone does not stop it. It compares records
    with each other, not with themselves, and so calls easy records members.

    Args:
        seed: of the (model, record) pairs that the classifiers are fitted on.
    """

    seed: Seed = 0

    name = "shadow_classifier"
    idea = "Trains models of its own and learns from them what answers about members look like."
    threat = ThreatModel(outputs="top-k", shadows="online", whole_answers=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        return cross_fit(
            partial(answer_features, view),
            view.membership,
            view.others,
            lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            labels=view.labels,
            parts=view.parts,
            seed=self.seed,
        )
