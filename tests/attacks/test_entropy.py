import numpy as np
from scipy.special import softmax
from scipy.stats import entropy

from palisade.attacks import Entropy, View

RNG = np.random.default_rng(0)
LABELS, MEMBERSHIP = RNG.integers(5, size=40), RNG.random((4, 40)) < 0.5
LOGITS = RNG.standard_normal((4, 40, 2, 5))


def test_score_is_the_negative_entropy_for_the_record_itself() -> None:
    view = View(logits=LOGITS, labels=LABELS, membership=MEMBERSHIP)
    expected = -entropy(softmax(LOGITS[:, :, 0], axis=-1), axis=-1)
    np.testing.assert_allclose(Entropy().score(view), expected, rtol=1e-10)


def test_the_true_class_is_needed_only_for_thresholds_of_its_own() -> None:
    assert not Entropy().threat.label
    assert Entropy(per_class=True).threat.label
    relabeled = View(logits=LOGITS, labels=(LABELS + 1) % 5, membership=MEMBERSHIP)
    view = View(logits=LOGITS, labels=LABELS, membership=MEMBERSHIP)
    np.testing.assert_array_equal(Entropy().score(view), Entropy().score(relabeled))
