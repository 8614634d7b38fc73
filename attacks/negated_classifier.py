"""The negated classifier: a guard that always fools a membership classifier thereby reveals members."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logit, softmax
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import blocks, room
from palisade.attacks.parts.cross_fitting import MOST_PAIRS, folds, of_pairs
from palisade.attacks.parts.signals import bounded
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

MIN_PROBABILITY = 1e-12  # keeps the log-odds of a sure classifier finite


@dataclass(frozen=True, kw_only=True)
class NegatedClassifier(Attack):
    """Score: log-odds by a classifier of membership that learnt from unguarded shadows, negated where that pays.

    MemGuard adds noise until a classifier of its own changes its mind (Jia et al. 2019, section 4.2). So the attacker
    trains one as the guard does, a small network on sorted probabilities, on shadows as they are; asks it about guarded
    answers; and sees on the guarded shadows whether it is mistaken more often than not. Then the opposite of what it
    says is the better guess.

    The models of a fold are scored by a classifier, and with a sign, that come from the models of the other folds.

    Args:
        seed: of the (model, record) pairs that the classifiers are fitted on, and of their initial weights.
    """

    seed: Seed = 0

    name = "negated_classifier"
    idea = "Learns how a guard changes answers about members, and reads its disguise the other way round."
    threat = ThreatModel(outputs="top-k", label=False, shadows="online", unguarded_shadows=True, whole_answers=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        scores = room(view.membership.shape)
        scores[:] = np.nan
        for fold, (asked, known) in product(folds(view.others), view.parts):
            shadows = np.setdiff1d(np.arange(view.models), fold)
            member = view.membership[np.ix_(shadows, known)]
            if member.all() or not member.any():
                continue
            fitted = self._fitted(view, shadows, known)
            skills = [_skill(_log_odds(fitted, view, model, known), view.membership[model, known]) for model in shadows]
            for model in fold:
                scores[model, asked] = _log_odds(fitted, view, model, asked) * (-1 if np.mean(skills) < 0.5 else 1)
        return scores

    def _fitted(
        self, view: View, shadows: Int[np.ndarray, "shadows"], known: Int[np.ndarray, "known"]
    ) -> MLPClassifier:
        assert view.unguarded_logits is not None
        chosen = np.random.default_rng(self.seed).permutation(len(shadows) * len(known))[:MOST_PAIRS]
        of_shadow, of_known = np.unravel_index(np.sort(chosen), (len(shadows), len(known)))
        model, record = shadows[of_shadow], known[of_known]
        unguarded = view.unguarded_logits
        answers = of_pairs(lambda k, records: np.asarray(unguarded[k])[records], model, record)
        answers = np.sort(softmax(bounded(answers), axis=-1), axis=-1)
        classifier = MLPClassifier((64, 32), tol=1e-3, n_iter_no_change=5, random_state=self.seed)
        return classifier.fit(answers, view.membership[model, record])


def _log_odds(
    classifier: MLPClassifier, view: View, model: int, records: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Log-odds of membership by a classifier of the guarded answers of a model about some records."""
    member = np.empty(len(records))
    for block in blocks(view.classes, len(records)):
        answers = np.sort(view.probabilities_of(model, 0, records[block]), axis=-1)
        member[block] = classifier.predict_proba(answers)[:, 1]
    return logit(np.clip(member, MIN_PROBABILITY, 1 - MIN_PROBABILITY))


def _skill(scores: Float[np.ndarray, "records"], member: Bool[np.ndarray, "records"]) -> float:
    """The AUC on a model, ½ where it was trained on all records or on none."""
    return float(roc_auc_score(member, scores)) if member.any() and not member.all() else 0.5
