import numpy as np
import pytest

from palisade.attacks import LossThreshold, ShadowClassifier, View
from palisade.evaluation.statistics.metrics import roc_auc


def simulated(seed: int, effect: float, models: int = 10, records: int = 600) -> View:
    """Members get surer answers; some classes are easier than others, which the loss alone cannot know."""
    rng = np.random.default_rng(seed)
    member, labels = rng.random((models, records)) < 0.5, rng.integers(4, size=records)
    logits = rng.standard_normal((models, records, 4))
    logits[:, np.arange(records), labels] += 2 * labels + effect * member
    return View(logits=logits.astype(np.float32), labels=labels, membership=member)


def mean_auc(scores: np.ndarray, view: View) -> float:
    return float(np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]))


def test_learns_what_each_class_looks_like() -> None:
    view = simulated(0, 2.0)
    auc, loss = mean_auc(ShadowClassifier().score(view), view), mean_auc(LossThreshold().score(view), view)
    assert auc > loss + 0.05, "one threshold for all classes is beaten"
    assert auc > 0.8


def test_finds_nothing_where_nothing_is() -> None:
    view = simulated(1, 0.0)
    assert mean_auc(ShadowClassifier().score(view), view) == pytest.approx(0.5, abs=0.02)


def test_twins_are_left_out_together() -> None:
    view = simulated(1, 0.0, models=8)
    member = view.membership.copy()
    member[1::2] = ~member[::2]
    twins = View(logits=view.logits, labels=view.labels, membership=member, groups=np.arange(8) // 2)
    assert mean_auc(ShadowClassifier().score(twins), twins) == pytest.approx(0.5, abs=0.02)


def test_needs_shadows_and_more_than_labels() -> None:
    view = simulated(0, 1.0, models=1)
    assert "too few" in str(ShadowClassifier().missing(view))
    hard = View(
        predictions=simulated(0, 1.0).logits.argmax(-1), labels=view.labels, membership=np.ones((10, 600), bool)
    )
    assert "only labels are released" in str(ShadowClassifier().missing(hard))
    assert ShadowClassifier.threat.describe() == "top-k, true label, shadows (IN and OUT)"
