"""RelaxLoss pulls the mean loss of a model's real records to α, and flattens below it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.loaders import Batch
from palisade.defenses.none import NoDefense
from palisade.defenses.relaxloss import RelaxLoss


def batch_of(y, mask) -> Batch:
    y, mask = torch.tensor(y), torch.tensor(mask)
    return Batch(torch.zeros(*y.shape, 1), y, mask, torch.zeros_like(y))


def random_batch(seed: int, *shape: int) -> tuple[torch.Tensor, Batch]:
    """Logits of four classes; every second model of a stack is nearly always right. Padded rows are far off."""
    torch.manual_seed(seed)
    y, mask = torch.randint(4, shape), torch.rand(shape) < 0.7
    logits = torch.randn(*shape, 4) + 4 * F.one_hot(y, 4) * (torch.arange(math.prod(shape[:-1])) % 2).view(-1, 1, 1)
    logits = logits.view(*shape, 4).where(mask.unsqueeze(-1), 100 * torch.randn(*shape, 4))
    return logits, Batch(torch.zeros(*shape, 1), y, mask, torch.zeros_like(y))


def naive(logits: torch.Tensor, batch: Batch, epoch: int, alpha: float) -> torch.Tensor:
    """The objective of one model, a mean over its real records."""
    z, y = logits[batch.mask], batch.y[batch.mask]
    mean = F.cross_entropy(z, y)
    if epoch % 2 == 0:
        return (mean - alpha).abs()
    if mean > alpha:
        return mean
    targets = torch.empty_like(z)
    for row, (prediction, label) in enumerate(zip(z.detach().softmax(dim=1), y, strict=True)):
        targets[row] = (1 - prediction[label]) / (z.shape[1] - 1)
        targets[row, label] = prediction[label]
    return -(targets * z.log_softmax(dim=1)).sum(dim=1).mean()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 3), alpha=st.sampled_from([0.0, 0.3, 1.2, 3.0]))
def test_objective_and_gradient_of_every_model_of_a_stack(seed, epoch, alpha):
    logits, batch = random_batch(seed, 3, 7)
    logits.requires_grad_()
    losses = RelaxLoss(alpha=alpha).loss(logits, batch, epoch)
    total = losses.where(batch.mask, 0).sum(dim=1)
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    for k in range(3):
        rows = int(batch.mask[k].sum())
        if rows:
            alone = logits[k].detach().requires_grad_()
            one = Batch(*(values[k] for values in batch[:4]))
            expected = rows * naive(alone, one, epoch, alpha)
            assert total[k].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
            torch.testing.assert_close(gradient[k], torch.autograd.grad(expected, alone)[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(RelaxLoss(alpha=alpha).loss(alone, one, epoch), losses[k])


def test_by_hand():
    """Losses log 4 and log 4/3; the padded row, at 50, would lift the mean over α = 1."""
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0], [50.0, 0.0]])
    batch = batch_of([0, 0, 1], [True, True, False])
    defense, high, low = RelaxLoss(alpha=1.0), math.log(4), math.log(4 / 3)
    assert defense.loss(logits, batch, 0)[:2].tolist() == pytest.approx([1 - high, 1 - low])  # mean .84: ascent
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert defense.loss(logits, batch, 1)[:2].tolist() == pytest.approx([entropy, entropy])  # two classes: already flat
    lower = RelaxLoss(alpha=0.5)
    assert lower.loss(logits, batch, 0)[:2].tolist() == pytest.approx([high - 0.5, low - 0.5])
    assert lower.loss(logits, batch, 1)[:2].tolist() == pytest.approx([high, low])


def test_flattening_keeps_the_confidence_and_draws_the_others_together():
    logits = torch.tensor([[1.0, 2.0, -1.0, 0.5]], requires_grad=True)
    batch = batch_of([1], [True])
    RelaxLoss(alpha=9.0).loss(logits, batch, 1).sum().backward()
    p = logits.detach().softmax(dim=1)[0]
    assert float(logits.grad[0, 1]) == pytest.approx(0, abs=1e-6)
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(logits.grad[0, others], p[others] - (1 - p[1]) / 3)


@pytest.mark.parametrize("epoch", [0, 1])
def test_target_0_is_plain_training(epoch):
    logits, batch = random_batch(1, 2, 6)
    assert torch.equal(RelaxLoss(alpha=0).loss(logits, batch, epoch), NoDefense().loss(logits, batch, epoch))


def test_an_empty_step_has_no_loss():
    logits, batch = random_batch(2, 2, 5)
    losses = RelaxLoss(alpha=0.5).loss(logits, batch._replace(mask=torch.zeros(2, 5, dtype=torch.bool)), 0)
    assert losses.isfinite().all()


def test_members_reach_the_target_loss_and_stay_right(compose, fitting):
    loss_and_accuracy = {}
    for alpha in (0.0, 0.4):
        config = compose("data=digits", "trainer.epochs=14", "defense=relaxloss", f"defense.alpha={alpha}")
        job = fitting(config, [0])
        dataset, members = job.dataset, job.split.pool[job.membership[0]]
        logits, y = torch.from_numpy(job.fit().predict(dataset.x[members])[0]), torch.tensor(dataset.y[members])
        loss_and_accuracy[alpha] = float(F.cross_entropy(logits, y)), float((logits.argmax(dim=1) == y).float().mean())
    assert loss_and_accuracy[0.0][0] < 0.1
    assert 0.3 < loss_and_accuracy[0.4][0] < 0.5 and loss_and_accuracy[0.4][1] > 0.92  # .93 to .98 with other secrets


@pytest.mark.parametrize("alpha", [-0.1, float("inf"), float("nan")])
def test_target_is_0_or_more(alpha):
    message = rf"alpha={alpha}: expected"
    with pytest.raises(ValueError, match=message):
        RelaxLoss(alpha=alpha)


def test_couples_records_and_says_so():
    assert not RelaxLoss.separable and RelaxLoss(alpha=0.5).strength == 0.5 and RelaxLoss(alpha=0.5).stackable
