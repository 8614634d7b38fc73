"""Manual optimization: the user's own backward and step, under the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_callback import SECRET, Plain, blobs, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader

from defenses.dp_sgd import DPSGD

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
    settings = {"noise_multiplier": 1.0, "secret": SECRET}
    torch.manual_seed(1)
    automatic = fit(one := DPSGD(**settings), Plain())
    torch.manual_seed(1)
    manual = fit(two := DPSGD(**settings), Manual())
    assert one.steps == two.steps == 30 and one.epsilon() == two.epsilon()
    for expected, found in zip(automatic.parameters(), manual.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_empty_batches_step_without_user_code() -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=SECRET)
    module = fit(callback, Manual(), DataLoader(blobs(6), batch_size=1), max_epochs=20)
    assert callback.steps == 120 and len(module.losses) < 120 and np.isfinite(module.losses).all()
    assert module.trainer.global_step == 120


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoSteps, "training_step took 2 optimizer steps; take exactly one for every batch"),
        (NoStep, "training_step took 0 optimizer steps; take exactly one for every batch"),
        (OwnBackward, r"found no clipped gradients; call self.manual_backward\(loss\) before it"),
        (ClippingTheSum, "gradients were changed after clipping and before the noise; remove what changes them"),
        (Coupled, "training_step couples records"),
    ],
)
def test_refusals(module: type[Manual], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(DPSGD(noise_multiplier=1.0), module())
