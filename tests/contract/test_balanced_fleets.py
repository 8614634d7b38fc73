"""Fleets with every record in as many models: a target's shadows, counted, must not tell its membership."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated_texts import TEXT_ATTACK_NAMES

from palisade.attacks import View
from palisade.attacks.parts import blocks, leave_one_out
from palisade.attacks.parts.thresholds import shadow_thresholds
from tests.contract.test_attacks import ATTACK_NAMES, attack_of, mean_auc

FLEET_RECORDS, CLASS_COUNT, FLEET_COUNT = 120, 3, 24
REFUSED_ATTACKS = ("joint_lira", "cascading")
SLOW_ATTACKS = {
    "boundary",
    "noise_agreement",
    "augmentation_agreement",
    "negated_classifier",
    "white_box",
    "trajectory",
    "votes",
}


def balanced_membership(rng: np.random.Generator, models: int, inside: int, records: int = FLEET_RECORDS) -> np.ndarray:
    """Every record in exactly `inside` of the models, drawn at random."""
    return rng.random((models, records)).argsort(axis=0) < inside


def silent_fleet(seed: int, models: int, inside: int, records: int = FLEET_RECORDS, **changes: Any) -> View:
    """Answers that depend on the record, and never on who was trained on it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * records, 4)).astype(np.float32)
    weights, shared = rng.normal(size=(models, 4, CLASS_COUNT)), rng.normal(size=(4, CLASS_COUNT))
    labels = (x @ shared + rng.normal(size=(2 * records, CLASS_COUNT))).argmax(axis=1)

    def query(model: int, rows: np.ndarray) -> np.ndarray:
        return (rows @ (2 * shared + 0.5 * weights[model])).astype(np.float32)

    answers = np.stack([query(model, x) for model in range(models)]) + rng.normal(
        size=(models, 2 * records, CLASS_COUNT)
    )
    answers = np.stack([answers] * 3, axis=2).astype(np.float32)
    hard = rng.random((1, records, 1))
    return View(
        logits=answers[:, :records],
        labels=labels[:records],
        membership=balanced_membership(rng, models, inside, records),
        features=x[:records],
        population_logits=answers[:, records:],
        population_labels=labels[records:],
        population_features=x[records:],
        query=query,
        gradient_norms=hard + 0.1 * rng.random((models, records, 2)),
        activation_norms=rng.random((models, records, 2)) + 0.1,
        unguarded_logits=answers[:, :records, 0],
        alignment=rng.normal(size=(models, records)),
        trajectory=hard + 0.1 * rng.random((models, records, 3)),
        **changes,
    )


def null_auc(name: str, models: int, inside: int) -> tuple[float, float]:
    """The mean AUC over silent fleets, with its standard error."""
    fleets = 4 if name in SLOW_ATTACKS else FLEET_COUNT
    attack = attack_of(name)
    aucs = []
    for seed in range(fleets):
        view = silent_fleet(seed, models, inside)
        if attack.missing(view) is None:
            aucs.append(mean_auc(attack.score(view), view.membership))
    return float(np.mean(aucs)), float(np.std(aucs, ddof=1) / np.sqrt(fleets))


@pytest.mark.parametrize("name", REFUSED_ATTACKS)
def test_attacks_that_counts_would_mislead_are_refused(name: str) -> None:
    view = silent_fleet(0, 6, 3, further_shadows=lambda *_: None)
    assert "drawn independently" in (attack_of(name).missing(view) or "")
    drawn = np.random.default_rng(0).random((6, FLEET_RECORDS)) < 0.5
    assert attack_of(name).missing(replace(view, membership=drawn)) is None


