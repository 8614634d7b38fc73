"""Cascading: anchors beyond the shadows' thresholds, further shadows that agree on them, never the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from palisade.attacks import Cascading, LiRA, View, cascading
from palisade.attacks.lira import lira_scores
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_MODELS, FLEET_RECORDS, NEIGHBORS_PER_RECORD = 16, 600, 10


class Fleet:
    """φ of a record rises by `own` if it is a member, and falls with those of its neighbors that are."""

    def __init__(self, own: float, others: float = 1.0, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.own, self.others = own, others
        self.level = self.rng.normal(size=FLEET_RECORDS)
        self.neighbors = [self.rng.permutation(FLEET_RECORDS) for _ in range(NEIGHBORS_PER_RECORD)]
        self.members = self.rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
        self.answers = self.phi(self.members)
        self.asked: list[tuple[int, np.ndarray, np.ndarray]] = []

    def phi(self, members: np.ndarray) -> np.ndarray:
        neighbors = sum(members[:, order] for order in self.neighbors) - NEIGHBORS_PER_RECORD / 2
        noise = self.rng.normal(0, 0.3, members.shape)
        return self.level + self.own * members - self.others * neighbors + noise

    def shown(self, phi: np.ndarray, members: np.ndarray) -> View:
        logits = np.stack([phi, np.zeros_like(phi)], axis=-1)
        return View(logits=logits, labels=np.zeros(phi.shape[1], dtype=int), membership=members)

    def further_shadows(self, target: int, inside: np.ndarray, outside: np.ndarray, shadows: int) -> View:
        self.asked.append((target, inside, outside))
        self.rng = np.random.default_rng([target, 1])
        members = ((self.rng.random((shadows, FLEET_RECORDS)) < 0.5) | inside) & ~outside
        rest = ~(inside | outside)
        phi = np.concatenate([self.answers[[target]], self.phi(members)])
        blank = np.zeros((1, FLEET_RECORDS), dtype=bool)
        return self.shown(phi[:, rest], np.concatenate([blank, members])[:, rest])

    def view(self) -> View:
        return replace(self.shown(self.answers, self.members), further_shadows=self.further_shadows)


def naive_anchors(view: View, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets record by record, with scores of shadows on which the target has no say."""
    first = LiRA().score(view)[target]
    shadows = [k for k in range(view.models) if k != target]
    alone = View(logits=view.logits[shadows], labels=view.labels, membership=view.membership[shadows])
    scores = LiRA().score(alone)
    nonmembers = [scores[s, r] for s in range(len(shadows)) for r in range(view.records) if not alone.membership[s, r]]
    members = [scores[s, r] for s in range(len(shadows)) for r in range(view.records) if alone.membership[s, r]]
    high, low = np.nanquantile(nonmembers, 0.99), np.nanquantile(members, 0.03)
    return (
        np.array([score > high and not score < low for score in first]),
        np.array([score < low and not score > high for score in first]),
    )


def test_anchors_are_those_of_a_naive_loop() -> None:
    fleet = Fleet(own=3.0)
    Cascading(shadows=8).score(fleet.view())
    assert [target for target, *_ in fleet.asked] == [0, 1]
    for target, inside, outside in fleet.asked:
        for anchors, expected in zip((inside, outside), naive_anchors(fleet.view(), target), strict=True):
            np.testing.assert_array_equal(anchors, expected)
        assert inside.sum() > 10 and outside.sum() > 10 and not (inside & outside).any()
        assert fleet.members[target][inside].mean() > 0.9 and fleet.members[target][outside].mean() < 0.1


def test_anchors_keep_their_first_score_and_the_rest_the_mean_of_both() -> None:
    fleet = Fleet(own=3.0)
    view = fleet.view()
    scores, first = Cascading(targets=1, shadows=24).score(view)[0], LiRA().score(view)[0]
    ((_, inside, outside),) = fleet.asked
    seen = fleet.further_shadows(0, inside, outside, 24)
    second = lira_scores(seen.log_odds[:, :, 0], seen.membership, ~np.eye(25, dtype=bool))[0]
    rest = ~(inside | outside)
    np.testing.assert_array_equal(scores[~rest], first[~rest])
    np.testing.assert_allclose(scores[rest], (first[rest] + second) / 2)


def test_only_targets_are_scored_and_better_than_by_lira() -> None:
    fleet = Fleet(own=3.0)
    scores, first = Cascading(targets=3, shadows=32).score(fleet.view()), LiRA().score(fleet.view())
    assert not np.isnan(scores[:3]).any() and np.isnan(scores[3:]).all()
    gained = [roc_auc(scores[k], fleet.members[k]) - roc_auc(first[k], fleet.members[k]) for k in range(3)]
    assert min(gained) > 0.01


