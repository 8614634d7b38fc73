from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from attacks import Attack, Correctness, LossThreshold, ThreatModel, View

RNG = np.random.default_rng(0)
MODELS, RECORDS, CLASSES = 4, 30, 3
LABELS = RNG.integers(CLASSES, size=RECORDS)
MEMBERSHIP = RNG.random((MODELS, RECORDS)) < 0.5
LOGITS = RNG.standard_normal((MODELS, RECORDS, CLASSES)).astype(np.float32)


def view(**changes: Any) -> View:
    return View(**{"labels": LABELS, "membership": MEMBERSHIP, "logits": LOGITS} | changes)


def hard(**changes: Any) -> View:
    return view(**{"logits": None, "predictions": LOGITS.argmax(-1)} | changes)


def soft(**changes: Any) -> View:
    return view(**{"logits": None, "probabilities": softmax(LOGITS, axis=-1)} | changes)


def test_signals_of_the_three_output_levels_agree() -> None:
    np.testing.assert_allclose(soft().log_odds, view().log_odds, atol=1e-5)
    np.testing.assert_array_equal(soft().correct, view().correct)
    np.testing.assert_array_equal(hard().correct, view().correct)
    own = softmax(LOGITS.astype(float), axis=-1)[:, np.arange(RECORDS), LABELS]
    np.testing.assert_allclose(view().loss[:, :, 0], -np.log(own), rtol=1e-6)
    assert (view().outputs, soft().outputs, hard().outputs) == ("logits", "probabilities", "label")
    assert view().log_odds.dtype == np.float64


def test_queries_are_the_third_axis() -> None:
    several = view(logits=np.stack([LOGITS, -LOGITS], axis=2))
    assert (view().queries, several.queries) == (1, 2)
    np.testing.assert_array_equal(several.log_odds[:, :, 0], view().log_odds[:, :, 0])
    predictions = np.repeat(LOGITS.argmax(-1)[:, :, None], 5, axis=2)
    assert hard(predictions=predictions).correct.shape == (MODELS, RECORDS, 5)


def test_memory_mapped_outputs_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", LOGITS)
    mapped = view(logits=np.load(tmp_path / "logits.npy", mmap_mode="r"))
    assert isinstance(mapped.logits, np.memmap)
    np.testing.assert_array_equal(LossThreshold().score(mapped), LossThreshold().score(view()))


def test_signals_are_shared_and_cannot_be_changed() -> None:
    shared = view()
    assert shared.log_odds is shared.log_odds
    for signal in (shared.log_odds, shared.loss, shared.correct, shared.others):
        with pytest.raises(ValueError, match="read-only"):
            signal[0] = 0


def test_a_target_and_its_group_are_no_shadows() -> None:
    np.testing.assert_array_equal(view().others, ~np.eye(MODELS, dtype=bool))
    paired = view(groups=np.array([0, 0, 1, 1])).others
    np.testing.assert_array_equal(paired, np.kron([[0, 1], [1, 0]], np.ones((2, 2))).astype(bool))