def test_a_few_records_in_other_numbers_of_models_do_not_undo_the_repair() -> None:
    aucs = []
    for seed in range(FLEET_COUNT):
        view = silent_fleet(seed, 6, 3)
        membership = view.membership.copy()
        membership[:, :5] = np.random.default_rng(seed).random((6, 5)) < 0.5
        view = replace(view, membership=membership)
        assert view.balanced and view.left_out is not None
        aucs.append(mean_auc(attack_of("lira").score(view), membership))
    assert abs(np.mean(aucs) - 0.5) < 3 * np.std(aucs) / np.sqrt(FLEET_COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("models", [4, 6, 8])
@pytest.mark.parametrize("name", [name for name in ATTACK_NAMES if name not in (*REFUSED_ATTACKS, *TEXT_ATTACK_NAMES)])
def test_counts_do_not_tell_who_is_a_member(name: str, models: int) -> None:
    auc, error = null_auc(name, models, models // 2)
    assert abs(auc - 0.5) < 3 * max(error, 0.002), f"AUC {auc:.3f} ± {error:.3f} on pure noise"


@pytest.mark.parametrize(("models", "inside"), [(4, 2), (6, 2), (8, 3), (8, 7)])
def test_as_many_are_left_inside_whoever_the_target_was_trained_on(models: int, inside: int) -> None:
    view = silent_fleet(0, models, inside)
    assert view.balanced and view.left_out is not None
    for target in range(models):
        is_shadow = view.others[target][:, None] & (np.arange(models)[:, None] != view.left_out[target])
        assert (is_shadow.sum(axis=0) == models - 2).all()
        assert ((is_shadow & view.membership).sum(axis=0) == inside - 1).all()
    drawn = np.bincount(view.left_out[0], minlength=models)
    assert drawn[0] == 0 and (drawn[1:] > 0).all(), "the one who is left out is drawn anew for each record"


def test_records_of_a_person_leave_out_the_same_model() -> None:
    rng = np.random.default_rng(0)
    person = np.arange(FLEET_RECORDS) // 3
    view = silent_fleet(0, 6, 3, persons=person)
    object.__setattr__(view, "membership", balanced_membership(rng, 6, 3, FLEET_RECORDS // 3)[:, person])
    assert view.left_out is not None
    np.testing.assert_array_equal(view.left_out, view.left_out[:, 3 * person])
    for asked, known in view.parts:
        assert not set(person[asked]) & set(person[known])


def test_other_fleets_are_left_as_they_are() -> None:
    coins = np.random.default_rng(0).random((6, FLEET_RECORDS)) < 0.5
    pairs = np.repeat(coins[:3], 2, axis=0) ^ (np.arange(6) % 2 == 1)[:, None]
    split = np.repeat(coins[:1], 6, axis=0)
    for membership, groups in ((coins, None), (pairs, np.arange(6) // 2), (split, None)):
        view = silent_fleet(0, 6, 3, groups=groups)
        object.__setattr__(view, "membership", membership)
        assert not view.balanced and view.left_out is None and len(view.parts) == 1


def test_groups_that_no_single_model_evens_out_are_refused() -> None:
    view = silent_fleet(0, 8, 4, groups=np.arange(8) // 2)
    assert view.balanced and view.left_out is None
    missing = attack_of("lira").missing(view)
    assert missing is not None and "in such groups" in missing


def test_thresholds_of_shadows_tell_nothing_either() -> None:
    """A threshold that all targets share but for who is left out is the worst one for each of them."""
    gains = []
    for seed in range(FLEET_COUNT):
        view = silent_fleet(seed, 4, 2)
        scores = np.tile(np.random.default_rng(seed).normal(size=FLEET_RECORDS), (4, 1))
        thresholds = shadow_thresholds(scores, view.membership, view.others, view.left_out)
        called = scores >= thresholds[:, None]
        rates = [[called[k, side].mean() for side in (own, ~own)] for k, own in enumerate(view.membership)]
        gains.append(np.mean(np.subtract(*np.transpose(rates))))
    assert abs(np.mean(gains)) < 3 * np.std(gains, ddof=1) / np.sqrt(FLEET_COUNT)


@pytest.mark.parametrize("name", ["lira", "reference", "rmia", "modified_entropy", "shadow_classifier"])
def test_blocks_of_records_and_parts_of_models_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = silent_fleet(0, 24, 12)
    expected, left_out = attack_of(name).score(whole), whole.left_out
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 24 * 7)
    monkeypatch.setattr(leave_one_out, "MODELS_PER_PART", 5)
    monkeypatch.setattr(leave_one_out, "LEAST_IN_PARTS", 10)
    again = replace(whole)
    np.testing.assert_array_equal(again.left_out, left_out)
    np.testing.assert_allclose(attack_of(name).score(again), expected, rtol=1e-9, atol=1e-11)
