from dataclasses import replace

import numpy as np
import pytest

from palisade.attacks import LossThreshold, NegatedClassifier, ThreatModel, View
from palisade.attacks.parts.granted import Granted
from palisade.evaluation.statistics.metrics import roc_auc

FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT = 8, 300, 4
GUARD_NEEDED = "needs a guard to look behind; train the run again with guard=<name>"


def leaky(seed: int, effect: float = 2.0) -> View:
    """Members are surer of their class; nothing guards them."""
    rng = np.random.default_rng(seed)
    member, labels = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5, rng.integers(CLASS_COUNT, size=FLEET_RECORDS)
    logits = rng.standard_normal((FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT))
    logits[:, np.arange(FLEET_RECORDS), labels] += 4 + effect * member
    plain = logits.astype(np.float32)
    return View(logits=plain, labels=labels, membership=member, unguarded_logits=plain)


def fooling(view: View) -> View:
    """A guard that gives sure answers an unsure look, a little beyond the middle, and the other way round."""
    middle = np.median(view.log_odds)
    changed = view.logits.copy()
    changed[:, np.arange(view.records), view.labels] -= 1.3 * (view.log_odds[:, :, 0] - middle)
    return replace(view, logits=changed)


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


def test_a_guard_that_fools_classifiers_is_turned_against_itself() -> None:
    view = fooling(leaky(0))
    assert mean_auc(LossThreshold().score(view), view) < 0.45, "the guard seems to work"
    assert mean_auc(NegatedClassifier().score(view), view) > 0.6


def test_nothing_is_negated_where_nothing_is_fooled() -> None:
    view = leaky(0)
    assert mean_auc(NegatedClassifier().score(view), view) > 0.8


def test_finds_nothing_where_nothing_is() -> None:
    view = fooling(leaky(1, effect=0.0))
    assert mean_auc(NegatedClassifier().score(view), view) == pytest.approx(0.5, abs=0.04)


def test_what_a_target_says_without_its_guard_is_never_used() -> None:
    view = fooling(leaky(2))
    seen = view.unguarded_logits.copy()
    seen[3] = np.random.default_rng(0).standard_normal(seen[3].shape)
    other = NegatedClassifier().score(replace(view, unguarded_logits=seen))
    expected = NegatedClassifier().score(view)
    np.testing.assert_array_equal(other[3], expected[3])
    assert not np.array_equal(other, expected), "as a shadow it counts"


def test_needs_a_guard_and_more_than_labels() -> None:
    view = leaky(0)
    bare = replace(view, unguarded_logits=None)
    assert NegatedClassifier().missing(bare) == GUARD_NEEDED
    hard = replace(view, logits=None, predictions=view.logits.argmax(-1))
    assert "only labels are released" in str(NegatedClassifier().missing(hard))
    assert NegatedClassifier.threat.describe() == "top-k, shadows (IN and OUT), shadows without guard"


def test_others_may_not_look_behind_the_guard() -> None:
    with pytest.raises(ValueError, match=r"view\.unguarded_logits is beyond .*; declare unguarded_shadows"):
        _ = Granted(leaky(0), ThreatModel(outputs="logits", shadows="online")).unguarded_logits


def test_unguarded_answers_belong_to_the_same_records() -> None:
    with pytest.raises(ValueError, match=r"unguarded_logits\.shape=\(8, 299, 4\): expected"):
        replace(leaky(0), unguarded_logits=leaky(0).logits[:, 1:])