def _with(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[2, 0, 0] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, r"outputs=\[\]; pass exactly one of logits, probabilities and predictions"),
        ({"predictions": LOGITS.argmax(-1)}, r"outputs=\['logits', 'predictions'\]; pass exactly one"),
        ({"membership": MEMBERSHIP.astype(int)}, r"membership=int64 of shape \(4, 30\); pass a Boolean array"),
        ({"membership": MEMBERSHIP[0]}, r"membership=bool of shape \(30,\); pass a Boolean array"),
        ({"groups": np.zeros(3, int)}, r"groups.shape=\(3,\); pass one group for each of the 4 models"),
        ({"logits": LOGITS[:, :-1]}, r"logits.shape=\(4, 29, 3\).*; expected \(4, 30\[, queries\], classes\)"),
        ({"logits": LOGITS[:, :, 0]}, r"logits.shape=\(4, 30\).*; expected \(4, 30\[, queries\], classes\)"),
        ({"logits": LOGITS[:, :, :1]}, r"logits has classes=1; a classifier has at least 2"),
        ({"logits": _with(LOGITS, np.nan)}, "logits of model=2 hold NaN or infinity; leave out models that diverged"),
        ({"logits": _with(LOGITS, np.inf)}, "logits of model=2 hold NaN or infinity"),
        ({"labels": LABELS[:-1]}, r"labels=int64 of shape \(29,\); pass one integer class for each of the 30 records"),
        ({"labels": LABELS.astype(float)}, "labels=float64 of shape"),
        ({"labels": LABELS + 1}, r"labels=1..3; expected 0..2, number the classes from 0"),
        ({"labels": LABELS - 1}, r"labels=-1..1; expected 0..2"),
        ({"population_logits": LOGITS}, "population_labels=None; population_logits needs the true classes"),
        ({"population_logits": LOGITS, "population_labels": LABELS[1:]}, r"population_logits.shape=.*disagrees"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(**changes)


def test_probabilities_and_predictions_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"probabilities of model=2 span .*; expected 0..1, or pass logits"):
        soft(probabilities=_with(np.full(LOGITS.shape, 0.5), 1.1))
    with pytest.raises(ValueError, match=r"labels=-1..1; expected 0 and above"):
        hard(labels=LABELS - 1)
    with pytest.raises(ValueError, match=r"predictions.shape=.*expected \(4, 30\[, queries\]\)$"):
        hard(predictions=LABELS)
    with pytest.raises(ValueError, match="log_odds need logits or probabilities; only labels are released"):
        _ = hard().log_odds


FIXED = np.tile(MEMBERSHIP[0], (MODELS, 1))


@pytest.mark.parametrize(
    ("threat", "granted", "reason"),
    [
        (ThreatModel(outputs="logits", shadows="online"), view(), None),
        (ThreatModel(outputs="probabilities"), view(), None),
        (ThreatModel(outputs="probabilities"), hard(), "needs logits or probabilities; only labels are released"),
        (ThreatModel(outputs="logits"), soft(), "needs logits; only probabilities are released"),
        (ThreatModel(weights=True), view(), "needs the weights; only outputs are released"),
        (ThreatModel(population=True), view(), "needs population records; the split has none"),
        (ThreatModel(population=True), view(population_logits=LOGITS, population_labels=LABELS), None),
        (ThreatModel(queries=8), view(), "needs queries=8 a record; the view holds 1"),
        (
            ThreatModel(shadows="offline"),
            view(membership=FIXED),
            "needs models that did not train on a record; the split is fixed",
        ),
        (
            ThreatModel(shadows="online"),
            view(membership=FIXED),
            "needs models that did and models that did not train on a record; the split is fixed",
        ),
        (
            ThreatModel(shadows="offline"),
            view(membership=MEMBERSHIP[:1], logits=LOGITS[:1]),
            "needs models that did not train on a record; models=1 in groups=1 are too few, train more",
        ),
        (
            ThreatModel(shadows="online"),
            view(groups=np.zeros(MODELS, int)),
            "needs models that did and models that did not train on a record; "
            "models=4 in groups=1 are too few, train more",
        ),
    ],
)
def test_what_a_threat_model_misses(threat: ThreatModel, granted: View, reason: str | None) -> None:
    assert threat.missing(granted) == reason


def test_access_follows_from_the_threat() -> None:
    assert Correctness().threat.access == "label_only"
    assert LossThreshold().threat.access == "black_box"
    assert ThreatModel(weights=True).access == "white_box"


class Broken(Attack):
    name = "broken"
    threat = ThreatModel()

    def _score(self, view: View) -> np.ndarray:
        return np.zeros(view.records)


def test_an_attack_is_held_to_its_contract() -> None:
    with pytest.raises(ValueError, match=r"attack=broken returned shape \(30,\); expected \(4, 30\)"):
        Broken().score(view())
    with pytest.raises(ValueError, match="attack=loss needs logits or probabilities; only labels are released"):
        LossThreshold().score(hard())
