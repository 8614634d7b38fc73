"""DP-SGD under a real `Trainer.fit`, of modules and loaders that know nothing of it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from opacus.accountants import RDPAccountant
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from user_modules import slow_but

from palisade.data.loaders import Gather, Poisson, Shuffling, training_loader
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import DPSGD
from palisade.targets.module import Target
from palisade.targets.stacks import stack, unstack

TEST_SECRET = Secret.from_text("test")
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(pl.LightningModule):
    """A user's own module: any attribute names, a schedule that needs the number of steps, logging."""

    def __init__(self, network: nn.Module | None = None, lr: float = 0.5, **settings: Any):
        super().__init__()
        self.settings = settings
        self.my_net = network or nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 3))
        self.lr, self.losses = lr, []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.my_net(batch[0]), batch[1])
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)]


class Plain(Module):
    """Nothing but SGD with learning rate 1, so that an update is the noised sum over q·N."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def blobs(records: int = 240) -> TensorDataset:
    x = torch.randn(records, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{"max_epochs": 3, "accelerator": "cpu", **quiet, **settings}, callbacks=list(callbacks))


def fit(callback: DPSGD, module: pl.LightningModule | None = None, loader: Any = None, **settings: Any) -> Any:
    torch.manual_seed(1)
    module = module or Module()
    trainer(callback, **settings).fit(module, loader or DataLoader(blobs(), batch_size=24, shuffle=True))
    return module


def accuracy(module: Any) -> float:
    x, y = blobs(2000).tensors
    return float((module.my_net(x).argmax(1) == y).float().mean())


# Noise, clipping and sampling: also run against planted faults in test_mutations.py.


def check_noise() -> None:
    """Data without gradient: what moves the weights is noise alone, N(0, σ²C²/(qN)²) a step, and new in each."""
    weights = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            weights.append(module.my_net.weight.detach().clone().flatten())

    module = Plain(nn.Linear(300, 120, bias=False))
    data = TensorDataset(torch.zeros(40, 300), torch.zeros(40, dtype=torch.long))
    settings = {"noise_multiplier": 1.5, "max_grad_norm": 2.0, "secret": TEST_SECRET}
    torch.manual_seed(1)
    trainer(DPSGD(**settings), Watch(), max_epochs=1).fit(module, DataLoader(data, batch_size=10))
    steps = torch.diff(torch.stack(weights), dim=0).double().numpy() * 10 / (1.5 * 2.0)
    assert len(steps) == 3
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], steps.size)
    assert low < (steps**2).sum() < high
    assert stats.kstest(steps.ravel(), "norm").pvalue > 1e-4
    halves = steps.reshape(6, -1)  # of one step too
    assert np.abs(np.corrcoef(halves) - np.eye(6)).max() < 0.04


def check_clipping() -> None:
    """Gradients above C, all in one direction, whose mean over a step stays below: N records move the sum by N·C."""
    module = Plain(nn.Linear(8, 3, bias=False))
    start = module.my_net.weight.detach().clone()
    data = TensorDataset(torch.ones(40, 8), torch.zeros(40, dtype=torch.long))
    fit(DPSGD(noise_multiplier=0, max_grad_norm=0.3), module, DataLoader(data, batch_size=40), max_epochs=1)
    assert (module.my_net.weight - start).norm().item() == pytest.approx(0.3, rel=1e-4)


def check_poisson() -> None:
    """Batch sizes vary like a binomial's, an epoch misses and repeats records, and the divisor stays q·N."""
    seen: list[Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch[0][:, 0].detach().clone())

    data = TensorDataset(torch.arange(60.0)[:, None], torch.zeros(60, dtype=torch.long))
    settings = {"noise_multiplier": 1.0, "secret": TEST_SECRET}
    trainer(DPSGD(**settings), Watch(), max_epochs=40).fit(Plain(nn.Linear(1, 3)), DataLoader(data, 12, shuffle=True))
    sizes = np.array([len(batch) for batch in seen])
    assert len(sizes) == 200
    assert stats.binomtest(int(sizes.sum()), 60 * 200, 0.2).pvalue > 1e-4
    assert 0.7 < sizes.var() / (60 * 0.2 * 0.8) < 1.4
    assert len(torch.cat(seen[:5]).unique()) < 60
    counts = np.bincount(torch.cat(seen).int().numpy(), minlength=60)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_noise() -> None:
    check_noise()


def test_clipping() -> None:
    check_clipping()


def test_poisson() -> None:
    check_poisson()


# The claim.


