"""Label smoothing is cross-entropy with labels of which every class has a share."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from palisade.data.loaders import Batch
from palisade.defenses.label_smoothing import LabelSmoothing


def batch_of(y, targets=None) -> Batch:
    return Batch(torch.zeros(*y.shape, 4), y, torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y), targets)


def test_closed_form_by_hand():
    """Logits 0, log 2 have probabilities 1/3, 2/3; with a = 0.2 the label of class 0 is (0.9, 0.1)."""
    losses = LabelSmoothing(amount=0.2).loss(torch.tensor([[0.0, math.log(2)]]), batch_of(torch.tensor([0])), 0)
    assert losses.tolist() == pytest.approx([-0.9 * math.log(1 / 3) - 0.1 * math.log(2 / 3)])


@pytest.mark.parametrize("amount", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_equals_the_smoothing_of_torch(amount, shape):
    logits, y = torch.randn(*shape, 7), torch.randint(7, shape)
    expected = cross_entropy(logits.view(-1, 7), y.flatten(), reduction="none", label_smoothing=amount).view(shape)
    torch.testing.assert_close(LabelSmoothing(amount=amount).loss(logits, batch_of(y), 0), expected)


def test_soft_labels_are_smoothed_themselves():
    logits, y, soft = torch.randn(2, 3, 4), torch.randint(4, (2, 3)), torch.rand(2, 3, 4).softmax(-1)
    expected = -((0.7 * soft + 0.3 / 4) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(LabelSmoothing(amount=0.3).loss(logits, batch_of(y, soft), 0), expected)


@pytest.mark.parametrize("amount", [0, 1, 1.2, -0.1, float("nan")])
def test_amount_is_a_share(amount):
    with pytest.raises(ValueError, match=rf"amount={amount}"):
        LabelSmoothing(amount=amount)


def test_strength():
    assert LabelSmoothing(amount=0.2).strength == 0.2
