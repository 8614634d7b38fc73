"""A step: the noise stands where the sum is written, once for every batch, and is counted there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_callback import TEST_SECRET, Plain, blobs, fit, trainer
from test_manual import Manual
from torch import Tensor, nn
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd import callback as callbacks
from palisade.defenses.dp_sgd.clipping import Adaptive, Flat
from palisade.defenses.dp_sgd.gradients import ClippedSum
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.step import PrivateStep

pytestmark = pytest.mark.filterwarnings("ignore")


class Parameters(nn.Module):
    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        self.own = nn.ParameterList(map(nn.Parameter, values))


def step_of(
    *values: Tensor,
    sigma: float = 2.0,
    clip: float = 0.5,
    models: tuple[int, ...] = (7,),
    steps: int = 10,
    clipping: Flat | None = None,
    **settings: Any,
) -> PrivateStep:
    """A step of SGD with learning rate 1 over an expected batch of 4."""
    module = Parameters(*values)
    mechanism = Mechanism(
        noise_multiplier=sigma, max_grad_norm=0.5, clipping="flat", sampling_rate=0.1, public_size=40,
        unit="record", rows_per_unit=1, augmentations=1, steps=steps, delta=1e-3,
    )  # fmt: skip
    usual: dict[str, Any] = {"secure": False, "ahead": False, "processes": 1, "adds_noise": True}
    return PrivateStep(
        module,
        torch.optim.SGD(module.parameters(), lr=1.0),
        mechanism,
        ClippedSum(module, clipping or Flat(0.5, models=len(models))),
        [TEST_SECRET] * len(models),
        models,
        **{**usual, **settings},
    )


def written(step: PrivateStep, *sums: Tensor) -> list[Tensor]:
    step.begin(0)
    step.clipped.add(dict(zip(step.clipped.parameters, sums, strict=False)))
    step.write()
    return [parameter.grad for parameter in step.clipped.parameters]


# What is written.


def check_noise_is_written_with_the_sum() -> None:
    """The value of `p.grad` is the sum over q·N and noise of σC/(qN): nobody reads, or scales, the bare sum."""
    step = step_of(torch.zeros(200, 300), torch.zeros(60_000))
    one, other = written(step, torch.full((200, 300), 3.0))
    assert float(one.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.02) == pytest.approx(float(other.std()), rel=0.02)
    assert float(one.mean()) == pytest.approx(3 / 4, abs=0.01) and abs(float(other.mean())) < 0.01
    assert abs(np.corrcoef(one.flatten(), other)[0, 1]) < 0.02


def test_noise_is_written_with_the_sum() -> None:
    check_noise_is_written_with_the_sum()


def test_new_noise_for_every_step_and_none_left_of_the_sum() -> None:
    step = step_of(torch.zeros(5000))
    first, second, third = (written(step, total)[0].clone() for total in (torch.ones(5000), *torch.zeros(2, 5000)))
    assert step.done == 3 and abs(float(second.mean())) < 0.02
    assert abs(np.corrcoef([first, second, third]) - np.eye(3)).max() < 0.08


def test_same_noise_alone_and_in_a_stack() -> None:
    stacked = written(step_of(torch.zeros(3, 4, 5), torch.zeros(3, 6), models=(2, 7, 9)))
    alone = written(step_of(torch.zeros(4, 5), torch.zeros(6)))
    for whole, single in zip(stacked, alone, strict=True):
        assert torch.equal(whole[1], single) and not torch.equal(whole[0], single)


def test_parameters_of_double_precision_get_the_same_noise() -> None:
    (plain,), (double,) = written(step_of(torch.zeros(50))), written(step_of(torch.zeros(50, dtype=torch.float64)))
    assert double.dtype == torch.float64 and double.abs().min() > 0
    torch.testing.assert_close(double.float(), plain)


def test_one_of_several_processes_adds_noise() -> None:
    assert not written(step_of(torch.zeros(50), adds_noise=False))[0].any()


@pytest.mark.parametrize("clipping", [Flat, Adaptive])
def test_bounds_of_models_scale_their_noise(clipping: type[Flat]) -> None:
    step = step_of(torch.zeros(2, 50_000), models=(0, 1), clipping=clipping(0.5, models=2))
    step.clipping.bounds = [1.0, 3.0]
    (noise,) = written(step)
    assert noise.std(dim=1).tolist() == pytest.approx([step.gradient_noise * bound / 4 for bound in (1, 3)], rel=0.05)


# When.


def test_a_batch_writes_once_and_steps_once() -> None:
    step = step_of(torch.zeros(3))
    end = step.attach()
    written(step)
    with pytest.raises(ValueError, match="second backward pass for one batch"):
        step.write()
    assert step.pending
    step.optimizer.step()
    assert not step.pending
    with pytest.raises(ValueError, match="2 optimizer steps"):
        step.optimizer.step()
    end()
    assert all(parameter.grad is None for parameter in step.clipped.parameters)
    step.optimizer.step()  # the user's own again


def test_no_step_before_anything_is_written() -> None:
    step = step_of(torch.zeros(3))
    step.attach()
    step.begin(0)
    with pytest.raises(ValueError, match=r"no clipped gradients.*manual_backward\(loss\)"):
        step.optimizer.step()
    with pytest.raises(ValueError, match="no backward pass"):
        step.end()


def test_a_closure_runs_before_the_step_is_checked() -> None:
    step = step_of(torch.zeros(3))
    step.attach()
    step.begin(0)
    step.optimizer.step(lambda: step.write())
    assert step.done == 1 and not step.pending


def test_no_more_steps_than_planned() -> None:
    step = step_of(torch.zeros(3), steps=2)
    written(step), written(step)
    with pytest.raises(ValueError, match="step 3 exceeds the T=2 planned steps"):
        written(step)
    assert step.done == 2


@pytest.mark.parametrize("change", [lambda p: p.grad.mul_(2), lambda p: setattr(p, "grad", p.grad * 2)])
def test_gradients_may_be_changed_only_where_noise_hides_it(change: Any) -> None:
    for sigma in (0.0, 1.0):
        step = step_of(torch.zeros(3), sigma=sigma)
        step.attach()
        written(step, torch.ones(3))
        change(step.clipped.parameters[0])
        if sigma:
            step.optimizer.step()
            continue
        with pytest.raises(ValueError, match="gradients were changed after clipping and there is no noise"):
            step.optimizer.step()


def test_parameters_that_are_trained_stay_those_that_are_clipped() -> None:
    step = step_of(torch.zeros(3), torch.zeros(2))
    step.clipped.parameters[1].requires_grad_(False)
    with pytest.raises(ValueError, match="the optimizer's trainable parameters are not the module's"):
        written(step)


def test_state_of_a_step() -> None:
    step, again = step_of(torch.zeros(3)), step_of(torch.zeros(3))
    written(step), written(step)
    again.restore(step.state(), may_continue=False)
    assert again.done == 2 and torch.equal(written(again)[0], written(step)[0])


# In a fit.


def test_a_checkpoint_between_write_and_step_is_refused(tmp_path: Any) -> None:
    class Saving(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.my_net(batch[0]), batch[1]))
            if self.when == "between":
                self.trainer.save_checkpoint(tmp_path / "one.ckpt")
            optimizer.step()
            if self.when == "after":
                self.trainer.save_checkpoint(tmp_path / "one.ckpt")

    for when in ("after", "between"):
        module = Saving()
        module.when = when
        run = trainer(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), max_epochs=1)
        if when == "after":
            run.fit(module, DataLoader(blobs(), batch_size=24))
            continue
        with pytest.raises(ValueError, match="a checkpoint between backward pass and optimizer step"):
            run.fit(module, DataLoader(blobs(), batch_size=24))


def test_nobody_sees_the_bare_sum_in_a_fit() -> None:
    """Data without gradient: what hooks of the user's find in `p.grad` is noise, of every batch, empty ones too."""
    seen: list[Tensor] = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            if module.my_net.weight.grad is not None:
                seen.append(module.my_net.weight.grad.clone())

    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.zeros(6, 300), torch.zeros(6, dtype=torch.long))
    run = trainer(DPSGD(noise_multiplier=1.0, max_grad_norm=2.0, secret=TEST_SECRET), Watch(), max_epochs=5)
    run.fit(Plain(nn.Linear(300, 40, bias=False)), DataLoader(data, batch_size=1))
    assert len(seen) >= 29
    for gradient in seen:
        assert float(gradient.std()) == pytest.approx(2.0, rel=0.05)


