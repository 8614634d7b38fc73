import numpy as np
from scipy.special import softmax

from palisade.attacks import View
from palisade.attacks.parts.outputs import TOP_PROBABILITIES, answer_features

RNG = np.random.default_rng(0)
LOGITS, MEMBER = RNG.standard_normal((3, 20, 60)), RNG.random((3, 20)) < 0.5
LABELS = RNG.integers(60, size=20)


def test_holds_the_signals_and_the_largest_probabilities() -> None:
    view = View(logits=LOGITS, labels=LABELS, membership=MEMBER)
    features = answer_features(view)
    assert features.shape == (3, 20, 3 + TOP_PROBABILITIES)
    np.testing.assert_array_equal(features[:, :, 0], view.log_odds[:, :, 0])
    np.testing.assert_array_equal(features[:, :, 1], view.correct[:, :, 0])
    np.testing.assert_array_equal(features[:, :, 2], view.modified_entropy[:, :, 0])
    np.testing.assert_allclose(
        features[:, :, 3:], np.log(np.sort(softmax(LOGITS, axis=-1), axis=-1)[:, :, -TOP_PROBABILITIES:])
    )


def test_numbering_of_the_classes_plays_no_part() -> None:
    order = RNG.permutation(60)
    renumbered = View(logits=LOGITS[:, :, order], labels=np.argsort(order)[LABELS], membership=MEMBER)
    expected = answer_features(View(logits=LOGITS, labels=LABELS, membership=MEMBER))
    np.testing.assert_allclose(answer_features(renumbered), expected)


def test_few_classes_and_hidden_probabilities_stay_finite() -> None:
    p = np.round(softmax(20 * LOGITS[:, :, :3], axis=-1), 2)
    for top_k in (None, 1):
        shown = p if top_k is None else np.where(p == p.max(axis=-1, keepdims=True), p, 0)
        view = View(probabilities=shown, labels=LABELS % 3, membership=MEMBER, top_k=top_k)
        assert np.isfinite(answer_features(view)).all()
        assert answer_features(view).shape == (3, 20, 6)
