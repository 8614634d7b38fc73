from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from palisade.attacks import GradientNorm, LossThreshold, View, WhiteBox


def view(seed: int, effect: float, models: int = 8, records: int = 300, **changes: Any) -> View:
    """A fleet in which membership shrinks the gradient of the first of two layers, by as much as e^−effect."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    hardness = rng.standard_normal(records)
    noise = 0.3 * rng.standard_normal((models, records, 4))
    first = np.exp(hardness - effect * member + noise[:, :, 0])
    second = np.exp(hardness + noise[:, :, 1])
    arrays: dict[str, Any] = {
        "logits": np.stack([-hardness + noise[:, :, 2], np.zeros((models, records))], axis=-1),
        "labels": np.zeros(records, dtype=int),
        "membership": member,
        "gradient_norms": np.stack([first, second], axis=-1).astype(np.float32),
        "activation_norms": np.exp(noise[:, :, 3:]).astype(np.float32),
    }
    return View(**arrays | changes)


def auc(scores: np.ndarray, shown: View) -> float:
    return float(np.mean([roc_auc_score(*row) for row in zip(shown.membership, scores, strict=True)]))


def test_it_finds_the_layer_that_tells() -> None:
    shown = view(0, effect=1.0)
    loss, norm, layers = (auc(attack.score(shown), shown) for attack in (LossThreshold(), GradientNorm(), WhiteBox()))
    assert loss < 0.55 < norm < 0.8 and layers > 0.9


def test_without_an_effect_it_finds_nothing() -> None:
    aucs = [auc(WhiteBox().score(shown), shown) for shown in (view(seed, effect=0.0) for seed in range(4))]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)


def test_a_targets_membership_never_enters_its_scores() -> None:
    shown = view(0, effect=1.0)
    flipped = shown.membership.copy()
    flipped[3] = ~flipped[3]
    other = view(0, effect=1.0, membership=flipped)
    np.testing.assert_array_equal(WhiteBox().score(shown)[3], WhiteBox().score(other)[3])


def test_twins_are_left_out_together() -> None:
    member = np.random.default_rng(0).random((4, 300)) < 0.5
    twins = {"membership": np.stack([member, ~member], axis=1).reshape(8, 300), "groups": np.arange(8) // 2}
    changed = twins["membership"].copy()
    changed[2:4] = ~changed[2:4]
    first, second = view(0, 0.0, **twins), view(0, 0.0, **twins | {"membership": changed})
    np.testing.assert_array_equal(WhiteBox().score(first)[2:4], WhiteBox().score(second)[2:4])


def test_scores_are_the_same_each_time_and_finite_where_layers_are_saturated() -> None:
    norms = np.zeros((8, 300, 2), dtype=np.float32)
    shown = view(0, 1.0, gradient_norms=norms, activation_norms=norms)
    with np.errstate(all="raise"):
        scores = WhiteBox().score(shown)
    assert np.isfinite(scores).all() and scores.dtype == np.float64
    np.testing.assert_array_equal(scores, WhiteBox().score(shown))


def test_what_it_needs() -> None:
    assert WhiteBox().missing(view(0, 1.0)) is None
    assert WhiteBox().missing(view(0, 1.0, gradient_norms=None)) == "needs the weights; threat=white_box grants them"
    without = view(0, 1.0, activation_norms=None)
    assert WhiteBox().missing(without) == "needs the norms of activations; threat=white_box grants them"
    assert "too few" in str(WhiteBox().missing(view(0, 1.0, models=1)))
    assert (WhiteBox().name, WhiteBox().threat.access) == ("white_box", "white_box")
