"""Mixup mixes real records with real ones, in the same way alone and in a stack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.defenses.mixup import Mixup


def draws(step=0, models=(0,), stacked=False) -> Draws:
    return Draws(secret=Secret.from_text("mixup"), models=list(models), step=step, stacked=stacked)


def units(real: int, padded: int = 0) -> Batch:
    """Record i is the i-th unit vector, so that a mixture shows its parts; its class is i as well. Padding is huge."""
    rows = real + padded
    mask = torch.arange(rows) < real
    x = torch.where(mask[:, None], torch.eye(rows), 1e9)
    return Batch(x, torch.arange(rows), mask, torch.arange(rows))


@settings(deadline=None, max_examples=40)
@given(real=st.integers(1, 9), padded=st.integers(0, 4), step=st.integers(0, 1000), alpha=st.floats(0.1, 8))
def test_mixtures_are_of_a_record_and_its_partner_in_one_ratio(real, padded, step, alpha):
    batch = units(real, padded)
    mixed = Mixup(alpha=alpha).inputs(batch, draws(step))
    rows = mixed.x[batch.mask]
    assert rows.shape == (real, real + padded) and (rows[:, real:] == 0).all()  # no trace of padding
    share = Secret.from_text("mixup").numpy("mixup share", 0, step).beta(alpha, alpha)
    partner_part = rows[:, :real] - share * torch.eye(real)
    torch.testing.assert_close(partner_part.sum(0), torch.full([real], 1 - share, dtype=torch.float32))
    torch.testing.assert_close(partner_part.sum(1), torch.full([real], 1 - share, dtype=torch.float32))
    assert ((partner_part.abs() < 1e-5) | ((partner_part - (1 - share)).abs() < 1e-5)).all()
    torch.testing.assert_close(mixed.targets[batch.mask][:, :real], rows[:, :real])
    assert torch.equal(mixed.y, batch.y) and torch.equal(mixed.mask, batch.mask)


def test_loss_is_the_mixture_of_two_cross_entropies():
    batch, logits = units(4), torch.randn(4, 6)  # two classes are not in the step
    mixed = Mixup(alpha=1.0).inputs(batch, draws())
    negative = -logits.log_softmax(-1)
    expected = [sum(float(mixed.targets[i, c] * negative[i, c]) for c in range(4)) for i in range(4)]
    assert Mixup(alpha=1.0).loss(logits, mixed, 0).tolist() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_are_mixed_like_the_records():
    soft_labels = torch.rand(5, 3).softmax(-1)
    batch = units(5)._replace(targets=soft_labels)
    mixed = Mixup(alpha=1.0).inputs(batch, draws())
    torch.testing.assert_close(mixed.targets, mixed.x @ soft_labels)


def test_shares_follow_the_beta_distribution_and_partners_are_uniform():
    """One share a step and model: 1,000 steps, Kolmogorov–Smirnov; partners of record 0 by chi-square."""
    defense, drawn_shares, partners = Mixup(alpha=0.4), [], np.zeros(4)
    for step in range(1000):
        row = defense.inputs(units(4), draws(step)).x[0]
        drawn_shares.append(float(Secret.from_text("mixup").numpy("mixup share", 0, step).beta(0.4, 0.4)))
        partner = int(row[1:].argmax()) + 1 if row[1:].max() > 0 else 0
        partners[partner] += 1
        assert partner == 0 or float(row[0]) == pytest.approx(drawn_shares[-1], abs=1e-5)
    assert stats.kstest(drawn_shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert stats.chisquare(partners).pvalue > 1e-3


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 6), min_size=2, max_size=4), step=st.integers(0, 100))
def test_model_in_a_stack_mixes_as_alone(sizes, step):
    width = max(*sizes, 1)
    models = [7 * k for k in range(len(sizes))]
    parts = [units(size, width - size) for size in sizes]
    stacked = Mixup(alpha=1.0).inputs(
        Batch(*(torch.stack(values) for values in zip(*(part[:4] for part in parts), strict=True))),
        draws(step, models, stacked=True),
    )
    for k, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        if size:
            alone = Mixup(alpha=1.0).inputs(Batch(*(values[:size] for values in part[:4])), draws(step, [models[k]]))
            torch.testing.assert_close(stacked.x[k, :size], alone.x)
            torch.testing.assert_close(stacked.targets[k, :size, :size], alone.targets)


def test_images_are_mixed_as_a_whole():
    batch = units(3)
    images = batch.x.view(3, 1, 3, 1).expand(3, 2, 3, 4)
    mixed = Mixup(alpha=1.0).inputs(batch._replace(x=images), draws())
    plain = Mixup(alpha=1.0).inputs(batch, draws())
    torch.testing.assert_close(mixed.x, plain.x.view(3, 1, 3, 1).expand(3, 2, 3, 4))


def test_words_are_refused():
    batch = units(3)
    with pytest.raises(
        ValueError, match="defense=mixup: expected inputs of numbers, not of words; choose another defense for texts"
    ):
        Mixup(alpha=1.0).inputs(batch._replace(x=batch.x.long()), draws())


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan")])
def test_alpha_is_positive_and_finite(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha}"):
        Mixup(alpha=alpha)


def test_couples_records_and_says_so():
    assert not Mixup.separable and Mixup(alpha=0.4).strength == 0.4
