import numpy as np
import pytest

from palisade.attacks import AugmentationAgreement, Correctness, View
from palisade.evaluation.statistics.metrics import roc_auc


def test_counts_the_right_answers() -> None:
    labels, member = np.array([0, 1]), np.array([[True, False]])
    predictions = np.array([[[0, 0, 1, 0], [1, 0, 0, 0]]])
    view = View(predictions=predictions, labels=labels, membership=member)
    np.testing.assert_array_equal(AugmentationAgreement().score(view), [[0.75, 0.25]])
    assert AugmentationAgreement().run(view).queries == 4


def test_copies_tell_more_than_the_record_alone() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((4, 1000)) < 0.5
    right = rng.random((4, 1000, 6)) < np.where(member, 0.9, 0.7)[:, :, None]
    view = View(predictions=1 - right.astype(int), labels=np.zeros(1000, int), membership=member)
    copies, alone = (attack.score(view) for attack in (AugmentationAgreement(), Correctness()))
    for own, single, truth in zip(copies, alone, member, strict=True):
        assert roc_auc(own, truth) > roc_auc(single, truth) + 0.1


def test_one_query_is_not_enough() -> None:
    view = View(logits=np.zeros((1, 2, 3)), labels=np.array([0, 1]), membership=np.ones((1, 2), bool))
    reason = "needs augmented copies of the records; set queries=[plain,mirrored,left]"
    assert AugmentationAgreement().missing(view) == reason
    with pytest.raises(ValueError, match=r"attack=augmentation_agreement: expected .* needs augmented copies"):
        AugmentationAgreement().score(view)
