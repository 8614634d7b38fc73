"""L1 and L2 add the gradients of their penalties, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.l1 import L1
from palisade.defenses.l2 import L2
from palisade.targets.training import make_fitter

SGD_SETTINGS = ["data=digits", "trainer.epochs=2", "trainer.optimizer={_target_: torch.optim.SGD, lr: 0.1}"]


def fit(settings, models=(0,), at_once=1):
    dataset, secret, membership = from_config(settings), Secret.from_text("penalty"), Membership()
    settings = {**settings, "fleet": {"at_once": at_once}}
    fitter = make_fitter(settings, dataset, secret, list(models), membership)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, list(models), secret)).states


def added(defense, weights, gradients):
    """Gradients of a step after the penalty."""
    p = nn.Parameter(torch.tensor(weights))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    p.grad = torch.tensor(gradients)
    (callback,) = defense.callbacks(None, None)
    callback.on_before_optimizer_step(None, None, optim.SGD([p, frozen], lr=0.1))
    assert frozen.grad is None and p.tolist() == weights
    return p.grad.tolist()


def test_l2_is_the_gradient_of_half_the_squared_norm():
    assert added(L2(weight_decay=0.1), [1.0, -2.0], [0.5, 0.5]) == pytest.approx([0.6, 0.3])


def test_l1_is_a_subgradient_of_the_sum_of_absolute_values():
    assert added(L1(weight=0.1), [3.0, -2.0, 0.0], [0.5, 0.5, 0.5]) == pytest.approx([0.6, 0.4, 0.5])


@pytest.mark.parametrize("weight_decay", [1e-3, 0.1])
def test_l2_equals_the_weight_decay_of_sgd(compose, weight_decay):
    """In SGD alone the two are the same; in Adam the penalty is not decoupled."""
    ours = fit(compose(*SGD_SETTINGS, "defense=l2", f"defense.weight_decay={weight_decay}"))
    theirs = fit(compose(*SGD_SETTINGS, f"+trainer.optimizer.weight_decay={weight_decay}"))
    for name, value in ours[0].items():
        torch.testing.assert_close(value, theirs[0][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("strong", "order"), [(["defense=l2", "defense.weight_decay=1"], 2), (["defense=l1", "defense.weight=0.01"], 1)]
)
def test_penalty_pulls_the_weights_of_a_stack_towards_zero(compose, strong, order):
    for plain, penalized in zip(
        *(fit(compose(*SGD_SETTINGS, *overrides), (0, 1), 2) for overrides in ([], strong)), strict=True
    ):
        norms = [sum(float(value.norm(order) ** order) for value in state.values()) for state in (plain, penalized)]
        assert norms[1] < 0.8 * norms[0]


def test_strengths():
    assert L1(weight=0.2).strength == 0.2 and L2(weight_decay=0.3).strength == 0.3


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_penalty_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=rf"weight={value}"):
        L1(weight=value)
    with pytest.raises(ValueError, match=rf"weight_decay={value}"):
        L2(weight_decay=value)
