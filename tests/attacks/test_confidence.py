from collections.abc import Callable

import numpy as np
from scipy.special import softmax

from palisade.attacks import Confidence, LossThreshold, View

FIXED_RNG = np.random.default_rng(0)
RECORD_LABELS, FLEET_MEMBERSHIP = FIXED_RNG.integers(5, size=40), FIXED_RNG.random((4, 40)) < 0.5
FLEET_LOGITS = FIXED_RNG.standard_normal((4, 40, 2, 5))


def test_score_is_the_probability_of_the_true_class_for_the_record_itself() -> None:
    expected = softmax(FLEET_LOGITS[:, :, 0], axis=-1)[:, np.arange(40), RECORD_LABELS]
    logits = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    np.testing.assert_allclose(Confidence().score(logits), expected, rtol=1e-12)
    released = View(probabilities=softmax(FLEET_LOGITS, axis=-1), labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    np.testing.assert_allclose(Confidence().score(released), expected, rtol=1e-12)


def test_it_ranks_and_decides_as_the_loss_does(view_of: Callable[..., View]) -> None:
    view = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    np.testing.assert_array_equal(Confidence().score(view).argsort(axis=1), LossThreshold().score(view).argsort(axis=1))
    decisions = [attack(per_class=True).score(view) >= 0 for attack in (Confidence, LossThreshold)]
    np.testing.assert_array_equal(*decisions)
    sure = view_of(np.array([[40.0, 60.0]]), np.array([[True, False]]))
    assert (Confidence().score(sure) == 1).all(), "ties where the loss has none"