def test_epsilon_is_that_of_opacus() -> None:
    callback = DPSGD(noise_multiplier=1.1, delta=1e-4)
    fit(callback)
    opacus = RDPAccountant()
    opacus.history = [(1.1, 24 / 240, 30)]
    assert callback.statement.epsilon_rdp == opacus.get_epsilon(1e-4)
    assert callback.epsilon() == callback.statement.epsilon < callback.statement.epsilon_rdp


def test_statement_of_a_calibrated_fit() -> None:
    callback = DPSGD(epsilon=8, max_grad_norm=0.5)
    module = fit(callback)
    statement = callback.statement
    assert 0.99 * 8 <= statement.epsilon <= 8 and statement.accountant == "PRV" and statement.guarantee
    assert statement.delta == 240**-1.1 and statement.public_size == 240 and statement.sampling_rate == 0.1
    assert statement.steps_planned == statement.steps_done == callback.steps == 30
    assert statement.max_grad_norm == 0.5 and statement.randomness == "operating system"
    assert statement.to_json()["sampling"] == "Poisson"
    assert accuracy(module) > 0.4


def test_statement_names_a_secret_of_the_user() -> None:
    callback = DPSGD(noise_multiplier=0.0, secret=TEST_SECRET)
    fit(callback, max_epochs=1)
    randomness = callback.statement.randomness
    assert randomness.startswith("given secret: no guarantee towards whoever knows it")
    assert randomness.endswith("towards anyone who holds two models made with it")
    assert not callback.statement.guarantee and callback.statement.epsilon == math.inf


def test_overwhelming_noise_destroys_accuracy() -> None:
    assert accuracy(fit(DPSGD(noise_multiplier=1000.0, secret=TEST_SECRET), max_epochs=4)) < 0.6
    assert accuracy(fit(DPSGD(epsilon=math.inf, secret=TEST_SECRET), max_epochs=8)) > 0.7


def test_no_claim_before_a_fit() -> None:
    with pytest.raises(ValueError, match=r"DPSGD has no claim before a fit has started; call Trainer.fit first"):
        DPSGD(epsilon=1).epsilon()


def test_early_stop_keeps_the_planned_claim() -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 12

    callback = DPSGD(noise_multiplier=1.0)
    trainer(callback, Stop(), min_epochs=0).fit(Module(), DataLoader(blobs(), batch_size=24))
    statement = callback.statement
    assert statement.steps_done < statement.steps_planned == 30
    assert callback.epsilon() < statement.epsilon


# The module, the loader and the trainer stay what they were.


def test_module_is_what_it_was() -> None:
    module = Module()
    names, attributes = list(module.state_dict()), set(vars(module))
    during: list[Any] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            during.append((type(module), list(module.state_dict())))

    data = DataLoader(blobs(), batch_size=24)
    run = trainer(DPSGD(noise_multiplier=1.0), Watch(), max_epochs=1)
    run.fit(module, data)
    assert all(kind is Module and state == names for kind, state in during)
    assert set(vars(module)) - {"_hparams"} == attributes  # which Lightning itself adds
    assert not any("forward" in vars(layer) for layer in module.modules())
    assert not any(hasattr(parameter, "summed_grad") for parameter in module.parameters())
    assert not run.strategy.optimizers[0]._optimizer_step_pre_hooks
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not hasattr(run.fit_loop._data_source, "convert")


def test_two_fits_in_a_row() -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    first, second = fit(callback, max_epochs=1), fit(callback, max_epochs=1)
    assert callback.steps == 10
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_new_noise_for_every_fit_without_a_secret_of_the_user() -> None:
    callback = DPSGD(noise_multiplier=1.0)
    one, other = (fit(callback, max_epochs=1) for _ in range(2))
    assert not torch.equal(one.my_net[0].weight, other.my_net[0].weight)


