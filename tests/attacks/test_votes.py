from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from palisade.attacks import Correctness, NoiseAgreement, View, Votes
from palisade.attacks.lira import PRIOR_MODELS
from palisade.attacks.parts import blocks
from palisade.attacks.votes import best_calibrated, vote_log_odds
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_MODELS, FLEET_RECORDS, FEATURE_COUNT, CLASS_COUNT = 16, 240, 8, 4

Kind = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
ATTACK_KINDS: dict[str, Kind] = {
    "numbers": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "bits": lambda rng, shape: (rng.random(shape) < 0.4).astype(np.float32),
    "tokens": lambda rng, shape: rng.integers(2, 9, size=shape),
    "images": lambda rng, shape: rng.standard_normal((*shape[:-1], 1, 2, shape[-1] // 2)).astype(np.float32),
}


class Memorizers:
    """Linear classifiers that give a member's class `effect` more, the more so the nearer an input is to it.

    What a record's class gets anyway differs between records: some are always right, others never.
    """

    def __init__(self, seed: int, effect: float = 2.0, kind: str = "numbers"):
        rng = np.random.default_rng(seed)
        self.x = ATTACK_KINDS[kind](rng, (FLEET_RECORDS, FEATURE_COUNT))
        self.y = rng.integers(CLASS_COUNT, size=FLEET_RECORDS)
        self.members = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
        shared = rng.normal(size=(FEATURE_COUNT, CLASS_COUNT)) * 0.5
        self.weights = shared + 0.2 * rng.normal(size=(FLEET_MODELS, FEATURE_COUNT, CLASS_COUNT))
        self.easy = rng.normal(scale=2.0, size=FLEET_RECORDS)
        self.effect, self.asked = effect, np.zeros(FLEET_MODELS)

    def __call__(self, model: int, x: np.ndarray) -> np.ndarray:
        self.asked[model] += len(x)
        center, spread = self.x.mean(axis=0), self.x.std(axis=0)
        flat, known = (((part - center) / spread).reshape(len(part), -1) for part in (x, self.x))
        squares = (flat**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * flat @ known.T
        pull = np.exp(-squares) * (self.easy + self.effect * self.members[model])
        scores: np.ndarray = flat @ self.weights[model] + pull @ np.eye(CLASS_COUNT)[self.y]
        return scores.argmax(axis=1)

    def view(self) -> View:
        predictions = np.stack([self(model, self.x) for model in range(FLEET_MODELS)])
        return View(predictions=predictions, labels=self.y, membership=self.members, features=self.x, query=self)


def mean_auc(scores: np.ndarray, membership: np.ndarray) -> float:
    known = ~np.isnan(scores)
    return float(np.mean([roc_auc(s[k], m[k]) for s, m, k in zip(scores, membership, known, strict=True)]))


def naive(votes: np.ndarray, copies: int, membership: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Online LiRA with shrunk variances on the log-odds of votes, one target and record at a time."""
    phi = np.log((votes + 0.5) / (copies + 1 - votes + 0.5))
    scores = np.full(phi.shape, np.nan)
    for k, shadows in enumerate(others):
        sides = []
        for member in (True, False):
            of = [phi[shadows & (membership[:, i] == member), i] for i in range(phi.shape[1])]
            freedom = sum(max(len(values) - 1, 0) for values in of)
            within = sum(float(((values - values.mean()) ** 2).sum()) for values in of if len(values))
            sides.append((of, within / freedom if freedom else None))
        pooled_in, pooled_out = sides[0][1], sides[1][1]
        for i in range(phi.shape[1]):
            density = []
            for (of, own), other in zip(sides, (pooled_out, pooled_in), strict=True):
                values, pooled = of[i], next((p for p in (own, other) if p is not None), 1.0)
                if not len(values):
                    break
                freedom = PRIOR_MODELS + len(values) - 1
                posterior = (PRIOR_MODELS * pooled + ((values - values.mean()) ** 2).sum()) / freedom
                scale = np.sqrt(max(posterior * (1 + 1 / len(values)), 1e-12))
                density.append(student.logpdf(phi[k, i], freedom, values.mean(), scale))
            if len(density) == 2:
                scores[k, i] = density[0] - density[1]
    return scores


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 7), st.integers(0, 3))
def test_equals_the_naive_loop(seed: int, models: int, copies: int) -> None:
    """A model's answer is a fixed function of the input, so the loop can ask again about the copies that were seen."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((9, 3)).astype(np.float32), rng.integers(2, size=9)
    weights, member = rng.normal(size=(models, 3)), rng.random((models, 9)) < 0.5
    member[0], member[1] = ~member[1], ~member[0]
    groups = np.where(np.arange(models) == 2, 1, np.arange(models))
    seen: dict[int, list[np.ndarray]] = {model: [] for model in range(models)}

    def query(model: int, points: np.ndarray) -> np.ndarray:
        seen[model].append(points)
        return (points @ weights[model] > 0).astype(int)

    predictions = (x @ weights.T > 0).T.astype(int)
    view = View(predictions=predictions, labels=labels, membership=member, features=x, query=query, groups=groups)
    attack = Votes(strengths=(0.5,), copies=copies)
    if attack.missing(view) is not None:
        return
    scores = attack.score(view)
    votes = (predictions == labels).astype(float)
    for model in range(models) if copies else ():
        plain, shown = seen[model]
        np.testing.assert_array_equal(plain, x)
        for i, copy in enumerate(shown):
            votes[model, i // copies] += (copy @ weights[model] > 0) == labels[i // copies]
    np.testing.assert_allclose(scores, naive(votes, copies, member, view.others), atol=1e-8)


@pytest.mark.slow
def test_not_below_what_is_not_calibrated() -> None:
    """Over 20 fleets, beside both other attacks on labels; one label is compared with one label."""
    gain = []
    for seed in range(20):
        view = Memorizers(seed).view()
        few = {"strengths": (0.1, 0.3), "copies": 4}
        attacks = (Votes(**few), NoiseAgreement(**few), Votes(copies=0), Correctness())
        votes, agreement, one, gap = (mean_auc(attack.score(view), view.membership) for attack in attacks)
        gain.append((votes - agreement, votes - gap, one - gap))
    error = np.std(gain, axis=0, ddof=1) / np.sqrt(len(gain))
    assert (np.mean(gain, axis=0) > -2 * error).all()
    assert np.mean(gain, axis=0)[1] > 0.03, "the fleet is such that copies tell more"


@pytest.mark.parametrize("kind", ATTACK_KINDS)
@pytest.mark.parametrize("effect", [3.0, 0.0])
def test_every_kind_of_records(kind: str, effect: float) -> None:
    fleet = Memorizers(0, effect=effect, kind=kind)
    scored = Votes(copies=4).run(fleet.view())
    assert scored.queries == 1 + 4 * (6 if kind == "images" else 4), "images are moved besides"
    auc = mean_auc(scored.scores, fleet.members)
    assert auc > 0.55 if effect else auc == pytest.approx(0.5, abs=4 * np.sqrt(1 / 3 / (FLEET_MODELS * FLEET_RECORDS)))


def test_noise_gives_nobody_away() -> None:
    """Few records, many strengths: one that was chosen by the target's own members would find them by chance."""
    aucs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        votes, member = rng.integers(6, size=(8, 8, 24)), rng.random((8, 24)) < 0.5
        strengths = tuple(np.linspace(0.1, 0.9, 8))
        view = View(
            predictions=np.zeros((8, 24), int), labels=np.zeros(24, int), membership=member, features=np.ones((24, 2)),
            query=lambda model, x: np.zeros(len(x), int),
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Votes, "_votes", lambda self, view, ways, records, asked, v=votes: v[:, :, records] * 1.0)
            aucs.append(mean_auc(Votes(strengths=strengths, copies=5).score(view), member))
    assert np.mean(aucs) == pytest.approx(0.5, abs=4 * np.std(aucs, ddof=1) / np.sqrt(len(aucs)))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_target_has_no_part_in_the_choice(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    phi, member = rng.normal(size=(6, 8, 40)), rng.random((8, 40)) < 0.5
    groups = np.arange(8) // 2 if grouped else np.arange(8)
    others = groups[:, None] != groups
    before = best_calibrated(phi, member, others)
    for target in range(8):
        own = groups == groups[target]
        phi_after, flipped = phi.copy(), np.where(own[:, None], ~member, member)
        phi_after[:, own] += 3 * flipped[own]
        assert best_calibrated(phi_after, flipped, others)[target] == before[target]


def test_the_strength_at_which_shadows_find_one_another() -> None:
    """Uncalibrated, the first strength looks as good as the second: its noise lies between records."""
    rng = np.random.default_rng(0)
    member = rng.random((12, 200)) < 0.5
    calibrated = 0.8 * member + rng.normal(scale=0.3, size=member.shape) + rng.normal(scale=3, size=200)
    plain = 0.8 * member + rng.normal(scale=1.5, size=member.shape)
    assert (best_calibrated(np.stack([plain, calibrated]), member, ~np.eye(12, dtype=bool)) == 1).all()


def test_one_label_asks_for_nothing_more() -> None:
    view = replace(Memorizers(0).view(), features=None, query=None)
    scored = Votes(copies=0).run(view)
    assert scored.queries == Votes(copies=0).threat.queries == 1
    assert len(np.unique(scored.scores)) > 2, "calibration tells right answers apart"
    assert "needs the records themselves" in str(Votes(copies=1).missing(view))
    assert (Votes(copies=0).name, Votes(copies=1).name) == ("calibrated_correctness", "votes")


def test_shadows_are_asked_what_the_target_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even those for which another strength was chosen: without their answers at its own nobody would be calibrated."""
    monkeypatch.setattr("palisade.attacks.parts.perturbed_copies.TRIAL_RECORDS", 100)
    monkeypatch.setattr("palisade.attacks.votes.best_calibrated", lambda *trial: np.arange(FLEET_MODELS) % 2)
    fleet = Memorizers(0)
    view = fleet.view()
    fleet.asked[:] = 0
    attack = Votes(strengths=(0.05, 0.1, 0.3), copies=3)
    scored = attack.run(view)
    assert (fleet.asked == FLEET_RECORDS + 100 * 3 * 3 + (FLEET_RECORDS - 100) * 2 * 3).all()
    assert scored.queries == fleet.asked.mean() / FLEET_RECORDS <= attack.threat.queries
    assert not np.isnan(scored.scores).any()


def test_votes_are_finite_and_symmetric() -> None:
    np.testing.assert_allclose(
        vote_log_odds(np.array([0, 1, 2, 3, 4]), 3), -vote_log_odds(np.array([4, 3, 2, 1, 0]), 3)
    )
    np.testing.assert_allclose(vote_log_odds(np.array([0.0, 1.0]), 0), [-np.log(3), np.log(3)])


def test_errors() -> None:
    with pytest.raises(ValueError, match="copies=-1"):
        Votes(copies=-1)
    with pytest.raises(ValueError, match=r"moves=\[0\]"):
        Votes(moves=(0,))


@pytest.mark.parametrize("numbers", [FLEET_MODELS * 3, FLEET_MODELS * 101, 2**22])
def test_records_with_the_same_votes_tie_whatever_the_block(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order differ in their last digits, which would break ties in somebody's favor."""
    rng = np.random.default_rng(0)
    right, members = rng.random((2, FLEET_MODELS, 12)) < 0.5
    of_record = rng.integers(12, size=997)
    view = View(
        predictions=np.where(right, 0, 1)[:, of_record],
        labels=np.zeros(997, dtype=int),
        membership=members[:, of_record],
    )
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", numbers)
    scores = Votes(copies=0).score(view)
    first = [np.argmax(of_record == kind) for kind in range(12)]
    np.testing.assert_array_equal(scores, scores[:, first][:, of_record])
