"""A step's records are gathered with what each model is to learn of them."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.data.loaders import Gather

X, Y = np.arange(10, dtype=np.float32).reshape(5, 2), np.array([0, 1, 2, 0, 1])
SOFT = np.random.default_rng(0).random((2, 5, 3), dtype=np.float32)
STEP = np.array([[3, 1], [0, 4]]), np.array([[True, True], [True, False]])


def test_stack_keeps_the_model_axis():
    batch = Gather(X, Y, stacked=True, soft_labels=SOFT)[STEP]
    assert batch.x.tolist() == X[STEP[0]].tolist() and batch.y.tolist() == [[0, 1], [0, 1]]
    assert batch.targets.tolist() == [SOFT[0, [3, 1]].tolist(), SOFT[1, [0, 4]].tolist()]


def test_single_model_has_none():
    batch = Gather(X, Y, stacked=False, soft_labels=SOFT[:1])[STEP[0][:1], STEP[1][:1]]
    assert batch.x.shape == (2, 2) and batch.records.tolist() == [3, 1]
    assert batch.targets.numpy() == pytest.approx(SOFT[0, [3, 1]])
    assert Gather(X, Y, stacked=False)[STEP].targets is None
