"""Audits of records of which a person has several."""

from __future__ import annotations

import numpy as np
import pytest

from attacks import LossThreshold
from evaluation.audits.answered_records import AnsweredRecords, view_of
from evaluation.audits.audited import audited
from evaluation.findings import AUC
from evaluation.signals.grant import Grant


def side(seed: int, persons: np.ndarray, known: bool = True) -> AnsweredRecords:
    """Answers that are alike for records of one person, and no better for members."""
    rng = np.random.default_rng(seed)
    _, person = np.unique(persons, return_inverse=True)
    margin = rng.normal(size=person.max() + 1)[person] + 0.1 * rng.normal(size=len(person))
    logits, labels = np.stack([margin, np.zeros(len(person))], axis=1), np.zeros(len(person), dtype=np.int64)
    told = persons if known else None
    return AnsweredRecords(name=f"side {seed}", labels=labels, level="logits", answers=logits, persons=told)


def misses(known: bool, trials: int = 16) -> int:
    """How many intervals of the AUC exclude ½ though nothing leaks."""
    person, missed = np.arange(300) // 10, 0
    for trial in range(trials):
        seen = view_of(side(2 * trial, person, known), side(2 * trial + 1, person + 30, known), None, Grant())
        row = audited(seen, [LossThreshold()]).get(AUC, "loss")
        assert row.low is not None and row.high is not None
        missed += not row.low <= 0.5 <= row.high
    return missed


def test_intervals_over_persons_hold_their_level() -> None:
    assert misses(known=True) <= 3
    assert misses(known=False) >= 5, "intervals over records are too narrow"


def test_a_person_is_on_one_side() -> None:
    with pytest.raises(ValueError, match="records of 1 same persons"):
        view_of(side(0, np.arange(20)), side(1, np.arange(19, 39)), None, Grant())
    with pytest.raises(ValueError, match="only one of side 0 and side 1 holds persons"):
        view_of(side(0, np.arange(20)), side(1, np.arange(20, 40), known=False), None, Grant())
