import numpy as np
from scipy.special import softmax
from scipy.stats import entropy

from palisade.attacks import Entropy, View

FIXED_RNG = np.random.default_rng(0)
RECORD_LABELS, FLEET_MEMBERSHIP = FIXED_RNG.integers(5, size=40), FIXED_RNG.random((4, 40)) < 0.5
FLEET_LOGITS = FIXED_RNG.standard_normal((4, 40, 2, 5))


def test_score_is_the_negative_entropy_for_the_record_itself() -> None:
    view = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    expected = -entropy(softmax(FLEET_LOGITS[:, :, 0], axis=-1), axis=-1)
    np.testing.assert_allclose(Entropy().score(view), expected, rtol=1e-10)


def test_the_true_class_is_needed_only_for_thresholds_of_its_own() -> None:
    assert not Entropy().threat.label
    assert Entropy(per_class=True).threat.label
    relabeled = View(logits=FLEET_LOGITS, labels=(RECORD_LABELS + 1) % 5, membership=FLEET_MEMBERSHIP)
    view = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    np.testing.assert_array_equal(Entropy().score(view), Entropy().score(relabeled))
