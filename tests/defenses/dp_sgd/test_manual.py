"""Manual optimization: the user's own backward and step, under the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_callback import TEST_SECRET, Plain, blobs, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD

pytestmark = pytest.mark.filterwarnings("ignore")


class Manual(Plain):
    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.my_net(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.manual_backward(loss)
        optimizer.step()


Manual.__qualname__ = "Plain"  # the class is part of the noise's key
Manual.__module__ = Plain.__module__


class TwoSteps(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        super().training_step(batch, batch_idx)


class NoStep(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(nn.functional.cross_entropy(self.my_net(batch[0]), batch[1]))


class OwnBackward(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        nn.functional.cross_entropy(self.my_net(batch[0]), batch[1]).backward()
        self.optimizers().step()


class ClippingTheSum(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(nn.functional.cross_entropy(self.my_net(batch[0]), batch[1]))
        self.clip_gradients(self.optimizers(), gradient_clip_val=1e-3)
        self.optimizers().step()


class Coupled(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.my_net(batch[0])
        self.manual_backward(nn.functional.cross_entropy(logits - logits.mean(0), batch[1]))
        self.optimizers().step()


def test_equals_automatic_bit_for_bit() -> None:
    settings = {"noise_multiplier": 1.0, "secret": TEST_SECRET}
    torch.manual_seed(1)
    automatic = fit(one := DPSGD(**settings), Plain(), max_epochs=1)
    torch.manual_seed(1)
    manual = fit(two := DPSGD(**settings), Manual(), max_epochs=1)
    assert one.steps == two.steps == 10 and one.epsilon() == two.epsilon()
    for expected, weight in zip(automatic.parameters(), manual.parameters(), strict=True):
        assert torch.equal(expected, weight)


def test_empty_batches_step_without_user_code() -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    module = fit(callback, Manual(), DataLoader(blobs(6), batch_size=1), max_epochs=5)
    assert callback.steps == 30 and len(module.losses) < 30 and np.isfinite(module.losses).all()
    assert module.trainer.global_step == 30


def test_a_gradient_that_no_step_uses_is_spent_all_the_same() -> None:
    module = NoStep()
    before = module.my_net[0].weight.detach().clone()
    fit(callback := DPSGD(noise_multiplier=1.0), module, max_epochs=1)
    assert callback.steps == 10 and torch.equal(module.my_net[0].weight, before)


def test_the_noised_sum_may_be_clipped_but_not_the_bare_one() -> None:
    fit(DPSGD(noise_multiplier=1.0), ClippingTheSum(), max_epochs=1)
    with pytest.raises(ValueError, match="gradients were changed after clipping and there is no noise"):
        fit(DPSGD(noise_multiplier=0.0), ClippingTheSum(), max_epochs=1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoSteps, "training_step ran a second backward pass for one batch, which would spend ε twice"),
        (OwnBackward, r"training_step ran no backward pass; call self.manual_backward\(loss\) in it, once"),
        (Coupled, "training_step couples records"),
    ],
)
def test_refusals(module: type[Manual], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(DPSGD(noise_multiplier=1.0), module())
