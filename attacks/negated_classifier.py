"""The negated classifier: a guard that always fools a membership classifier tells by that who is a member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.answer_features import answer_features
from attacks.base import Attack
from attacks.cross_fitting import MOST_PAIRS, Classifier, folds
from attacks.outputs import Outputs
from attacks.threat import ThreatModel
from attacks.view import View


@dataclass(frozen=True, kw_only=True)
class NegatedClassifier(Attack):
    """Score: log-odds by a classifier of membership that learnt from unguarded shadows, negated where that pays.

    MemGuard adds noise until a classifier of its own changes its mind (Jia et al. 2019, section 4.2). So the attacker
    trains one as the guard does, on shadows as they are, asks it about guarded answers, and sees on the guarded
    shadows whether it is mistaken more often than not: then the opposite of what it says is the better guess.

    The models of a fold are scored by a classifier, and with a sign, that come from the models of the other folds.

    Args:
        seed: of the (model, record) pairs that the classifiers are fitted on.
    """

    seed: int = 0

    name = "negated_classifier"
    threat = ThreatModel(outputs="top-k", shadows="online", unguarded_shadows=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        unguarded = answer_features(Outputs(labels=view.labels, logits=view.unguarded_logits))
        guarded = answer_features(view)
        scores = np.full(view.membership.shape, np.nan)
        for fold in folds(view.others):
            shadows = np.setdiff1d(np.arange(view.models), fold)
            members = view.membership[shadows]
            if members.all() or not members.any():
                continue
            fitted = self._fitted(unguarded[shadows], members)
            skill = np.mean([
                roc_auc_score(member, fitted.decision_function(answers))
                for member, answers in zip(members, guarded[shadows], strict=True)
                if member.any() and not member.all()
            ])  # fmt: skip
            for model in fold:
                scores[model] = fitted.decision_function(guarded[model]) * (-1 if skill < 0.5 else 1)
        return scores

    def _fitted(
        self, features: Float[np.ndarray, "shadows records d"], members: Bool[np.ndarray, "shadows records"]
    ) -> Classifier:
        pairs = np.random.default_rng(self.seed).permutation(members.size)[:MOST_PAIRS]
        models, records = np.unravel_index(pairs, members.shape)
        classifier: Classifier = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        classifier.fit(features[models, records], members[models, records])
        return classifier
