from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from palisade.attacks import LossThreshold, View

FIXED_RNG = np.random.default_rng(0)
FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT = 4, 30, 3
RECORD_LABELS = FIXED_RNG.integers(CLASS_COUNT, size=FLEET_RECORDS)
FLEET_MEMBERSHIP = FIXED_RNG.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
FLEET_LOGITS = FIXED_RNG.standard_normal((FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT)).astype(np.float32)


def view(**changes: Any) -> View:
    return View(**{"labels": RECORD_LABELS, "membership": FLEET_MEMBERSHIP, "logits": FLEET_LOGITS} | changes)


def hard(**changes: Any) -> View:
    return view(**{"logits": None, "predictions": FLEET_LOGITS.argmax(-1)} | changes)


def soft(**changes: Any) -> View:
    return view(**{"logits": None, "probabilities": softmax(FLEET_LOGITS, axis=-1)} | changes)


def test_signals_of_the_three_output_levels_agree() -> None:
    np.testing.assert_allclose(soft().log_odds, view().log_odds, atol=1e-5)
    np.testing.assert_array_equal(soft().correct, view().correct)
    np.testing.assert_array_equal(hard().correct, view().correct)
    own = softmax(FLEET_LOGITS.astype(float), axis=-1)[:, np.arange(FLEET_RECORDS), RECORD_LABELS]
    np.testing.assert_allclose(view().loss[:, :, 0], -np.log(own), rtol=1e-6)
    assert (view().outputs, soft().outputs, hard().outputs) == ("logits", "probabilities", "label")
    assert view().log_odds.dtype == np.float64


def test_queries_are_the_third_axis() -> None:
    several = view(logits=np.stack([FLEET_LOGITS, -FLEET_LOGITS], axis=2))
    assert (view().queries, several.queries) == (1, 2)
    np.testing.assert_array_equal(several.log_odds[:, :, 0], view().log_odds[:, :, 0])
    predictions = np.repeat(FLEET_LOGITS.argmax(-1)[:, :, None], 5, axis=2)
    assert hard(predictions=predictions).correct.shape == (FLEET_MODELS, FLEET_RECORDS, 5)


def test_memory_mapped_outputs_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", FLEET_LOGITS)
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
    np.testing.assert_array_equal(view().others, ~np.eye(FLEET_MODELS, dtype=bool))
    paired = view(groups=np.array([0, 0, 1, 1])).others
    np.testing.assert_array_equal(paired, np.kron([[0, 1], [1, 0]], np.ones((2, 2))).astype(bool))


def _with(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[2, 0, 0] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, r"outputs=\[\]: expected exactly one of logits, probabilities, predictions, signals"),
        ({"predictions": FLEET_LOGITS.argmax(-1)}, r"outputs=\['logits', 'predictions'\]: expected exactly one"),
        (
            {"membership": FLEET_MEMBERSHIP.astype(int)},
            r"membership=int64 of shape \(4, 30\): expected a Boolean array",
        ),
        ({"membership": FLEET_MEMBERSHIP[0]}, r"membership=bool of shape \(30,\): expected a Boolean array"),
        ({"membership": FLEET_MEMBERSHIP[:3]}, r"membership.shape=\(3, 30\): expected \(4, 30\)"),
        ({"alignment": np.zeros((4, 9))}, r"alignment.shape=\(4, 9\): expected \(4, 30\)"),
        ({"groups": np.zeros(3, int)}, r"groups.shape=\(3,\): expected one of the groups for each of the 4 models"),
        (
            {"persons": np.zeros(3, int)},
            r"persons.shape=\(3,\): expected one of the persons for each of the 30 records",
        ),
        (
            {"features": np.zeros((3, 2))},
            r"features.shape=\(3, 2\): expected one of the features for each of the 30 records",
        ),
        ({"logits": FLEET_LOGITS[:, :-1]}, r"logits.shape=\(4, 29, 3\): expected \(models, 30\[, queries\], classes\)"),
        ({"logits": FLEET_LOGITS[:, :, 0]}, r"logits.shape=\(4, 30\): expected \(models, 30\[, queries\], classes\)"),
        ({"logits": FLEET_LOGITS[:, :, :1]}, r"logits: expected at least 2 classes, not 1"),
        ({"logits": _with(FLEET_LOGITS, np.nan)}, "logits of model=2: expected finite numbers"),
        ({"logits": _with(FLEET_LOGITS, np.inf)}, "logits of model=2: expected finite numbers"),
        (
            {"labels": RECORD_LABELS[:, None]},
            r"labels=int64 of shape \(30, 1\): expected one integer class for each record",
        ),
        ({"top_k": 2}, "top_k=2: expected 1 to the number of classes, with probabilities; leave it out"),
        ({"labels": RECORD_LABELS.astype(float)}, "labels=float64 of shape"),
        ({"labels": RECORD_LABELS + 1}, r"labels=1..3: expected 0..2; number the classes from 0"),
        ({"labels": RECORD_LABELS - 1}, r"labels=-1..1: expected 0..2"),
        (
            {"population_logits": FLEET_LOGITS},
            "population answers and population_labels belong together; pass both or none",
        ),
        (
            {"population_labels": RECORD_LABELS},
            "population answers and population_labels belong together; pass both or none",
        ),
        (
            {"population_features": RECORD_LABELS},
            "population_features: expected with answers on the population; pass population_labels",
        ),
        (
            {"population_logits": FLEET_LOGITS, "population_labels": RECORD_LABELS[1:]},
            r"logits.shape=.*: expected .*, with 29 labels",
        ),
        (
            {"population_predictions": FLEET_LOGITS.argmax(-1), "population_labels": RECORD_LABELS},
            "population=label of 4 models: expected logits of 4 models",
        ),
        (
            {
                "population_logits": FLEET_LOGITS,
                "population_labels": RECORD_LABELS,
                "population_features": RECORD_LABELS[1:],
            },
            r"population_features.shape=\(29,\): expected 30 rows",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(**changes)


def test_probabilities_and_predictions_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"probabilities of model=2 in .*: expected 0..1"):
        soft(probabilities=_with(np.full(FLEET_LOGITS.shape, 0.5), 1.1))
    with pytest.raises(ValueError, match=r"labels=-1..1"):
        hard(labels=RECORD_LABELS - 1)
    with pytest.raises(ValueError, match=r"predictions.shape=.*expected"):
        hard(predictions=RECORD_LABELS)
    with pytest.raises(ValueError, match="log_odds need logits or probabilities; only labels are released"):
        _ = hard().log_odds


