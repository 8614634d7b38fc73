import numpy as np
from scipy.special import softmax

from palisade.attacks import View
from palisade.attacks.parts.outputs import TOP_PROBABILITIES, answer_features

FIXED_RNG = np.random.default_rng(0)
FLEET_LOGITS, FLEET_MEMBERSHIP = FIXED_RNG.standard_normal((3, 20, 60)), FIXED_RNG.random((3, 20)) < 0.5
RECORD_LABELS = FIXED_RNG.integers(60, size=20)


def features_of(view: View) -> np.ndarray:
    return np.stack([answer_features(view, model) for model in range(view.models)])


def test_holds_the_signals_and_the_largest_probabilities() -> None:
    view = View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP)
    features = features_of(view)
    assert features.shape == (3, 20, 3 + TOP_PROBABILITIES)
    np.testing.assert_array_equal(features[:, :, 0], view.log_odds[:, :, 0])
    np.testing.assert_array_equal(features[:, :, 1], view.correct[:, :, 0])
    np.testing.assert_array_equal(features[:, :, 2], view.modified_entropy[:, :, 0])
    np.testing.assert_allclose(
        features[:, :, 3:], np.log(np.sort(softmax(FLEET_LOGITS, axis=-1), axis=-1)[:, :, -TOP_PROBABILITIES:])
    )


def test_numbering_of_the_classes_plays_no_part() -> None:
    order = FIXED_RNG.permutation(60)
    renumbered = View(
        logits=FLEET_LOGITS[:, :, order], labels=np.argsort(order)[RECORD_LABELS], membership=FLEET_MEMBERSHIP
    )
    expected = features_of(View(logits=FLEET_LOGITS, labels=RECORD_LABELS, membership=FLEET_MEMBERSHIP))
    np.testing.assert_allclose(features_of(renumbered), expected)


def test_few_classes_and_hidden_probabilities_stay_finite() -> None:
    p = np.round(softmax(20 * FLEET_LOGITS[:, :, :3], axis=-1), 2)
    for top_k in (None, 1):
        shown = p if top_k is None else np.where(p == p.max(axis=-1, keepdims=True), p, 0)
        view = View(probabilities=shown, labels=RECORD_LABELS % 3, membership=FLEET_MEMBERSHIP, top_k=top_k)
        assert np.isfinite(features_of(view)).all()
        assert features_of(view).shape == (3, 20, 6)