def test_detached_after_an_exception() -> None:
    class Fail(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("stop")

    module = Module()
    with pytest.raises(RuntimeError, match="stop"):
        trainer(DPSGD(noise_multiplier=1.0), Fail()).fit(module, DataLoader(blobs(), batch_size=24))
    assert "training_step" not in vars(module) and "forward" not in vars(module.my_net[0])


def check_resume(folder: Path, stop_at: int = 13, **settings: Any) -> None:
    """Interrupted, within an epoch or at its end, and resumed: weights, ε and steps of the uninterrupted training."""

    class Interrupt(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == stop_at:
                trainer.save_checkpoint(folder / "last.ckpt")
                raise RuntimeError("power failure")

    settings = {"noise_multiplier": 1.0, "secret": TEST_SECRET, **settings}
    whole = fit(one := DPSGD(**settings))
    torch.manual_seed(1)
    with pytest.raises(RuntimeError, match="power failure"):
        trainer(DPSGD(**settings), Interrupt()).fit(Module(), DataLoader(blobs(), 24))
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert TEST_SECRET.value.hex() not in repr(checkpoint)
    resumed, two = Module(), DPSGD(**settings)
    trainer(two).fit(resumed, DataLoader(blobs(), 24), ckpt_path=folder / "last.ckpt", weights_only=True)
    assert two.steps == one.steps == 30 and two.epsilon() == one.epsilon()
    for expected, weight in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, weight)


@pytest.mark.parametrize(
    ("stop_at", "settings"), [(10, {}), (13, {}), (13, {"clipping": "adaptive", "max_physical_batch": 9})]
)
def test_interrupted_and_resumed_equals_uninterrupted(stop_at: int, settings: Any, tmp_path: Path) -> None:
    check_resume(tmp_path, stop_at, **settings)


def test_lightning_itself_refuses_to_resume_without_the_callback(tmp_path: Path) -> None:
    data = DataLoader(blobs(), 24)
    run = trainer(DPSGD(noise_multiplier=1.0), max_epochs=1)
    run.fit(Module(), data)
    run.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(KeyError, match="Trying to restore optimizer state"):
        trainer(max_epochs=2).fit(Module(), data, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    Module().load_state_dict(torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"])  # for inference


@pytest.mark.parametrize("clipping", ["per_layer", pytest.param("automatic", marks=pytest.mark.slow), "adaptive"])
def test_other_ways_of_clipping_train(clipping: str) -> None:
    callback = DPSGD(epsilon=30, max_grad_norm=0.5, clipping=clipping, secret=TEST_SECRET)
    assert accuracy(fit(callback, max_epochs=12)) > 0.6
    assert callback.statement.clipping == clipping and 0.99 * 30 <= callback.statement.epsilon <= 30


def test_adaptive_clipping_noises_gradients_more_and_follows_the_norms() -> None:
    callback = DPSGD(noise_multiplier=1.0, max_grad_norm=50.0, clipping="adaptive", secret=TEST_SECRET)
    fit(callback, max_epochs=12)
    assert callback._fit.step.gradient_noise > 1.0 == callback.statement.noise_multiplier
    assert callback._fit.step.clipping.bounds[0] < 5.0 and callback.statement.max_grad_norm == 50.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"noise_multiplier": 2.0},
            "noise_multiplier=2.0: expected 1.0, as in the checkpoint; resume with that, or train",
        ),
        ({"max_grad_norm": 2.0}, "max_grad_norm=2.0: expected 1.0, as in the checkpoint"),
        ({"public_size": 480}, "sampling_rate=0.05: expected 0.1, as in the checkpoint"),
    ],
)
def test_refuses_to_resume_with_another_mechanism(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = DataLoader(blobs(), 24)
    run = trainer(DPSGD(noise_multiplier=1.0), max_epochs=1)
    run.fit(Module(), data)
    run.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match=message):
        trainer(DPSGD(**{"noise_multiplier": 1.0, **changed}), max_epochs=1).fit(
            Module(), data, ckpt_path=tmp_path / "one.ckpt", weights_only=True
        )


def test_refuses_to_resume_what_was_not_accounted_for(tmp_path: Path) -> None:
    run = trainer(max_epochs=1)
    run.fit(Module(), DataLoader(blobs(), 24))
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match=r"ckpt_path=.*: expected a checkpoint with DPSGD's state.*; train anew"):
        trainer(DPSGD(noise_multiplier=1.0)).fit(Module(), DataLoader(blobs(), 24), ckpt_path=tmp_path / "plain.ckpt")


# Loaders.


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(blobs(), batch_size=24, shuffle=True),
        lambda: DataLoader(blobs(), batch_sampler=BatchSampler(RandomSampler(blobs()), 24, drop_last=False)),
        lambda: DataLoader(blobs(), sampler=BatchSampler(RandomSampler(blobs()), 24, False), batch_size=None),
        lambda: DataLoader(blobs(), batch_size=24, num_workers=1),
    ],
    ids=["shuffled", "batch sampler", "index-batched", "worker"],
)
def test_any_map_style_loader_samples_the_same(loader: Any) -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    module = fit(callback, loader=loader(), max_epochs=1)
    assert callback.statement.sampling_rate == 0.1 and callback.steps == 10
    reference = fit(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), max_epochs=1)
    assert torch.equal(module.my_net[0].weight, reference.my_net[0].weight)


