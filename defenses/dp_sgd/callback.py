"""DP-SGD for any LightningModule, as one callback."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from datamodules.secret import Secret
from datamodules.units import units_of
from defenses.dp_sgd import rules
from defenses.dp_sgd.engine import replace_attribute
from defenses.dp_sgd.group_norm import replace_batch_norms
from defenses.dp_sgd.mechanism import Mechanism, plan
from defenses.dp_sgd.noise import NoiseSource
from defenses.dp_sgd.physical import PhysicalBatches
from defenses.dp_sgd.probe import check_separable
from defenses.dp_sgd.rules import PrivacyWarning
from defenses.dp_sgd.sampling import PoissonSource, Sampling, poisson_loader
from defenses.dp_sgd.step import PrivateStep
from targets.statement import Statement

SEALED = "dp_sgd_optimizer_states"
"""A checkpoint's optimizer states under another name: without this callback Lightning refuses to resume from it."""


class DPSGD(pl.Callback):
    """Trains any LightningModule with DP-SGD (Abadi et al. 2016, algorithm 1): `Trainer(callbacks=[DPSGD(epsilon=8)])`.

    Samples records Poisson, clips every record's gradient to C, adds noise N(0, σ²C²) to the sum and divides by q·N, so
    that the trained weights say little about any one record. Module, optimizer and loader are as they were when the
    fit ends. A training loader whose sampler has `poisson = True` (with `sampling_rate`, `public_size`, `steps`) is
    used as it is; the sampling of any other is replaced, its batch size B being the records expected in a step, of all
    processes together. The loss must be the mean over the batch, unless the module has an attribute `loss_divisor`:
    then it is a sum over records divided by that.

    Args:
        epsilon: ε > 0 to calibrate the noise for; inf clips without noise. Exactly one of `epsilon` and
            `noise_multiplier`.
        delta: δ below 1/N; N^−1.1 if None.
        noise_multiplier: σ ≥ 0, noise over clipping norm.
        max_grad_norm: C > 0.
        clipping: "flat", "per_layer", "automatic" or "adaptive"; see `clipping.py`.
        max_physical_batch: rows that go through the network at once, at most; None for whole batches.
        augmentations: rows of each record in a step, averaged before clipping.
        groups: the group of every record, where a group is to be protected as a whole; N then counts groups.
        records_per_group: records of a group that take part in a step, at most.
        public_size: N, known to everyone, for loaders whose sampling is replaced; the data set's size if None.
        fix: whether to replace batch norm by group norm.
        secure_rng: whether every noise value is a sum of four, against floating-point attacks; for releases.
        tuning_runs: trainings on the same records that the hyperparameters were chosen by; they go into the statement.
        secret: fixes batches and noise; new from the operating system for every fit if None.
        models: numbers, in the fleet, of the models that are trained; several mean a stack, where all tensors have a
            leading model axis. The sampler's own `models`, or model 0, if None.

    Raises:
        ValueError: on construction or when the fit starts, where the claim would be false.
    """

    def __init__(
        self,
        *,
        epsilon: float | None = None,
        delta: float | None = None,
        noise_multiplier: float | None = None,
        max_grad_norm: float = 1.0,
        clipping: str = "flat",
        max_physical_batch: int | None = None,
        augmentations: int = 1,
        groups: Sequence[Any] | None = None,
        records_per_group: int = 1,
        public_size: int | None = None,
        fix: bool = False,
        secure_rng: bool = False,
        tuning_runs: int = 0,
        secret: Secret | None = None,
        models: Sequence[int] | None = None,
    ):
        rules.check_arguments(epsilon, delta, noise_multiplier, max_grad_norm, clipping)
        rules.check_counts(
            max_physical_batch=max_physical_batch, augmentations=augmentations, records_per_group=records_per_group
        )
        self.target_epsilon, self.delta, self.noise_multiplier = epsilon, delta, noise_multiplier
        self.max_grad_norm, self.clipping, self.max_physical_batch = max_grad_norm, clipping, max_physical_batch
        self.augmentations, self.groups, self.records_per_group = augmentations, groups, records_per_group
        self.public_size, self.fix, self.secure_rng, self.tuning_runs = public_size, fix, secure_rng, tuning_runs
        self.secret, self.models = secret, models
        self._step: PrivateStep | None = None
        self._cautions: tuple[str, ...] = ()
        self._restored: dict[str, Any] | None = None
        self._undo: list[Callable[[], object]] = []

    @property
    def steps(self) -> int:
        """Steps accounted for so far."""
        return 0 if self._step is None else self._step.done

    def epsilon(self) -> float:
        """ε spent so far, at `delta`; until the planned steps are done it is no guarantee."""
        return self._started.mechanism.spent(self.steps)

    @property
    def statement(self) -> Statement:
        """The whole claim. Its ε is that of the planned steps, since when to stop may depend on the records."""
        return replace(self._claim(), privacy_curve=self._started.mechanism.privacy_curve())

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; never the secret, with which anyone could take the noise off again."""
        return {} if self._step is None else self._step.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "optimizer_states" in checkpoint:
            checkpoint[SEALED] = checkpoint.pop("optimizer_states")

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if SEALED in checkpoint:
            checkpoint["optimizer_states"] = checkpoint.pop(SEALED)

    # What follows is in the order in which Lightning calls it.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.fix:
            replace_batch_norms(pl_module)
        rules.check_trainer(trainer, pl_module, self, self.max_physical_batch)
        self._step = self._restored = None
        self._secret = trainer.strategy.broadcast(self.secret or Secret.from_system())  # one for all processes
        self._noise = NoiseSource(secret=self._secret, secure=self.secure_rng)
        self._sampling: Sampling | None = None
        # Before configure_optimizers, which may ask for the number of steps.
        source = trainer.fit_loop._data_source
        convert = functools.partial(self._convert, rank=trainer.global_rank, world_size=trainer.world_size)
        trainer.fit_loop._data_source = PoissonSource(source, convert)
        self._undo.append(lambda: setattr(trainer.fit_loop, "_data_source", source))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rules.check_start(trainer, resumed=self._restored is not None)
        mechanism, sampling = self._plan(trainer)
        self._cautions = rules.cautions(mechanism, mechanism.accounted(), trainer)
        if (gather := sampling.gather) is not None:
            unchecked = check_separable(
                pl_module, lambda records: trainer.strategy.batch_to_device(gather[records]), len(gather)
            )
            self._cautions += () if unchecked is None else (unchecked,)
        self._warn(self._cautions)
        step = self._step = PrivateStep(
            pl_module,
            rules.check_optimizers(trainer.strategy.optimizers),
            mechanism,
            self._noise,
            self._models(),
            processes=trainer.world_size,
            adds_noise=trainer.is_global_zero,
        )
        if self._restored is not None:
            step.restore(self._restored)
        trainer.strategy.optimizers = [step.optimizer]
        self._undo.append(lambda: setattr(trainer.strategy, "optimizers", [step.optimizer.release()]))
        if trainer.world_size > 1:  # it would wait for gradients that never come; the optimizer sums instead
            trainer.strategy.model.require_backward_grad_sync = False  # type: ignore[union-attr]
        step.engine.attach()
        self._undo.append(step.engine.detach)
        self._physical = PhysicalBatches(
            pl_module.training_step,
            dimensions=step.dimensions,
            unit_rows=mechanism.rows_per_unit,
            at_once=self.max_physical_batch,
            clip=step.clip,
            begin=step.optimizer.zero_grad,
            clear=step.engine.clear,
        )
        training_step = (
            self._physical.automatic()
            if pl_module.automatic_optimization
            else self._physical.manual(step=functools.partial(step.alone, pl_module))
        )
        self._undo.append(replace_attribute(pl_module, "training_step", training_step))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._before = self.steps
        self._started.journal.begin_step()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        self._started.engine.clear()  # of backward passes that were not for the step, as for adversarial examples

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = self._started
        if not self._physical.empty:
            step.clip(self._physical.rows)
        step.release()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rules.check_steps(self.steps - self._before)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.steps % every == 0:
            pl_module.log_dict({"epsilon": self.epsilon(), **self._started.journal.metrics()})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._detach()
        self._warn(self._started.journal.warnings())
        self._warn(rules.check_end(self.steps, self._started.mechanism.steps))
        rank_zero_info(self._claim().sentence())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._detach()
        if self._step is not None:
            rank_zero_info(self._claim().sentence())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._detach()

    def _detach(self) -> None:
        """Module, optimizer and loader as they were."""
        while self._undo:
            self._undo.pop()()

    def _claim(self) -> Statement:
        given = self.secret is not None and self.secret.given
        return self._started.mechanism.claim(
            steps_done=self.steps,
            randomness="given secret: no guarantee towards whoever knows it" if given else "operating system",
            noise=self._noise.description,
            tuning_runs=self.tuning_runs,
            warnings=self._cautions,
        )

    @property
    def _started(self) -> PrivateStep:
        if self._step is None:
            raise ValueError("DPSGD has no claim before a fit has started; call Trainer.fit first")
        return self._step

    def _models(self) -> tuple[int, ...]:
        sampled = self._sampling.models if self._sampling else None
        return tuple(self.models) if self.models is not None else sampled or (0,)

    def _convert(self, loader: Any, *, rank: int, world_size: int) -> Any:
        """Poisson sampling in place of the loader's own, unless that is what it does."""
        known = self._sampling
        converted, self._sampling = poisson_loader(
            loader,
            units=functools.partial(
                units_of,
                groups=self.groups,
                records_per_group=self.records_per_group,
                augmentations=self.augmentations,
                secret=self._secret,
            ),
            public_size=self.public_size,
            secret=self._secret,
            models=self._models(),
            done=lambda: self.steps,
            rank=rank,
            world_size=world_size,
        )
        if converted is loader and (self.groups is not None or self.augmentations > 1):
            name = type(loader.sampler).__name__
            raise ValueError(f"sampler={name} draws records by itself; leave out groups and augmentations")
        rules.check_reloaded(known, self._sampling)
        return converted

    def _plan(self, trainer: pl.Trainer) -> tuple[Mechanism, Sampling]:
        if self._sampling is None:
            trainer.fit_loop.setup_data()
        if self._sampling is None:
            raise ValueError("train_dataloader is missing; DPSGD needs one to sample from")
        mechanism = plan(
            self._sampling,
            steps=trainer.estimated_stepping_batches,
            models=self.models,
            epsilon=self.target_epsilon,
            delta=self.delta,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
        )
        return mechanism, self._sampling

    def _warn(self, messages: Sequence[str]) -> None:
        for message in messages:
            warnings.warn(message, PrivacyWarning, stacklevel=2)
