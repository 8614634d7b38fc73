from collections.abc import Callable

import numpy as np
from scipy.special import softmax

from palisade.attacks import Confidence, LossThreshold, View

RNG = np.random.default_rng(0)
LABELS, MEMBERSHIP = RNG.integers(5, size=40), RNG.random((4, 40)) < 0.5
LOGITS = RNG.standard_normal((4, 40, 2, 5))


def test_score_is_the_probability_of_the_true_class_for_the_record_itself() -> None:
    expected = softmax(LOGITS[:, :, 0], axis=-1)[:, np.arange(40), LABELS]
    logits = View(logits=LOGITS, labels=LABELS, membership=MEMBERSHIP)
    np.testing.assert_allclose(Confidence().score(logits), expected, rtol=1e-12)
    released = View(probabilities=softmax(LOGITS, axis=-1), labels=LABELS, membership=MEMBERSHIP)
    np.testing.assert_allclose(Confidence().score(released), expected, rtol=1e-12)


def test_it_ranks_and_decides_as_the_loss_does(view_of: Callable[..., View]) -> None:
    view = View(logits=LOGITS, labels=LABELS, membership=MEMBERSHIP)
    np.testing.assert_array_equal(Confidence().score(view).argsort(axis=1), LossThreshold().score(view).argsort(axis=1))
    decisions = [attack(per_class=True).score(view) >= 0 for attack in (Confidence, LossThreshold)]
    np.testing.assert_array_equal(*decisions)
    sure = view_of(np.array([[40.0, 60.0]]), np.array([[True, False]]))
    assert (Confidence().score(sure) == 1).all(), "ties where the loss has none"
