"""Granted answers: levels from little to much, each as it would be released."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from palisade.evaluation.signals.grant import Grant

QUERIED_LOGITS = np.random.default_rng(0).normal(0, 3, (2, 40, 5)).astype(np.float32)


def test_levels_by_name():
    (logits,) = Grant().released(QUERIED_LOGITS).items()
    assert logits[0] == "logits" and logits[1] is QUERIED_LOGITS
    (labels,) = Grant(outputs="label").released(QUERIED_LOGITS).items()
    assert labels[0] == "predictions" and (labels[1] == QUERIED_LOGITS.argmax(-1)).all()
    (soft,) = Grant(outputs="probabilities").released(QUERIED_LOGITS).items()
    assert soft[0] == "probabilities" and soft[1].dtype == np.float32
    np.testing.assert_allclose(soft[1], softmax(QUERIED_LOGITS.astype(float), axis=-1), rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(0, 4))
def test_top_k_and_rounding_show_no_more_than_they_should(k: int, decimals: int):
    shown = Grant(outputs="probabilities", top_k=k).released(QUERIED_LOGITS)["probabilities"]
    full = softmax(QUERIED_LOGITS, axis=-1)
    assert ((shown > 0).sum(-1) == k).all()
    np.testing.assert_array_equal(shown.argmax(-1), full.argmax(-1))
    np.testing.assert_array_equal(shown[shown > 0], full[shown > 0])
    rounded = Grant(outputs="probabilities", decimals=decimals).released(QUERIED_LOGITS)["probabilities"]
    np.testing.assert_allclose(rounded * 10**decimals, (rounded * 10**decimals).round(), atol=1e-3)


def test_a_top_k_that_holds_nothing_back_is_refused():
    with pytest.raises(ValueError, match=r"^threat\.top_k=4: expected at most 3, .*; choose fewer$"):
        Grant(outputs="probabilities", top_k=4).released(QUERIED_LOGITS)
    with pytest.raises(ValueError, match=r"^threat\.top_k=1: expected at least 3 classes, .*; leave it out$"):
        Grant(outputs="probabilities", top_k=1).released(QUERIED_LOGITS[..., :2])


def test_a_query_returns_what_is_released():
    assert Grant(outputs="label").answer(QUERIED_LOGITS[0]).shape == (40,)
    assert Grant(outputs="probabilities").answer(QUERIED_LOGITS[0]).shape == (40, 5)


@pytest.mark.parametrize(
    ("grant", "access", "level"),
    [
        (Grant(), "black_box", "logits"),
        (Grant(outputs="label"), "label_only", "label"),
        (Grant(weights=True), "white_box", "logits"),
        (Grant(outputs="probabilities"), "black_box", "probabilities"),
        (Grant(outputs="probabilities", decimals=2), "black_box", "probabilities, 2 decimals"),
        (Grant(outputs="probabilities", top_k=3, decimals=1), "black_box", "top-3, 1 decimals"),
    ],
)
def test_names(grant: Grant, access: str, level: str):
    assert (grant.access, grant.level) == (access, level)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": "all"}, "outputs=all: expected"),
        ({"top_k": 3}, "top_k=3: expected"),
        ({"outputs": "probabilities", "top_k": 0}, "top_k=0: expected"),
        ({"outputs": "probabilities", "decimals": -1}, "decimals=-1: expected"),
        ({"outputs": "probabilities", "decimals": 1.5}, "decimals=1.5: expected"),
    ],
)
def test_what_cannot_be_granted(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Grant(**settings)
