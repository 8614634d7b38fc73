"""Joint LiRA: blocked sums are the naive ones, no target tells on itself, and neighbors explain what they move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from palisade.attacks import JointLiRA, LiRA, View, joint_lira
from palisade.attacks.lira import lira_scores
from palisade.attacks.parts.similarity import KERNEL_POWERS, Similarities
from palisade.evaluation.statistics.metrics import roc_auc


def drawn(seed: int, models: int, records: int, classes: int = 3, clusters: int = 20) -> View:
    """Clusters of similar records, and models that did not look at any of them."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(clusters, size=records)
    x = rng.normal(size=(clusters, 12))[cluster] + 0.5 * rng.normal(size=(records, 12))
    phi = rng.normal(size=(models, records))
    membership = rng.random((models, records)) < 0.5
    return of_phi(phi, membership, x.astype(np.float32), cluster % classes)


def of_phi(phi: np.ndarray, membership: np.ndarray, x: np.ndarray, y: np.ndarray) -> View:
    classes = np.arange(max(2, y.max() + 1))
    logits = np.where(classes == y[:, None], phi[..., None], 0.0)
    return View(logits=logits, labels=y, membership=membership, features=x)


def naive_kernels(x: np.ndarray, y: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """(kernels, records, records), one pair of records at a time."""
    kernels = np.zeros((4 * len(KERNEL_POWERS) + 1, len(x), len(x)))
    for i, j in np.ndindex(len(x), len(x)):
        if persons[i] == persons[j]:
            continue
        same, powers = y[i] == y[j], []
        for z in (x, x - x.mean(axis=0)):
            lengths = np.linalg.norm(z[i]) * np.linalg.norm(z[j])
            cosine = max(z[i] @ z[j] / lengths, 0.0) if lengths > 0 else 0.0
            for power in KERNEL_POWERS:
                powers += [cosine**power * same, cosine**power * (not same)]
        kernels[:, i, j] = [*powers, same]
    return kernels


def naive_scores(view: View, persons: np.ndarray) -> np.ndarray:
    """One target at a time, with whole matrices and a general least squares."""
    phi, kernels = view.log_odds[..., 0], naive_kernels(view.features.astype(np.float64), view.labels, persons)
    scores = LiRA().score(replace(view, persons=None))
    for target, others in enumerate(view.others):
        members = view.membership[others]
        sums = np.einsum("mj,kij->mik", members.astype(np.float64), kernels)
        explained, unexplained = sums.copy(), phi[others].copy()
        for i, side in np.ndindex(view.records, 2):
            rows = members[:, i] == side
            if rows.any():
                explained[rows, i] -= explained[rows, i].mean(axis=0)
                unexplained[rows, i] -= unexplained[rows, i].mean()
        a, b = explained.reshape(-1, sums.shape[-1]), unexplained.ravel()
        scale = a.std(axis=0) + 1e-12
        ridge = np.sqrt(1e-5 * len(a)) * np.eye(len(scale))
        slope = np.linalg.lstsq(np.vstack([a / scale, ridge]), np.append(b, np.zeros(len(scale))))[0] / scale
        rest = phi.copy()
        rest[others] -= sums @ slope
        for _ in range(2):
            posterior = np.where(np.isnan(scores[target]), 0.5, expit(0.8 * scores[target]))
            rest[target] = phi[target] - np.einsum("kij,j,k->i", kernels, posterior, slope)
            scores[target] = lira_scores(rest, view.membership, view.others)[target]
    return scores


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6), records=st.integers(1, 30), block=st.integers(1, 40), classes=st.integers(1, 4),
    persons=st.sampled_from([None, 2, 10]),
)  # fmt: skip
def test_blocked_sums_are_those_of_whole_matrices(seed, records, block, classes, persons):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(records, 5)), rng.integers(classes, size=records)
    x[0] = 0  # has no direction
    who = None if persons is None else rng.integers(persons, size=records)
    weights = rng.normal(size=(3, records))
    sums = Similarities(features=x, labels=y, persons=who, block=block).sums(weights)
    expected = np.einsum("mj,kij->mik", weights, naive_kernels(x, y, np.arange(records) if who is None else who))
    np.testing.assert_allclose(sums, expected, atol=1e-4)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("families", [False, True])
