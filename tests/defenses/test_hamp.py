"""HAMP's soft labels have the entropy that was asked for, and its loss is KL − α·H."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palisade.data.loaders import Batch
from palisade.defenses.hamp import HAMP, confidence


def batch_of(y: torch.Tensor) -> Batch:
    return Batch(torch.zeros(*y.shape, 1), y, torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y))


@settings(deadline=None, max_examples=60)
@given(entropy=st.floats(0.001, 0.999), classes=st.integers(2, 200))
def test_soft_labels_have_the_entropy(entropy, classes):
    p = confidence(entropy, classes)
    label = [p, *[(1 - p) / (classes - 1)] * (classes - 1)]
    assert p > 1 / classes and sum(label) == pytest.approx(1)
    assert stats.entropy(label) == pytest.approx(entropy * math.log(classes), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), entropy=st.floats(0.05, 0.95), alpha=st.floats(0, 2), stacked=st.booleans())
def test_loss_is_the_divergence_less_the_entropy(seed, entropy, alpha, stacked):
    torch.manual_seed(seed)
    shape = (2, 3) if stacked else (6,)
    y, logits = torch.randint(4, shape), 3 * torch.randn(*shape, 4)
    losses = HAMP(entropy=entropy, alpha=alpha).loss(logits, batch_of(y), 0)
    assert losses.shape == shape
    p = confidence(entropy, 4)
    for loss, z, label in zip(losses.flatten(), logits.view(-1, 4), y.flatten(), strict=True):
        target = [p if c == label else (1 - p) / 3 for c in range(4)]
        prediction = z.double().softmax(dim=0).numpy()
        expected = stats.entropy(target, prediction) - alpha * stats.entropy(prediction)
        assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_is_least_at_the_soft_label():
    """Without the reward for entropy the loss is 0 there; with it, surer predictions are worse than unsure ones."""
    p = confidence(0.5, 4)
    label, y = torch.tensor([[p, *[(1 - p) / 3] * 3]]), torch.tensor([0])
    assert float(HAMP(entropy=0.5, alpha=0).loss(label.log(), batch_of(y), 0)) == pytest.approx(0, abs=1e-6)
    logits = label.log().requires_grad_()
    HAMP(entropy=0.5, alpha=0.3).loss(logits, batch_of(y), 0).sum().backward()
    assert logits.grad[0, 0] > 0  # descent lowers the true class


def test_members_get_no_surer_than_their_labels(compose, fitting):
    sure = {}
    for entropy in (0.2, 0.8):
        config = compose("data=digits", "trainer.epochs=12", "defense=hamp", f"defense.entropy={entropy}")
        job = fitting(config, [0])
        dataset, members = job.dataset, job.split.pool[job.membership[0]]
        logits = torch.from_numpy(job.fit().predict(dataset.x)[0])
        assert (logits.argmax(dim=1)[members] == torch.tensor(dataset.y[members])).float().mean() > 0.97
        sure[entropy] = float(logits[members].softmax(dim=1).max(dim=1).values.mean())
    assert sure[0.2] == pytest.approx(confidence(0.2, 10), abs=0.12)
    assert sure[0.8] == pytest.approx(confidence(0.8, 10), abs=0.12)


def test_brings_its_guard(compose):
    assert compose("data=digits", "defense=hamp")["names"]["guard"] == "hamp_output"
    assert compose("data=digits", "defense=hamp", "guard=none")["names"]["guard"] == "none"


@pytest.mark.parametrize("entropy", [0, 1, -0.5, float("nan")])
def test_entropy_is_a_share(entropy):
    message = rf"entropy={entropy}: expected"
    with pytest.raises(ValueError, match=message):
        HAMP(entropy=entropy, alpha=0.03)


@pytest.mark.parametrize("alpha", [-1, float("inf"), float("nan")])
def test_alpha_is_a_weight(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha}"):
        HAMP(entropy=0.5, alpha=alpha)


def test_declares_what_it_is():
    assert HAMP.separable and HAMP(entropy=0.6, alpha=0).strength == 0.6