def test_what_the_top_k_leave_over_is_dealt_out_evenly() -> None:
    shown = np.array([[[0.7, 0.2, 0.0, 0.0], [0.0, 0.1, 0.0, 0.9]]])
    top = View(labels=np.array([2, 0]), membership=np.array([[True, False]]), probabilities=shown, top_k=2)
    np.testing.assert_allclose(top.probabilities_of(0), [[0.7, 0.2, 0.05, 0.05], [0.0, 0.1, 0.0, 0.9]])
    np.testing.assert_allclose(top.log_odds[0, 0, 0], np.log(0.05 / 0.95))
    assert top.outputs == "top-k" and np.isfinite(top.log_odds).all()


def test_a_probability_rounded_to_zero_counts_as_half_of_the_smallest_shown() -> None:
    rounded = view(logits=None, probabilities=softmax(4 * FLEET_LOGITS, axis=-1).round(2))
    assert np.abs(rounded.log_odds).max() <= np.log(1 / 0.005) + 1e-6
    assert (rounded.log_odds[rounded.probabilities[..., 0] == 0] != 0).all()


def test_signals_follow_their_definitions() -> None:
    p = softmax(FLEET_LOGITS.astype(float), axis=-1)
    own = p[:, np.arange(FLEET_RECORDS), RECORD_LABELS]
    rest = np.where(np.arange(CLASS_COUNT) == RECORD_LABELS[:, None], 0.0, p * np.log(1 - p)).sum(-1)
    for answers, tolerance in ((view(), 1e-6), (soft(), 1e-5)):
        np.testing.assert_allclose(answers.entropy[:, :, 0], -(p * np.log(p)).sum(-1), rtol=tolerance)
        np.testing.assert_allclose(answers.modified_entropy[:, :, 0], -(1 - own) * np.log(own) - rest, rtol=tolerance)
        np.testing.assert_allclose(answers.log_confidence()[:, :, 0], np.log(own), rtol=tolerance, atol=1e-6)
        warm = softmax(FLEET_LOGITS / 3.0, axis=-1)[:, np.arange(FLEET_RECORDS), RECORD_LABELS]
        np.testing.assert_allclose(answers.log_confidence(3.0)[:, :, 0], np.log(warm), rtol=1e-4)
        np.testing.assert_allclose(answers.probabilities_of(1), p[1], rtol=1e-5)


def test_the_population_has_signals_of_its_own() -> None:
    population = view(population_logits=FLEET_LOGITS[:, :7], population_labels=RECORD_LABELS[:7]).population
    assert population is not None and (population.models, population.records) == (FLEET_MODELS, 7)
    np.testing.assert_array_equal(population.log_odds, view().log_odds[:, :7])
    assert view().population is None


def test_models_answer_what_an_attacker_asks() -> None:
    asked = view(query=lambda model, x: x * [[1.0, -1.0]] + model)
    np.testing.assert_array_equal(asked.predict(0, np.array([[1.0, 2.0], [-3.0, 2.0]])), [0, 1])
    np.testing.assert_array_equal(
        view(query=lambda model, x: x[:, 0].astype(int)).predict(0, np.ones((3, 2))), [1, 1, 1]
    )