def test_the_rest_is_not_brought_to_the_scale_of_shadows_which_did_not_choose_it() -> None:
    """LiRA was sure of the records with the highest and lowest φ: what remains is narrower on the target alone."""
    fleet = Fleet(own=4.0)
    view = fleet.view()
    scores, first = Cascading(targets=4).score(view), LiRA().score(view)
    rest = [~(inside | outside) for _, inside, outside in fleet.asked]
    second = [2 * scores[k] - first[k] for k in range(4)]
    assert np.mean([roc_auc(second[k][rest[k]], fleet.members[k][rest[k]]) for k in range(4)]) > 0.96


def test_a_further_shadow_that_diverged_does_not_blind_the_second_round() -> None:
    fleet, honest = Fleet(own=3.0), Cascading(targets=1).score(Fleet(own=3.0).view())[0]
    view = fleet.view()

    def diverged(*asked: object) -> View:
        seen = fleet.further_shadows(*asked)  # type: ignore[arg-type]
        return replace(seen, logits=np.concatenate([seen.logits[:-1], 1e4 * seen.logits[-1:]]))

    scores = Cascading(targets=1).score(replace(view, further_shadows=diverged))[0]
    assert abs(roc_auc(scores, fleet.members[0]) - roc_auc(honest, fleet.members[0])) < 0.01


def check_null(attack: Cascading) -> None:
    """A fleet that its own records leave no trace in: anchors are members by chance, and scores say nothing."""
    fleet = Fleet(own=0.0)
    scores = attack.score(fleet.view())
    guessed = np.concatenate([np.where(inside, 1, 0) - outside for _, inside, outside in fleet.asked])
    truth = np.concatenate([fleet.members[target] for target, *_ in fleet.asked])
    right = ((guessed == 1) & truth) | ((guessed == -1) & ~truth)
    sure = int((guessed != 0).sum())
    assert sure and abs(right.sum() / sure - 0.5) < norm.isf(1e-4) / 2 / np.sqrt(sure), "anchors know the truth"
    aucs = [roc_auc(scores[k], fleet.members[k]) for k in range(attack.targets)]
    spread = np.sqrt(1 / 3 / FLEET_RECORDS / attack.targets)
    assert abs(np.mean(aucs) - 0.5) < norm.isf(1e-4) * spread, "scores know the truth"


def test_says_nothing_where_there_is_nothing_to_say() -> None:
    check_null(Cascading(targets=8, shadows=16))


def test_anchors_by_the_targets_own_membership_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = iter(Fleet(own=0.0).members)
    honest = cascading.anchors_of

    def cheating(first: np.ndarray, *shadows: np.ndarray) -> cascading.Anchors:
        anchors, members = honest(first, *shadows), next(truth)
        return cascading.Anchors(anchors.inside & members, anchors.outside & ~members)

    monkeypatch.setattr(cascading, "anchors_of", cheating)
    with pytest.raises(AssertionError, match="anchors know the truth"):
        check_null(Cascading(targets=8, shadows=16))


def test_the_targets_membership_never_reaches_the_anchors() -> None:
    one, other = Fleet(own=3.0), Fleet(own=3.0)
    flipped = one.members.copy()
    flipped[1] = ~flipped[1]
    scores = Cascading(shadows=8).score(one.view())
    others = Cascading(shadows=8).score(replace(other.view(), membership=flipped))
    for mine, theirs in zip(one.asked[1], other.asked[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(scores[1], others[1])


def test_thresholds_that_cross_make_no_anchor_of_both_kinds() -> None:
    among = np.array([[10.0, -10.0], [10.0, -10.0]])
    membership = np.array([[True, False], [True, False]])
    inside, outside = cascading.anchors_of(np.array([20.0, 0.0, np.nan, -20.0]), among, membership)
    assert inside.tolist() == [True, False, False, False] and outside.tolist() == [False, False, False, True]


def test_no_shadow_on_a_side_makes_no_anchor() -> None:
    nothing = np.full((2, 3), np.nan)
    anchors = cascading.anchors_of(np.zeros(3), nothing, np.ones((2, 3), dtype=bool))
    assert anchors.rest.all()


def test_bare_arrays_are_skipped_with_the_reason() -> None:
    view = replace(Fleet(own=1.0).view(), further_shadows=None)
    reason = Cascading().missing(view)
    assert reason is not None and reason.startswith("needs to train further shadows; evaluate a run")
    assert "64 further shadows" in Cascading().threat.describe()


@pytest.mark.parametrize("settings", [{"targets": 0}, {"targets": True}, {"shadows": 3}, {"shadows": 4.0}], ids=str)
def test_refuses_what_is_no_number_of_models(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(targets|shadows)=.*: expected an integer >= [14]; "):
        Cascading(**settings)
