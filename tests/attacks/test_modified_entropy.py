import numpy as np
from scipy.special import softmax

from palisade.attacks import ModifiedEntropy, View

FIXED_RNG = np.random.default_rng(0)
RECORD_LABELS, FLEET_MEMBERSHIP = FIXED_RNG.integers(5, size=40), FIXED_RNG.random((4, 40)) < 0.5
FLEET_LOGITS = FIXED_RNG.standard_normal((4, 40, 2, 5))


def test_score_is_the_negative_modified_entropy_for_the_record_itself() -> None:
    p = softmax(FLEET_LOGITS[:, :, 0], axis=-1)
    expected = np.empty((4, 40))
    for model, record in np.ndindex(4, 40):
        terms = [
            -(1 - q) * np.log(q) if i == RECORD_LABELS[record] else -q * np.log(1 - q)
            for i, q in enumerate(p[model, record])
        ]
        expected[model, record] = -sum(terms)
    view = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    np.testing.assert_allclose(ModifiedEntropy(per_class=False).score(view), expected, rtol=1e-10)


def test_thresholds_are_per_class_as_published() -> None:
    assert ModifiedEntropy() == ModifiedEntropy(per_class=True)
    assert ModifiedEntropy().threat.shadows == "online"


def test_a_surely_misclassified_record_is_no_member() -> None:
    logits = np.array([[[9.0, 0.0], [0.0, 9.0], [1.0, 0.0]]])
    view = View(logits=logits, labels=np.zeros(3, int), membership=np.array([[True, False, False]]))
    assert ModifiedEntropy(per_class=False).score(view)[0].argsort().tolist() == [1, 2, 0]
