from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from palisade.attacks import Trajectory, View


def view(seed: int, effect: float, models: int = 8, records: int = 300, **changes: Any) -> View:
    """A fleet whose members go on being learnt after others are not, until all end alike."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, records)) < 0.5
    end = rng.standard_normal((models, records))
    middle = end - 1 - effect * member + 0.3 * rng.standard_normal((models, records))
    trajectory = np.log1p(np.exp(-np.stack([middle, end], axis=-1))).astype(np.float32)
    arrays: dict[str, Any] = {"predictions": np.zeros((models, records), dtype=int), "trajectory": trajectory}
    return View(**arrays | {"labels": np.zeros(records, dtype=int), "membership": member} | changes)


def auc(scores: np.ndarray, shown: View) -> float:
    return float(np.mean([roc_auc_score(*row) for row in zip(shown.membership, scores, strict=True)]))


def test_how_a_record_was_learnt_tells_what_its_final_loss_does_not() -> None:
    shown = view(0, effect=1.0)
    assert shown.trajectory is not None
    assert auc(-shown.trajectory[:, :, -1], shown) == pytest.approx(0.5, abs=0.05)
    assert auc(Trajectory().score(shown), shown) > 0.9


def test_without_an_effect_it_finds_nothing() -> None:
    aucs = [auc(Trajectory().score(shown), shown) for shown in (view(seed, effect=0.0) for seed in range(4))]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)


def test_a_targets_membership_never_enters_its_scores() -> None:
    shown = view(0, effect=1.0)
    flipped = shown.membership.copy()
    flipped[3] = ~flipped[3]
    scores = Trajectory().score(shown)
    np.testing.assert_array_equal(scores[3], Trajectory().score(view(0, effect=1.0, membership=flipped))[3])
    np.testing.assert_array_equal(scores, Trajectory().score(shown))


def test_twins_are_left_out_together() -> None:
    member = np.random.default_rng(0).random((4, 300)) < 0.5
    twins = {"membership": np.stack([member, ~member], axis=1).reshape(8, 300), "groups": np.arange(8) // 2}
    changed = twins["membership"].copy()
    changed[2:4] = ~changed[2:4]
    first, second = view(0, 0.0, **twins), view(0, 0.0, **twins | {"membership": changed})
    np.testing.assert_array_equal(Trajectory().score(first)[2:4], Trajectory().score(second)[2:4])


def test_losses_beyond_float32_stay_finite() -> None:
    losses = np.tile(np.array([0.0, 1e-38, 100.0, 1000.0], dtype=np.float32), (8, 75))[:, :, None]
    with np.errstate(divide="raise", over="raise"):
        assert np.isfinite(Trajectory().score(view(0, 1.0, trajectory=losses))).all()


def test_what_it_needs() -> None:
    assert Trajectory().missing(view(0, 1.0)) is None
    expected = "needs checkpoints; train with fleet.keep_checkpoints=9 and grant them with threat=white_box"
    assert Trajectory().missing(view(0, 1.0, trajectory=None)) == expected
    assert (Trajectory().name, Trajectory().threat.access) == ("trajectory", "white_box")
