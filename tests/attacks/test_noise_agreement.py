from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from palisade.attacks import Correctness, NoiseAgreement, View
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_MODELS, FLEET_RECORDS, FEATURE_COUNT = 8, 200, 6


class Neighbors:
    """Nearest-neighbor classifiers of noisy labels: of their members, or of other records that look the same."""

    def __init__(self, seed: int = 0, trained: bool = True, binary: bool = False):
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal((2, FLEET_RECORDS, FEATURE_COUNT * (5 if binary else 1)))
        self.x, other = (drawn > 0).astype(np.float32) if binary else drawn
        self.y, others = rng.integers(2, size=(2, FLEET_RECORDS))
        self.members = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
        learnt, answers = (self.x, self.y) if trained else (other, others)
        self.models = [KNeighborsClassifier(1, algorithm="brute").fit(learnt[m], answers[m]) for m in self.members]
        self.asked = 0

    def __call__(self, model: int, x: np.ndarray) -> np.ndarray:
        self.asked += len(x)
        return self.models[model].predict(x)

    def view(self) -> View:
        predictions = np.stack([self(model, self.x) for model in range(FLEET_MODELS)])
        return View(predictions=predictions, labels=self.y, membership=self.members, features=self.x, query=self)


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


@pytest.mark.parametrize("binary", [False, True])
def test_labels_of_disturbed_copies_tell_more_than_one_label(binary: bool) -> None:
    view = Neighbors(binary=binary).view()
    attack = NoiseAgreement(strengths=(0.02, 0.1, 0.3))
    assert mean_auc(attack.score(view), view) > mean_auc(Correctness().score(view), view) + 0.02


def test_finds_nothing_where_nothing_is() -> None:
    view = Neighbors(1, trained=False).view()
    assert mean_auc(NoiseAgreement(copies=4).score(view), view) == pytest.approx(0.5, abs=0.05)


def test_equals_the_definition_one_record_at_a_time() -> None:
    """A strength at a time; 300 records of 20 copies take two batches."""
    rng = np.random.default_rng(0)
    x, member = rng.standard_normal((300, 2)), rng.random((3, 300)) < 0.5
    seen: list[np.ndarray] = []

    def query(model: int, points: np.ndarray) -> np.ndarray:
        seen.append(points)
        return (points[:, 0] > model).astype(int)

    view = View(predictions=np.zeros((3, 300), int), labels=np.zeros(300, int), membership=member, features=x)
    scores = NoiseAgreement(strengths=(0.5,), copies=20).score(replace(view, query=query))
    plain = [block for block in seen if len(block) < 1000]
    copies = [block.reshape(-1, 20, 2) for block in seen if len(block) >= 1000]
    np.testing.assert_array_equal(np.concatenate(plain[::3]), x)
    first, second = copies[0][:50] - x[:50, None], copies[3][:50] - x[-len(copies[3]) :][:50, None]
    assert (first != second).all(), "every record has noise of its own"
    for model in range(3):
        np.testing.assert_array_equal(copies[model], copies[0], err_msg="all models are shown the same copies")
        answers = np.concatenate(copies[model::3])[:, :, 0] <= model
        expected = [(np.sum(row) + (own[0] <= model)) / 21 for row, own in zip(answers, x, strict=True)]
        np.testing.assert_allclose(scores[model], expected)


def test_asks_no_more_than_it_declares() -> None:
    fleet = Neighbors()
    view, before = fleet.view(), fleet.asked
    attack = NoiseAgreement(strengths=(0.1, 0.5), copies=3)
    assert attack.run(view).queries == attack.threat.queries == 7
    assert fleet.asked - before == 7 * FLEET_MODELS * FLEET_RECORDS


def test_most_records_are_asked_at_the_chosen_strength_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of a trial on all records, wherever noise comes from the same place."""
    monkeypatch.setattr(
        "palisade.attacks.parts.perturbed_copies.perturbations",
        lambda features, strengths, moves: [lambda x, rng, at=strength: x + at for strength in strengths],
    )
    whole, fleet = NoiseAgreement(strengths=(0.1, 0.5, 0.9), copies=3), Neighbors()
    view, expected = fleet.view(), whole.score(fleet.view())
    monkeypatch.setattr("palisade.attacks.parts.perturbed_copies.TRIAL_RECORDS", 150)
    before = fleet.asked
    scored = whole.run(view)
    assert fleet.asked - before == FLEET_MODELS * (FLEET_RECORDS + 9 * 150 + 3 * 50)
    assert scored.queries == (fleet.asked - before) / (FLEET_MODELS * FLEET_RECORDS) < whole.threat.queries
    same = (scored.scores == expected).all(axis=1)
    assert same.mean() >= 0.5, "others may choose another strength"
    monkeypatch.setattr("palisade.attacks.parts.perturbed_copies.TRIAL_RECORDS", 50)
    with monkeypatch.context() as patched:
        patched.setattr("palisade.attacks.noise_agreement.most_telling", lambda *trial: np.zeros(FLEET_MODELS, int))
        alone = NoiseAgreement(strengths=(0.1,), copies=3).score(view)
        np.testing.assert_array_equal(whole.score(view), alone)


def test_the_strength_is_chosen_on_the_shadows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two strengths, the first works for model 0 only, the second for all others only."""
    view = Neighbors().view()
    agreement = np.random.default_rng(0).random((2, FLEET_MODELS, FLEET_RECORDS))
    agreement[0, 0], agreement[1, 1:] = view.membership[0], view.membership[1:]
    monkeypatch.setattr(NoiseAgreement, "_votes", lambda self, view, ways, records, asked: agreement[:, :, records])
    np.testing.assert_array_equal(NoiseAgreement(strengths=(0.1, 0.5)).score(view), agreement[1] / 17)


def test_a_target_has_no_part_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first strength is perfect for the target and useless elsewhere, the second helps the others a little."""
    view = Neighbors().view()
    agreement = np.random.default_rng(0).random((2, FLEET_MODELS, FLEET_RECORDS))
    agreement[0, 0] = view.membership[0]
    agreement[1, 1:] += 0.05 * view.membership[1:]
    monkeypatch.setattr(NoiseAgreement, "_votes", lambda self, view, ways, records, asked: agreement[:, :, records])
    np.testing.assert_array_equal(NoiseAgreement(strengths=(0.1, 0.5)).score(view)[0], agreement[1, 0] / 17)


def test_a_targets_membership_never_enters_its_scores() -> None:
    view = Neighbors().view()
    before = NoiseAgreement(copies=4).score(view)
    for groups in (None, np.arange(FLEET_MODELS) // 2):
        member = view.membership.copy()
        member[2:4] = ~member[2:4] if groups is not None else [~member[2], member[3]]
        after = NoiseAgreement(copies=4).score(replace(view, membership=member, groups=groups))
        np.testing.assert_array_equal(before[2], after[2])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"strengths=\[0.1, 1.5\]: expected a list of at least 1, each a "):
        NoiseAgreement(strengths=(0.1, 1.5))
    with pytest.raises(ValueError, match=r"strengths=\[\]"):
        NoiseAgreement(strengths=())
    with pytest.raises(ValueError, match="copies=0"):
        NoiseAgreement(copies=0)
