"""Guards that let out less: the top k, few decimals, flatter probabilities, the label alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from palisade.targets.guards import LabelOnly, NoGuard, Query, Rounding, Temperature, TopK
from palisade.targets.guards.guard import Guard
from palisade.targets.guards.probabilities import predicting, probabilities

QUERY_LOGITS = np.array([[2.0, 0.5, 1.0, -3.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 9.0, 9.5, 3.0]], dtype=np.float32)


def answer(guard: Guard, logits: np.ndarray = QUERY_LOGITS) -> np.ndarray:
    return guard.answer(Query(np.zeros((len(logits), 1)), logits, {}, lambda x: x))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_top_k_lets_out_the_k_largest(k: int) -> None:
    p = softmax(QUERY_LOGITS.astype(np.float64), axis=1)
    shown = answer(TopK(k=k))
    assert ((shown > 0).sum(axis=1) == min(k, 4)).all(), "also where all are equal"
    for row, whole in zip(shown, p, strict=True):
        np.testing.assert_allclose(np.sort(row)[::-1][:k], np.sort(whole)[::-1][:k], rtol=1e-6)
        assert all(value in (0, pytest.approx(whole[at], rel=1e-6)) for at, value in enumerate(row))


def test_rounding_keeps_so_many_decimals() -> None:
    p = softmax(QUERY_LOGITS.astype(np.float64), axis=1)
    for decimals in (0, 1, 3):
        np.testing.assert_allclose(answer(Rounding(decimals=decimals)), p.round(decimals), atol=1e-6)


def test_temperature_flattens() -> None:
    for temperature in (0.5, 1.0, 20.0):
        expected = softmax(QUERY_LOGITS.astype(np.float64) / temperature, axis=1)
        np.testing.assert_allclose(answer(Temperature(temperature=temperature)), expected, rtol=1e-6)


def test_the_label_survives_where_float32_makes_probabilities_equal() -> None:
    logits = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0]], dtype=np.float32)
    assert softmax(logits / 1e4, axis=1).argmax() == 0, "rounding alone would lose it"
    p = answer(Temperature(temperature=1e4), logits)
    assert p.argmax() == 1 and p.sum() == pytest.approx(1, abs=1e-6)


def test_predicting_lowers_only_what_reaches_the_label() -> None:
    answers = np.array([[0.4, 0.4, 0.2], [0.1, 0.8, 0.1]], dtype=np.float32)
    lowered = predicting(np.array([1, 1]), answers)
    assert lowered[0, 0] == np.nextafter(np.float32(0.4), np.float32(0))
    changed = lowered != answers
    assert changed.sum() == 1 and changed[0, 0]


def test_label_only_and_no_guard() -> None:
    np.testing.assert_array_equal(answer(LabelOnly()), [0, 0, 2])
    assert answer(NoGuard()) is QUERY_LOGITS


def test_probabilities_are_softmax() -> None:
    answers = probabilities(QUERY_LOGITS)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, softmax(QUERY_LOGITS, axis=1), rtol=1e-6)