def test_scores_are_those_of_one_target_at_a_time(paired: bool, families: bool):
    view = interacting(3, models=8, records=60)
    persons = np.arange(60) // 3 if families else np.arange(60)
    grouped = replace(view, groups=np.arange(8) // 2 if paired else None, persons=persons if families else None)
    np.testing.assert_allclose(JointLiRA().score(grouped), naive_scores(grouped, persons), atol=5e-3)


def interacting(seed: int, models: int = 16, records: int = 400) -> View:
    """A record is easier where it, or a similar one of its class, was trained on."""
    view = drawn(seed, models, records, clusters=records // 5)
    kernels = naive_kernels(view.features.astype(np.float64), view.labels, np.arange(records))
    pull = view.membership.astype(np.float64) @ kernels[2 * KERNEL_POWERS.index(4)].T
    return of_phi(
        0.5 * view.log_odds[..., 0] + 2.0 * view.membership + pull, view.membership, view.features, view.labels
    )


def mean_auc(scores: np.ndarray, members: np.ndarray) -> float:
    known = ~np.isnan(scores)
    return float(np.mean([roc_auc(s[k], m[k]) for s, m, k in zip(scores, members, known, strict=True)]))


@pytest.mark.slow
def test_what_similar_records_explain_is_separated_from_membership():
    view = interacting(1)
    plain, joint = (mean_auc(attack.score(view), view.membership) for attack in (LiRA(), JointLiRA()))
    assert 1 - joint < 0.85 * (1 - plain)


def null_auc() -> float:
    """The mean AUC on targets whose memberships have nothing to do with how they answer, among shadows that leak."""
    rng = np.random.default_rng(5)
    models, records = 10, 200
    membership, y = rng.random((models, records)) < 0.5, np.zeros(records, dtype=np.int64)
    others = membership.sum(axis=1, keepdims=True) - membership  # of one's class: all but oneself
    phi = 0.5 * others + 1.0 * membership + 0.3 * rng.normal(size=(models, records))
    x = rng.normal(size=(records, 50)).astype(np.float32)
    aucs = []
    for target in range(models):
        unrelated = membership.copy()
        unrelated[target] = rng.permutation(membership[target])
        scores = JointLiRA(rounds=1).score(of_phi(phi, unrelated, x, y))[target]
        aucs.append(mean_auc(scores[None], unrelated[[target]]))
    return float(np.mean(aucs))


def test_memberships_that_models_know_nothing_of_are_not_detected():
    assert abs(null_auc() - 0.5) < 0.04


def test_the_null_finds_a_target_that_is_corrected_by_its_own_membership(monkeypatch: pytest.MonkeyPatch):
    score = JointLiRA._score

    def knowing(self: JointLiRA, view: View) -> np.ndarray:
        members = view.membership
        monkeypatch.setattr(joint_lira, "expit", lambda _: members.astype(np.float64))
        return score(self, view)

    monkeypatch.setattr(JointLiRA, "_score", knowing)
    assert abs(null_auc() - 0.5) > 0.1


def test_a_sample_of_the_targets_gets_the_scores_that_it_gets_among_all():
    view = interacting(1, models=6, records=80)
    sampled = JointLiRA(targets=2).score(view)
    np.testing.assert_allclose(sampled[:2], JointLiRA().score(view)[:2], rtol=1e-5, atol=1e-5)
    assert np.isnan(sampled[2:]).all() and not np.isnan(sampled[:2]).all()
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"targets=.*: expected an integer >= 1, or null; "):
            JointLiRA(targets=wrong)
    with pytest.raises(ValueError, match="rounds=0"):
        JointLiRA(rounds=0)


def test_more_records_than_it_has_time_for_are_skipped_with_the_setting_that_admits_them():
    view = interacting(1, models=4, records=40)
    assert "attack.joint_lira.records=40" in (JointLiRA(records=39).missing(view) or "")
    assert JointLiRA(records=40).missing(view) is JointLiRA(records=None).missing(view) is None


def test_records_in_equally_many_models_give_the_target_away():
    rng = np.random.default_rng(0)
    balanced = rng.permuted(np.tile([[True], [False]], (4, 50)), axis=0)
    view = replace(drawn(0, 8, 50), membership=balanced)
    assert "drawn independently" in (JointLiRA().missing(view) or "")
    halves = rng.random((4, 50)) < 0.5
    complementary = np.stack([halves, ~halves], axis=1).reshape(8, 50)
    paired = replace(view, membership=complementary, groups=np.arange(8) // 2)
    assert JointLiRA().missing(paired) is None
    assert "drawn independently" in (JointLiRA().missing(replace(paired, groups=None)) or "")


def test_images_are_alike_by_the_hidden_layers_of_four_shadows_and_never_by_the_targets_own():
    view = interacting(2, models=8, records=60)
    rng = np.random.default_rng(0)
    images = replace(view, features=rng.normal(size=(60, 1, 3, 3)).astype(np.float32))
    assert "last hidden layer" in (JointLiRA().missing(images) or "")
    hidden = rng.normal(size=(6, 60, 5)).astype(np.float32)
    scores = JointLiRA().score(replace(images, shadow_features=hidden))
    for model in range(6):
        changed = hidden.copy()
        changed[model] = rng.normal(size=(60, 5))
        others = JointLiRA().score(replace(images, shadow_features=changed))
        same = (np.nan_to_num(others) == np.nan_to_num(scores)).all(axis=1)
        assert same.tolist() == [target == model or model >= 4 + (target < 4) for target in range(8)]
    with pytest.raises(ValueError, match=r"shadow_features\.shape"):
        replace(view, shadow_features=hidden[0])