def test_backward_passes_that_are_not_for_the_step_leave_nothing() -> None:
    """Adversarial examples need the gradient of the input; what layers note then is not the step's."""

    class Adversarial(Plain):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            x = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(self.my_net(x), batch[1], reduction="sum"), x)
            return nn.functional.cross_entropy(self.my_net(batch[0] + 0.1 * slope.sign()), batch[1])

    def trained(*callbacks: pl.Callback) -> Tensor:
        torch.manual_seed(1)
        module = Adversarial()
        trainer(*callbacks, max_epochs=1).fit(module, DataLoader(blobs(24), batch_size=24))
        return module.my_net[0].weight.detach()

    torch.testing.assert_close(trained(DPSGD(noise_multiplier=0, max_grad_norm=1e6)), trained())


def test_empty_batches_step_with_noise_only() -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    module = fit(callback, loader=DataLoader(blobs(6), batch_size=1), max_epochs=5)
    assert callback.steps == 30 and len(module.losses) < 30 and np.isfinite(module.losses).all()


def test_rate_is_the_batch_size_over_the_records_whatever_the_remainder() -> None:
    callback = DPSGD(noise_multiplier=1.0)
    fit(callback, loader=DataLoader(blobs(100), batch_size=30), max_epochs=1)
    assert callback.statement.sampling_rate == 0.3 and callback.steps == 4


@pytest.mark.parametrize(
    "optimizer", slow_but(["Adam", "RMSprop"], ["Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Adadelta"])
)
def test_any_optimizer(optimizer: str) -> None:
    class Own(Module):
        def configure_optimizers(self) -> Any:
            return getattr(torch.optim, optimizer)(self.parameters(), lr=0.01)

    torch.manual_seed(1)
    module = Own()
    start = module.my_net[0].weight.detach().clone()
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    fit(callback, module, max_epochs=1)
    assert callback.steps == 10 and not torch.equal(module.my_net[0].weight, start)


def test_a_record_that_is_not_finite_does_not_stop_the_others() -> None:
    data = blobs()
    data.tensors[0][7] = math.inf
    module = fit(DPSGD(noise_multiplier=0.5, secret=TEST_SECRET), loader=DataLoader(data, 24), max_epochs=8)
    assert all(parameter.isfinite().all() for parameter in module.parameters()) and accuracy(module) > 0.6


def test_private_parts_of_lightning_that_this_rests_on() -> None:
    from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource

    assert isinstance(trainer().fit_loop._data_source, _DataLoaderSource)
    assert {"instance", "name"} <= set(vars(_DataLoaderSource(None, "")))


def test_public_size_sets_rate_divisor_and_steps() -> None:
    callback = DPSGD(noise_multiplier=1.0, public_size=480)
    fit(callback, max_epochs=1)
    assert callback.statement.sampling_rate == 0.05 and callback.steps == 20


class Arrays:
    """A fleet of this project: its own sampler, loader and module."""

    x = blobs().tensors[0].numpy()
    y = blobs().tensors[1].numpy()
    schedule = TrainingSchedule(size=120, batch_size=12, epochs=4)

    def train(self, fleet: list[int], sigma: float, sampler: Any = Poisson, **settings: Any) -> tuple[list[Any], DPSGD]:
        networks = []
        for k in fleet:
            torch.manual_seed(k)
            networks.append(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
        stacked = len(fleet) > 1
        network = stack(networks) if stacked else networks[0]
        members = [np.random.default_rng(k).permutation(240)[: 100 + 10 * k] for k in fleet]
        module = Target(
            network,
            inputs=lambda batch, step: batch,
            loss=lambda z, batch, epoch: nn.functional.cross_entropy(
                z.flatten(0, -2), batch.y.flatten(), reduction="none"
            ).view(batch.y.shape),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
            loss_divisor=12.0,
        )
        callback = DPSGD(**{"noise_multiplier": sigma, "secret": TEST_SECRET, **settings})
        loader = training_loader(
            Gather(self.x, self.y, stacked=stacked), sampler(members, fleet, self.schedule, TEST_SECRET)
        )
        trainer(callback, max_epochs=self.schedule.epochs).fit(module, loader)
        return (unstack(network) if stacked else [network.state_dict()]), callback


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_model_is_the_same_alone_and_in_a_stack(sigma: float) -> None:
    together, callback = Arrays().train([3, 4, 7], sigma)
    assert callback.steps == 40 and callback.statement.public_size == 120
    for k, state in zip([3, 4, 7], together, strict=True):
        (alone,), _ = Arrays().train([k], sigma)
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0]["0.weight"] - together[1]["0.weight"], torch.zeros(16, 8), atol=1e-2)


