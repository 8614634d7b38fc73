"""Records that were never used: falsely accused as often as they look like members."""

from __future__ import annotations

import numpy as np
import pytest

from attacks import LossThreshold, Reference, View
from evaluation.signals.grant import Grant
from evaluation.studies.never_used import falsely_accused, with_outsiders


def fleet() -> View:
    rng = np.random.default_rng(0)
    members = rng.random((8, 400)) < 0.5
    phi = rng.normal(size=(8, 400)) + 4 * members
    return View(
        logits=np.stack([np.zeros_like(phi), phi], axis=-1), labels=np.ones(400, dtype=np.int64), membership=members,
        features=rng.normal(size=(400, 1)), query=lambda model, x: np.hstack([np.zeros_like(x), x]),
    )  # fmt: skip


@pytest.mark.parametrize("attack", [LossThreshold(), Reference()])
def test_members_lookalikes_are_accused_and_ordinary_records_are_not(attack: LossThreshold | Reference) -> None:
    seen, rng = fleet(), np.random.default_rng(1)
    for shift, least, most in ((0.0, 0.0, 0.05), (6.0, 0.9, 1.0)):
        x = rng.normal(size=(300, 1)) + shift
        if isinstance(attack, Reference) and shift:
            continue  # all models find them easy: compared with themselves they stand out in none
        extended = with_outsiders(seen, x, np.ones(300, dtype=np.int64), Grant())
        assert not extended.membership[:, 400:].any() and extended.records == 700
        found = falsely_accused(attack, extended, 300)
        assert found is not None and least <= found.value <= most and found.low <= found.value <= found.high


def test_only_duplicates_of_members_count() -> None:
    seen = fleet()
    x = np.concatenate([np.full((50, 1), 9.0), np.full((50, 1), -9.0)])
    extended = with_outsiders(seen, x, np.ones(100, dtype=np.int64), Grant())
    counted = np.tile(np.arange(100) < 50, (8, 1))
    accused = [falsely_accused(LossThreshold(), extended, 100, only) for only in (counted, ~counted)]
    assert [found.value for found in accused if found is not None] == [1.0, 0.0]
