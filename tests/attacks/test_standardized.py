"""One model on another scale than its fleet does not blind the attacks that compare models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palisade.attacks import Attack, Calibration, LiRA, Reference, View
from palisade.attacks.parts.signals import centers_and_spreads, standardized
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT = 16, 400, 3


def leaking_fleet(seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    membership = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
    logits = rng.standard_normal((FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT)).astype(np.float32)
    labels = rng.integers(CLASS_COUNT, size=FLEET_RECORDS)
    logits[:, np.arange(FLEET_RECORDS), labels] += 2 * rng.random(FLEET_RECORDS) + 3 * membership
    return View(logits=logits, labels=labels, membership=membership)


def mean_auc(attack: Attack, view: View) -> float:
    return float(np.mean([roc_auc(*pair) for pair in zip(attack.score(view), view.membership, strict=True)]))


@pytest.mark.parametrize("attack", [LiRA(), LiRA(online=False), Reference(), Calibration()], ids=lambda a: a.name)
@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_a_diverged_model_costs_the_attack_nothing(attack: Attack, factor: float) -> None:
    seen = leaking_fleet()
    assert seen.logits is not None
    logits = seen.logits.copy()
    logits[5] *= factor
    assert mean_auc(attack, replace(seen, logits=logits)) > mean_auc(attack, seen) - 0.02


@given(seed=st.integers(0, 2**16), models=st.integers(2, 6))
def test_all_models_have_the_median_models_center_and_spread(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-3, 3, size=(models, 1, 1))
    phi = scales * (rng.standard_normal((models, 150, 2)) + rng.standard_normal((models, 1, 1)))
    brought = standardized(phi)
    measured, before = centers_and_spreads(brought), centers_and_spreads(phi)
    assert measured is not None and before is not None
    for after, own in zip(measured, before, strict=True):
        expected = np.broadcast_to(np.median(own, axis=0), own.shape)
        np.testing.assert_allclose(after, expected, rtol=1e-9, atol=1e-9 * scales.max())
    assert (np.argsort(brought, axis=1) == np.argsort(phi, axis=1)).all()


def test_few_records_or_equal_answers_leave_phi_as_it_is() -> None:
    phi = np.random.default_rng(0).standard_normal((4, 99, 1))
    assert centers_and_spreads(phi) is None and standardized(phi) is phi
    phi = np.random.default_rng(0).standard_normal((4, 200, 1))
    phi[2] = 1.0
    assert centers_and_spreads(phi) is None and standardized(phi) is phi


def test_heaps_of_members_and_others_do_not_move_the_center() -> None:
    rng = np.random.default_rng(0)
    membership = rng.random((12, 400)) < 0.5
    phi = (20.0 * membership + rng.standard_normal((12, 400)))[:, :, None]
    shift = (standardized(phi) - phi).mean(axis=1)
    assert np.abs(shift).max() < 2, "a median would move some models by the distance between the heaps"
