"""A step's records are gathered with what each model is to learn of them."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.data.loaders import Gather

INPUT_ROWS, ROW_LABELS = np.arange(10, dtype=np.float32).reshape(5, 2), np.array([0, 1, 2, 0, 1])
SOFT_LABELS = np.random.default_rng(0).random((2, 5, 3), dtype=np.float32)
SAMPLED_STEP = np.array([[3, 1], [0, 4]]), np.array([[True, True], [True, False]])


def test_stack_keeps_the_model_axis():
    batch = Gather(INPUT_ROWS, ROW_LABELS, stacked=True, soft_labels=SOFT_LABELS)[SAMPLED_STEP]
    assert batch.x.tolist() == INPUT_ROWS[SAMPLED_STEP[0]].tolist() and batch.y.tolist() == [[0, 1], [0, 1]]
    assert batch.targets.tolist() == [SOFT_LABELS[0, [3, 1]].tolist(), SOFT_LABELS[1, [0, 4]].tolist()]


def test_single_model_has_none():
    batch = Gather(INPUT_ROWS, ROW_LABELS, stacked=False, soft_labels=SOFT_LABELS[:1])[
        SAMPLED_STEP[0][:1], SAMPLED_STEP[1][:1]
    ]
    assert batch.x.shape == (2, 2) and batch.records.tolist() == [3, 1]
    assert batch.targets.numpy() == pytest.approx(SOFT_LABELS[0, [3, 1]])
    assert Gather(INPUT_ROWS, ROW_LABELS, stacked=False)[SAMPLED_STEP].targets is None