def test_step_sizes_that_follow_the_loss_are_named() -> None:
    class Polyak(Plain):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            optimizer.param_groups[0]["lr"] = 0.1 * self.losses[-1] if self.losses else 0.1

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.1 * float(loss)
            return loss

    with pytest.warns(UserWarning, match="settings changed otherwise than by a schedule: .*ε does not"):
        fit(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), Polyak(), max_epochs=1)


def test_the_same_callback_in_a_second_trainer_states_both_fits() -> None:
    callback, single = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    fit(single, max_epochs=1)
    fit(callback, max_epochs=1)
    alone = callback.statement.epsilon
    fit(callback, max_epochs=2)
    statement = callback.statement
    assert alone == single.statement.epsilon < statement.epsilon
    longer = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    fit(longer, max_epochs=3)
    assert statement.epsilon == pytest.approx(longer.statement.epsilon, rel=1e-6)
    assert "2 trainings" in statement.to_json()["mechanism"] and math.isfinite(callback.epsilon())


def test_a_default_delta_that_the_records_there_are_make_too_large_is_refused() -> None:
    """δ = N^−1.1 of a public size half the true one would be above 1/n."""
    with pytest.raises(ValueError, match=r"delta=0.00516: expected below 1/n .*; choose e.g."):
        fit(DPSGD(noise_multiplier=1.0, public_size=120), loader=DataLoader(blobs(240), batch_size=24), max_epochs=1)
    callback = DPSGD(noise_multiplier=1.0, public_size=120, delta=1e-3)
    fit(callback, loader=DataLoader(blobs(240), batch_size=24), max_epochs=1)
    assert callback.statement.delta == 1e-3


def test_an_error_before_the_first_step_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("own words")

    monkeypatch.setattr(callbacks, "Watch", failing)
    with pytest.raises(RuntimeError, match="own words"):
        fit(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), max_epochs=1)
