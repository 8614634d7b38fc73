import numpy as np
import pytest

from palisade.attacks import Correctness, View
from palisade.evaluation.statistics.metrics import Called


@pytest.mark.parametrize("queries", [(), (3,)])
def test_balanced_accuracy_is_half_plus_half_the_generalization_gap(queries: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels, membership = rng.integers(5, size=200), rng.random((6, 200)) < 0.5
    fitted = rng.random((6, 200)) < np.where(membership, 0.9, 0.6)
    predictions = np.where(fitted, labels, (labels + 1) % 5)
    if queries:  # only query 0 is the record itself
        predictions = np.stack([predictions, *rng.integers(5, size=(2, 6, 200))], axis=-1)
    scores = Correctness().score(View(predictions=predictions, labels=labels, membership=membership))
    for score, members, correct in zip(scores, membership, fitted, strict=True):
        gap = correct[members].mean() - correct[~members].mean()
        assert Called.at(score, members, 1.0).balanced_accuracy().value == 0.5 + gap / 2