def test_fleet_calibrates_for_the_samplers_steps() -> None:
    _, callback = Arrays().train([0], 0.0, noise_multiplier=None, epsilon=4)
    statement = callback.statement
    assert 0.99 * 4 <= statement.epsilon <= 4 and statement.steps_planned == 40 and statement.sampling_rate == 0.1
    assert statement.delta == Arrays.schedule.delta


def test_refuses_a_sampler_that_shuffles_in_a_stack() -> None:
    with pytest.raises(
        ValueError, match=r"models=\[0, 1\]: expected a loader that samples for each; set sampler.poisson=True"
    ):
        Arrays().train([0, 1], 1.0, sampler=Shuffling, models=[0, 1])


def test_refuses_numbers_that_are_not_the_samplers() -> None:
    with pytest.raises(ValueError, match=r"models=\[5\]"):
        Arrays().train([0], 1.0, models=[5])


def test_refuses_more_steps_than_the_sampler_plans() -> None:
    sampler = Poisson([np.arange(100)], [0], Arrays.schedule, TEST_SECRET)
    loader = training_loader(Gather(Arrays.x, Arrays.y, stacked=False), sampler)
    with pytest.raises(ValueError, match="max_steps=50"):
        trainer(DPSGD(noise_multiplier=1.0), max_epochs=5).fit(Module(), loader)


def test_refuses_to_train_beyond_the_planned_steps() -> None:
    class Longer(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            trainer.fit_loop.max_epochs = 2

    with pytest.raises(ValueError, match="step 11 exceeds the T=10 planned steps; train anew"):
        trainer(DPSGD(noise_multiplier=1.0), Longer(), max_epochs=1).fit(Plain(), DataLoader(blobs(), 24))


def test_refuses_a_fit_without_batches() -> None:
    with pytest.raises(ValueError, match="train_dataloader=null: expected a DataLoader"):
        trainer(DPSGD(noise_multiplier=1.0), limit_train_batches=0).fit(Plain(), DataLoader(blobs(), 24))


# Warnings.


@pytest.mark.parametrize(
    ("settings", "module", "message"),
    [
        ({"noise_multiplier": 0.4}, None, "σ = 0.4 is below 0.5: most of the claim rests on sampling"),
        ({"noise_multiplier": 0.5}, None, "ε = .* is above 10: vacuous as a guarantee"),
        ({"noise_multiplier": 2.0}, None, r"the RDP accountant's ε is \d+% larger: name the accountant"),
        ({"noise_multiplier": 0.0}, lambda: Module(lr=0.0), "the weights did not move; check the learning rate"),
        (
            {"noise_multiplier": 0.0, "max_grad_norm": 1e3},
            None,
            r"0.0% of the gradients were clipped; choose max_grad_norm",
        ),
    ],
)
def test_warnings(settings: Any, module: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match=message):
            fit(DPSGD(secret=TEST_SECRET, **settings), module and module())


def test_warns_of_a_large_sampling_rate() -> None:
    with pytest.warns(UserWarning, match=r"q = 0.6 is above 0.5: sampling hides little"):
        fit(DPSGD(noise_multiplier=5.0), loader=DataLoader(blobs(), batch_size=144), max_epochs=1)


class Validated(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.my_net(batch[0]), batch[1]))


class Plateau(Module):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "loss"}}


@pytest.mark.parametrize(
    ("kind", "callbacks", "message"),
    [
        (Validated, [pl.callbacks.EarlyStopping("val")], "EarlyStopping chooses by val"),
        (Plateau, [], "ReduceLROnPlateau chooses by loss"),
    ],
)
def test_choices_by_a_metric_need_a_word_that_it_is_public(kind: Any, callbacks: Any, message: str) -> None:
    data = DataLoader(blobs(), batch_size=24)
    with pytest.raises(ValueError, match=f"{message}: if that is measured on private .* set monitor_is_public=True"):
        trainer(DPSGD(noise_multiplier=1.0), *callbacks, max_epochs=1).fit(kind(), data, data)
    callback = DPSGD(noise_multiplier=1.0, monitor_is_public=True)
    trainer(callback, *callbacks, max_epochs=1).fit(kind(), data, data)
    assert any(f"{message}, which is stated to be measured on public" in line for line in callback.statement.warnings)


def test_data_dependent_warnings_stay_out_of_the_statement() -> None:
    callback = DPSGD(noise_multiplier=1.0, max_grad_norm=1e3)
    fit(callback, max_epochs=1)
    assert not any("clipped" in warning for warning in callback.statement.warnings)
