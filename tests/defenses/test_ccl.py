"""The convex-concave loss against its formula, and what it does to the losses of members."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.loaders import Batch
from palisade.defenses.ccl import ConvexConcave

LOCATION30_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "location30"
SMALL_SETTINGS = [
    *("data=location30", f"data.root={LOCATION30_FOLDER}", "split.pool=1000", "split.population=0"),
    *("network.hidden=[32]", "trainer.epochs=20", "defense.trainer.optimizer.lr=0.05"),
]


def batch_of(y: torch.Tensor) -> Batch:
    return Batch(torch.zeros(*y.shape, 1), y, torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y))


def test_by_hand():
    logits, batch = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), batch_of(torch.tensor([0, 0]))
    expected = [0.25 * math.log(2) - 0.75 * math.exp(0.5), 0.25 * math.log(4 / 3) - 0.75 * math.exp(0.75)]
    assert ConvexConcave(alpha=0.25).loss(logits, batch, 0).tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), alpha=st.floats(0, 0.99), stacked=st.booleans())
def test_gradient(seed, alpha, stacked):
    """By the true class's logit: −(1 − p)·(α + (1 − α)·p·e^p)."""
    torch.manual_seed(seed)
    shape = (3, 4) if stacked else (4,)
    y, logits = torch.randint(5, shape), torch.randn(*shape, 5, requires_grad=True)
    losses = ConvexConcave(alpha=alpha).loss(logits, batch_of(y), 0)
    assert losses.shape == shape
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    p = logits.softmax(-1).gather(-1, y.unsqueeze(-1))
    expected = -(1 - p) * (alpha + (1 - alpha) * p * p.exp())
    torch.testing.assert_close(gradient.gather(-1, y.unsqueeze(-1)), expected)


def test_stays_finite_where_the_model_is_sure_and_wrong():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    ConvexConcave(alpha=0.5).loss(logits, batch_of(torch.tensor([1])), 0).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("alpha", "spreads"), [(0.999, False), (0.02, True)])
def test_hard_members_fall_behind(alpha, spreads):
    """A small step on records with logits of their own: cross-entropy draws their losses together (section 3)."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], dim=1).requires_grad_()
    ConvexConcave(alpha=alpha).loss(logits, batch_of(torch.zeros(4, dtype=torch.int64)), 0).sum().backward()
    stepped = (logits - 1e-3 * logits.grad).log_softmax(dim=1)[:, 0]
    assert bool(stepped.var() > p.log().var()) == spreads


@pytest.mark.skipif(not LOCATION30_FOLDER.is_dir(), reason="no location30 under ../shared/data")
def test_members_losses_spread_on_location30(compose, fitting):
    variances, accuracies = [], []
    for alpha in (0.99, 0.5):
        config = compose(*SMALL_SETTINGS, "defense=ccl", f"defense.alpha={alpha}")
        job = fitting(config, [0])
        dataset, members = job.dataset, job.split.pool[job.membership[0]]
        z = job.fit().predict(dataset.x)[0].astype(np.float64)
        losses = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), dataset.y]
        variances.append(losses[members].var())
        accuracies.append((z.argmax(axis=1) == dataset.y)[dataset.split.test].mean())
    assert variances[1] > 10 * variances[0]
    assert accuracies[1] > accuracies[0] - 0.08


@pytest.mark.parametrize("alpha", [-0.1, 1, 2.0, float("nan")])
def test_alpha_is_a_weight_below_1(alpha):
    message = rf"alpha={alpha}: expected"
    with pytest.raises(ValueError, match=message):
        ConvexConcave(alpha=alpha)


def test_declares_what_it_is():
    assert ConvexConcave.separable and ConvexConcave(alpha=0.3).strength == 0.3
