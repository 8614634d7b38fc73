"""On fleets that learnt nothing about their members, attacks find nothing and prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.attacks import BASE, Attack, Correctness, LiRA, LossThreshold, View
from palisade.evaluation.epsilon_audit import audit_records
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.roc import Roc

NULL_FLEETS, FLEET_MODELS, FLEET_RECORDS, FPR = 200, 6, 300, 0.05
ROC_METRICS = {"auc": Roc.auc, "tpr": lambda roc: roc.tpr_at(FPR)}
GUESSING_VALUES = {"auc": 0.5, "tpr": FPR}


def fleet(seed: int) -> View:
    """Records differ in hardness and models in skill; who was trained on what makes no difference."""
    rng = np.random.default_rng(seed)
    logits = (
        rng.normal(size=(FLEET_MODELS, FLEET_RECORDS, 3))
        + 2 * rng.normal(size=(FLEET_RECORDS, 3))
        + rng.normal(size=(FLEET_MODELS, 1, 3))
    )
    membership = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
    return View(logits=logits, labels=rng.integers(3, size=FLEET_RECORDS), membership=membership)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [Correctness(), LossThreshold(), LiRA(), BASE()], ids=lambda attack: attack.name)
def test_bounds_are_0_and_intervals_hold_guessing(attack: Attack) -> None:
    proven = dict.fromkeys(("one_run", "one_run_fdp", "gdp", "clopper_pearson"), 0)
    held = dict.fromkeys(ROC_METRICS, 0)
    for seed in range(NULL_FLEETS):
        view = fleet(seed)
        scores = attack.score(view)
        scored = ~np.isnan(scores[0])
        # One seed for all: the coins alone decide how many of many equal scores are guessed right.
        audit = audit_records(scores[0, scored], view.membership[0, scored], delta=1e-5, seed=31)
        for bound in proven:
            proven[bound] += audit.bounds[bound] > 0
        estimates = fleet_metrics(scores, view.membership, ROC_METRICS, Bootstrap(replicates=40, seed=seed)).estimates
        for metric, guessing in GUESSING_VALUES.items():
            # Ties keep the gap attack from accusing so few.
            low = 0.0 if metric == "tpr" and attack.name == "correctness" else estimates[metric].low
            held[metric] += low <= guessing <= max(estimates[metric].high, guessing * (low == 0.0))
    assert max(proven.values()) <= 0.05 * NULL_FLEETS + 3 * np.sqrt(0.05 * 0.95 * NULL_FLEETS), proven
    assert min(held.values()) >= 0.9 * NULL_FLEETS, held
