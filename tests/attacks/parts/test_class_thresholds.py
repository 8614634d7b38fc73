import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.attacks import Confidence, Entropy, LossThreshold, ModifiedEntropy, View
from palisade.attacks.parts.thresholds import Threshold, class_thresholds
from palisade.evaluation.statistics.metrics import Called, accuracy_estimate, roc_auc, tpr_at_fpr

THRESHOLD_ATTACKS = (LossThreshold, Confidence, Entropy, ModifiedEntropy)


def naive(signal: np.ndarray, labels: np.ndarray, member: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The definition: of every target and class, all shadows' values tried one after the other."""
    models, records = signal.shape
    thresholds = np.full((models, records), np.nan)
    for k, x in np.ndindex(models, records):
        shadows = group != group[k]
        for records_alike in (labels == labels[x], np.full(records, True)):
            values, inside = signal[shadows][:, records_alike], member[shadows][:, records_alike]
            if not (inside.any() and (~inside).any()):
                continue
            best = -1
            for value in sorted(set(values.ravel()), reverse=True):
                true, false = int((values[inside] >= value).sum()), int((values[~inside] >= value).sum())
                gain = true * int((~inside).sum()) - false * int(inside.sum())
                if gain > best:
                    best, thresholds[k, x] = gain, value
            break
    return thresholds


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_thresholds_equal_the_search_over_all_values(data: st.DataObject) -> None:
    models, records, classes = (data.draw(st.integers(2, most)) for most in (5, 9, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    member, labels = rng.random((models, records)) < 0.4, rng.integers(classes, size=records)
    signal = rng.standard_normal((models, records)).round(data.draw(st.sampled_from([0, 1, 9]))) + member
    group = rng.integers(models, size=models) if data.draw(st.booleans()) else np.arange(models)
    learned = class_thresholds(signal, labels, member, group[:, None] != group)
    np.testing.assert_array_equal(learned, naive(signal, labels, member, group))


def test_a_class_without_members_or_nonmembers_takes_the_global_threshold() -> None:
    rng = np.random.default_rng(0)
    labels, member = np.repeat([0, 1, 2], 20), rng.random((5, 60)) < 0.5
    member[:, labels == 1], member[:, labels == 2] = True, False
    signal, others = rng.standard_normal((5, 60)) + 2 * member, ~np.eye(5, dtype=bool)
    learned = class_thresholds(signal, labels, member, others)
    alone = class_thresholds(signal[:, labels == 0], np.zeros(20, int), member[:, labels == 0], others)
    together = class_thresholds(signal, np.zeros(60, int), member, others)
    np.testing.assert_array_equal(learned, np.where(labels == 0, alone[:, :1], together))
    assert np.isnan(class_thresholds(signal, labels, np.ones_like(member), others)).all()


def fleet(seed: int, models: int, records: int, effect: float, classes: int = 4) -> View:
    """Random logits of classes of different difficulty, in which training favors the true class."""
    rng = np.random.default_rng(seed)
    labels, member = rng.integers(classes, size=records), rng.random((models, records)) < 0.5
    logits = rng.standard_normal((models, records, classes))
    logits[:, np.arange(records), labels] += 3 * labels + effect * member
    return View(logits=logits, labels=labels, membership=member)


@pytest.mark.parametrize("attack", THRESHOLD_ATTACKS)
def test_zero_is_the_decision_learnt_on_shadows(attack: type[Threshold]) -> None:
    view = fleet(0, 8, 2000, 2.0)
    raw, scores = attack(per_class=False).score(view), attack(per_class=True).score(view)
    thresholds = class_thresholds(raw, view.labels, view.membership, view.others)
    np.testing.assert_array_equal(scores >= 0, raw >= thresholds)
    for score, alone, members in zip(scores, raw, view.membership, strict=True):
        at_zero = Called.at(score, members, 0.0).balanced_accuracy().value
        assert at_zero > accuracy_estimate(alone, members).value - 0.01
    assert auc(scores, view) > auc(raw, view) + 0.02, "classes differ in difficulty"


def auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


@pytest.mark.parametrize("attack", THRESHOLD_ATTACKS)
@pytest.mark.parametrize("per_class", [False, True])
def test_a_targets_membership_never_enters_its_scores(attack: type[Threshold], per_class: bool) -> None:
    view = fleet(0, 5, 60, 1.0)
    flipped = view.membership.copy()
    flipped[3] = ~flipped[3]
    other = View(logits=view.logits, labels=view.labels, membership=flipped)
    threshold_attack = attack(per_class=per_class)
    np.testing.assert_array_equal(threshold_attack.score(view)[3], threshold_attack.score(other)[3])


def test_twins_are_left_out_together() -> None:
    view = fleet(0, 6, 60, 1.0)
    paired = View(logits=view.logits, labels=view.labels, membership=view.membership, groups=np.arange(6) // 2)
    without = View(logits=view.logits[1:], labels=view.labels, membership=view.membership[1:])
    lone = LossThreshold(per_class=True).score(without)
    alone = LossThreshold(per_class=True).score(view)
    np.testing.assert_array_equal(
        LossThreshold(per_class=True).score(paired)[1], lone[0], err_msg="model 1 has no shadow in model 0"
    )
    assert (alone[1] != lone[0]).any()


NULL_FLEETS = 40


def null_accuracy(*, own_fit: bool) -> np.ndarray:
    """Balanced accuracy at threshold 0 of fleets on which training has no effect."""
    accuracies = []
    for seed in range(NULL_FLEETS):
        view = fleet(seed, 3, 400, 0.0, classes=20)
        if own_fit:
            view.__dict__["others"] = np.ones((3, 3), dtype=bool)
        rows = zip(LossThreshold(per_class=True).score(view), view.membership, strict=True)
        accuracies.append(np.mean([Called.at(*row, 0.0).balanced_accuracy().value for row in rows]))
    return np.array(accuracies)


def test_without_an_effect_learnt_thresholds_guess() -> None:
    accuracies = null_accuracy(own_fit=False)
    assert abs(accuracies.mean() - 0.5) < 4 * accuracies.std() / np.sqrt(NULL_FLEETS)


def test_null_test_catches_thresholds_learnt_on_the_target() -> None:
    assert null_accuracy(own_fit=True).mean() > 0.53


@pytest.mark.parametrize("attack", THRESHOLD_ATTACKS)
@pytest.mark.parametrize("per_class", [False, True])
def test_null_fleets_give_guessing(attack: type[Threshold], per_class: bool) -> None:
    threshold_attack, rates = attack(per_class=per_class), []
    for seed in range(20):
        view = fleet(seed, 6, 800, 0.0)
        rows = list(zip(threshold_attack.score(view), view.membership, strict=True))
        rates.append((auc(threshold_attack.score(view), view), np.mean([tpr_at_fpr(*row, 0.05) for row in rows])))
    error = np.std(rates, axis=0) / np.sqrt(len(rates))
    assert (np.abs(np.mean(rates, axis=0) - [0.5, 0.05]) < np.maximum(4 * error, 0.003)).all()


@pytest.mark.parametrize("attack", THRESHOLD_ATTACKS)
def test_shadows_are_needed_only_for_classes(attack: type[Threshold]) -> None:
    assert attack(per_class=False).threat.shadows == "none"
    assert attack(per_class=True).threat.shadows == "online"
    with pytest.raises(ValueError, match=rf"attack={attack.name}: expected .* needs models that did .* models=1"):
        attack(per_class=True).score(fleet(0, 1, 20, 0.0))
    assert np.isfinite(attack(per_class=False).score(fleet(0, 1, 20, 0.0))).all()
