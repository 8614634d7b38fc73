from dataclasses import replace

import numpy as np
import pytest

from palisade.attacks import KnownMembers, View
from palisade.evaluation.statistics.metrics import roc_auc


def simulated(seed: int, effect: float, models: int = 4, records: int = 800) -> View:
    rng = np.random.default_rng(seed)
    member, labels = rng.random((models, records)) < 0.5, rng.integers(4, size=records)
    logits = rng.standard_normal((models, records, 4))
    logits[:, np.arange(records), labels] += labels + effect * member
    return View(logits=logits.astype(np.float32), labels=labels, membership=member)


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


@pytest.mark.parametrize("models", [1, 4])
def test_finds_the_others_without_shadows(models: int) -> None:
    view = simulated(0, 2.0, models)
    assert KnownMembers().missing(view) is None
    assert mean_auc(KnownMembers().score(view), view) > 0.75


def test_finds_nothing_where_nothing_is() -> None:
    view = simulated(1, 0.0, models=8)
    assert mean_auc(KnownMembers().score(view), view) == pytest.approx(0.5, abs=0.02)


def test_models_are_attacked_one_by_one() -> None:
    view = simulated(0, 1.0)
    alone = View(logits=view.logits[2:3], labels=view.labels, membership=view.membership[2:3])
    np.testing.assert_array_equal(KnownMembers().score(alone)[0], KnownMembers().score(view)[2])


def test_a_record_and_its_person_never_find_themselves_out() -> None:
    persons = np.arange(800) // 4
    view = replace(simulated(0, 1.0, models=1), persons=persons)
    before = KnownMembers().score(view)
    for person in (3, 77):
        own, member = persons == person, view.membership.copy()
        member[:, own] = ~member[:, own]
        after = KnownMembers().score(replace(view, membership=member))
        np.testing.assert_array_equal(before[:, own], after[:, own])
        assert (before != after).any(), "it helps to find the other half"


def test_a_person_tells_nothing_of_the_same_persons_fate() -> None:
    """Twenty equal answers a person: with records dealt out singly the person would be recognized."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(60), 20)
    member = np.stack([(rng.random(60) < 0.5)[persons] for _ in range(8)])
    logits = rng.standard_normal((8, 60, 3))[:, persons]
    view = View(logits=logits, labels=np.zeros(1200, int), membership=member, persons=persons)
    together = mean_auc(KnownMembers().score(view), view)
    singly = mean_auc(KnownMembers().score(replace(view, persons=None)), view)
    assert singly > 0.6 and together < 0.55


def test_the_seed_draws_the_halves() -> None:
    view = simulated(0, 1.0)
    assert (KnownMembers(seed=1).score(view) != KnownMembers().score(view)).any()


def test_both_sides_must_be_known() -> None:
    view = simulated(0, 1.0)
    everyone = replace(view, membership=np.ones_like(view.membership))
    assert KnownMembers().missing(everyone) == "needs members and non-members of a target; audit records of both kinds"
    mixed = view.membership.copy()
    mixed[1] = True
    scores = KnownMembers().score(replace(view, membership=mixed))
    assert np.isnan(scores[1]).all() and np.isfinite(scores[[0, 2, 3]]).all()
