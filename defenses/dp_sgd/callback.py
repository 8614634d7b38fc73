"""DP-SGD for any LightningModule, as one callback."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from palisade.data.secret import Secret
from palisade.data.units import units_of
from palisade.defenses.dp_sgd import rules
from palisade.defenses.dp_sgd.accounting import History
from palisade.defenses.dp_sgd.checks import MAX_RECORDS_PER_LOOK, Pace
from palisade.defenses.dp_sgd.choice import Choice, Chooser
from palisade.defenses.dp_sgd.fit import PrivateFit
from palisade.defenses.dp_sgd.mechanism import Mechanism, plan
from palisade.defenses.dp_sgd.mixing import refuse_mixing_layers, replace_batch_norms
from palisade.defenses.dp_sgd.noise import core_is_idle, fit_secret, identities
from palisade.defenses.dp_sgd.precision import check_precision, full_precision
from palisade.defenses.dp_sgd.rules import PrivacyWarning
from palisade.defenses.dp_sgd.sampling import PoissonSource, Sampling, batch_transfer, poisson_loader
from palisade.defenses.dp_sgd.step import PrivateStep
from palisade.defenses.dp_sgd.watch import Watch
from palisade.targets.stacks import transposed
from palisade.targets.statement import Statement

OPTIMIZER_STATES_KEY = "dp_sgd_optimizer_states"
"""A checkpoint's optimizer states under another name: without this callback Lightning refuses to resume from it."""


class DPSGD(pl.Callback):
    """Trains any LightningModule with DP-SGD (Abadi et al. 2016, algorithm 1): `Trainer(callbacks=[DPSGD(epsilon=8)])`.

    Samples records Poisson, clips every record's gradient to C, adds noise N(0, σ²C²) to the sum and divides by q·N, so
    that the trained weights say little about any one record. Module, optimizer and loader are as they were when the
    fit ends. Modules whose layers are all known are trained in one backward pass of the batch, and watched; any other
    record by record.

    A training loader whose sampler has `poisson = True` (and `sampling_rate`, `public_size`, `steps`) is used as it is;
    the sampling of any other is replaced, its batch size B being the records expected in a step, of all processes
    together. The loss must be the mean over the batch, unless the module has an attribute `loss_divisor`:
    then it is a sum over records divided by that.

    Args:
        epsilon: ε > 0 to calibrate the noise for; inf clips without noise. Exactly one of `epsilon` and
            `noise_multiplier`.
        delta: δ below 1/N; N^−1.1 if None.
        noise_multiplier: σ ≥ 0, noise over clipping norm.
        max_grad_norm: C > 0.
        clipping: "flat", "per_layer", "automatic" or "adaptive"; see `clipping.py`.
        per_record: how a record's gradient is computed: "fast", in one backward pass of the batch; "functional" or
            "alone", each record as a batch of its own; or the fastest of these that is right, "auto"; see `choice.py`.
        unchecked: whether to train where nothing can show that records are not coupled. Then nothing is guaranteed.
        monitor_is_public: whether what schedules, early stopping and checkpoints choose by is measured on public
            records; without that they are refused.
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
        per_record: str = "auto",
        unchecked: bool = False,
        monitor_is_public: bool = False,
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
    ) -> None:
        rules.check_arguments(epsilon, delta, noise_multiplier, max_grad_norm, clipping, per_record)
        rules.check_counts(
            max_physical_batch=max_physical_batch, augmentations=augmentations, records_per_group=records_per_group
        )
        self.target_epsilon, self.delta, self.noise_multiplier = epsilon, delta, noise_multiplier
        self.max_grad_norm, self.clipping, self.max_physical_batch = max_grad_norm, clipping, max_physical_batch
        self.augmentations, self.groups, self.records_per_group = augmentations, groups, records_per_group
        self.public_size, self.fix, self.secure_rng, self.tuning_runs = public_size, fix, secure_rng, tuning_runs
        self.secret, self.models = secret, models
        self.per_record, self.unchecked, self.monitor_is_public = per_record, unchecked, monitor_is_public
        self._fit: PrivateFit | None = None
        self._earlier: History = ()
        self._cautions: tuple[str, ...] = ()
        self._restored: dict[str, Any] | None = None
        self._undo: list[Callable[[], object]] = []

    @property
    def steps(self) -> int:
        """Steps accounted for so far."""
        return 0 if self._fit is None else self._fit.step.done

    def epsilon(self) -> float:
        """ε spent so far, at `delta`; until the planned steps are done it is no guarantee."""
        return self._started.step.mechanism.spent(self.steps, self._earlier)

    @property
    def statement(self) -> Statement:
        """The whole claim. Its ε is that of the planned steps, since when to stop may depend on the records."""
        return replace(self._claim(), privacy_curve=self._started.step.mechanism.privacy_curve(self._earlier))

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; never the secret, with which anyone could take the noise off again."""
        return {} if self._fit is None else {**self._fit.step.state(), "fits": self._identities}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook on resuming: the accountant's state of the checkpoint, which `on_fit_start` compares."""
        self._restored = dict(state_dict)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook before a checkpoint is written: seals the optimizer's state, for resuming with DP-SGD alone.

        Raises:
            ValueError: between backward pass and optimizer step, where a resumed fit would draw another gradient.
        """
        if self._fit is not None and self._fit.step.pending:
            raise ValueError(
                "a checkpoint between backward pass and optimizer step would be resumed with another"
                " gradient; save it before or after the step"
            )
        if "optimizer_states" in checkpoint:
            checkpoint[OPTIMIZER_STATES_KEY] = checkpoint.pop("optimizer_states")

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook after a checkpoint is read: puts the optimizer's state back in its place."""
        if OPTIMIZER_STATES_KEY in checkpoint:
            checkpoint["optimizer_states"] = checkpoint.pop(OPTIMIZER_STATES_KEY)

    # What follows is in the order in which Lightning calls it.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook before a stage: for a fit, refuses unsound settings and puts Poisson loaders into place.

        Raises:
            ValueError: if no claim would hold under a setting of trainer or module.
        """
        if stage != "fit":
            return
        if self.fix:
            replace_batch_norms(pl_module)
        rules.check_trainer(trainer, pl_module, self, self.max_physical_batch)
        self._remember()
        self._fit = self._restored = None
        self._ended = False
        self._secret = trainer.strategy.broadcast(self.secret or Secret.from_system())  # one for all processes
        self._sampling: Sampling | None = None
        # Before configure_optimizers, which may ask for the number of steps.
        source = trainer.fit_loop._data_source
        convert = functools.partial(
            self._convert,
            transfer=batch_transfer(trainer, pl_module),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        trainer.fit_loop._data_source = PoissonSource(source, convert)
        self._undo.append(lambda: setattr(trainer.fit_loop, "_data_source", source))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after the optimizer was made: calibrates the noise and takes over backward pass and step.

        Raises:
            ValueError: if no claim would hold for this optimizer, module or checkpoint.
        """
        rules.check_start(trainer, resumed=self._restored is not None)
        rules.check_choices(trainer, monitor_is_public=self.monitor_is_public)
        check_precision(pl_module)
        in_full = ExitStack()
        in_full.enter_context(full_precision())
        self._undo.append(in_full.close)
        mechanism, sampling = self._plan(trainer)
        self._cautions = rules.cautions(mechanism, mechanism.accounted(), trainer)
        self._warn(self._cautions)
        optimizer = rules.check_optimizers(trainer.strategy.optimizers)
        self._undo.append(refuse_mixing_layers(pl_module))
        secrets = self._secrets(pl_module, optimizer, mechanism, sampling)
        fetcher: Any = trainer.fit_loop._data_fetcher
        iter(fetcher)  # anew: worker processes may have drawn by other keys already
        chooser = self._chooser(pl_module, mechanism, sampling, secrets)
        self.choice = self._choose(chooser)
        step = PrivateStep(
            pl_module,
            optimizer,
            mechanism,
            chooser.make(self.choice.way),
            secrets,
            self._models(),
            secure=self.secure_rng,
            ahead=self._ahead(),
            processes=trainer.world_size,
            adds_noise=trainer.is_global_zero,
        )
        watch = Watch(
            chooser,
            step.clipped,
            Pace.of(mechanism, step.clipped.parameters, models=len(step.models), drawing=chooser.draws),
            exempt=self._exempt(pl_module),
            hooked=rules.batch_callbacks(trainer, self),
        )
        fit = self._fit = PrivateFit(
            pl_module, step, watch, max_physical_batch=self.max_physical_batch, warn=self._warn
        )
        if self._restored is not None:
            step.restore(self._restored, may_continue=self.target_epsilon is None)
        self._warn(watch.start())
        self._undo += fit.attach(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook before a batch: starts the step, ahead of the hooks of module and later callbacks."""
        self._started.begin(batch_idx)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        """Lightning's hook before the backward pass: drops gradients and notes of the user's own passes."""
        self._started.clear()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after the backward pass: clips, and writes the noisy gradient."""
        self._started.backward_done()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook after a batch: ends the step, and logs ε with the clipping's numbers at intervals."""
        self._started.end()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.steps % every == 0:
            pl_module.log_dict({"epsilon": self.epsilon(), **self._started.step.clipping_stats.metrics()})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after training: puts everything back, warns, and prints the claim."""
        self._detach()
        fit = self._started
        self._ended = True
        self._warn(fit.step.warnings())
        self._warn(rules.check_end(self.steps, fit.step.mechanism.steps))
        rank_zero_info(self._claim().sentence())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook after an error: puts everything back, and prints the claim."""
        self._detach()
        if self._fit is not None:
            rank_zero_info(self._claim().sentence())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook after a stage: warns of what the module's own last hooks changed."""
        self._detach()
        if self._fit is not None and self._ended:  # after the module's own last hooks
            self._ended = False
            self._warn(self._fit.watch.end())

    # What a fleet of this project does otherwise.

    purpose = "fit"
    """Purpose of the noise; part of its key."""

    def _choose(self, chooser: Chooser) -> Choice:
        choice = chooser.choose(self._first_look())
        if choice.way != "fast" and self.per_record == "auto":
            rank_zero_info(f"per_record={choice.way}: {choice.reason}")
        return choice

    def _first_look(self) -> int:
        """Units that are compared before the first step, at most."""
        return MAX_RECORDS_PER_LOOK

    def _exempt(self, module: pl.LightningModule) -> bool:
        """True where all code is this project's own: the first check then suffices."""
        return False

    def _ahead(self) -> bool:
        """True if a thread may draw noise ahead."""
        return core_is_idle()

    # Parts of `on_fit_start`.

    def _detach(self) -> None:
        """Restores module, optimizer and loader."""
        while self._undo:
            self._undo.pop()()

    def _remember(self) -> None:
        """Adds an earlier fit with this callback to every later claim: its records may be the same."""
        if self._fit is not None and self.steps:
            self._earlier += self._fit.step.mechanism.history(self.steps)

    def _claim(self) -> Statement:
        step, watch = self._started.step, self._started.watch
        return step.mechanism.claim(
            steps_done=self.steps,
            user_secret=self.secret is not None and self.secret.user_chosen,
            noise=step.sources[0].description,
            tuning_runs=self.tuning_runs,
            warnings=self._cautions,
            missed=None if watch.exempt else watch.pace.missed(),
            unchecked=self.unchecked,
            earlier=self._earlier,
        )

    @property
    def _started(self) -> PrivateFit:
        if self._fit is None:
            raise ValueError("DPSGD has no claim before a fit has started; call Trainer.fit first")
        return self._fit

    def _models(self) -> tuple[int, ...]:
        sampled = self._sampling.models if self._sampling else None
        return tuple(self.models) if self.models is not None else sampled or (0,)

    def _convert(self, loader: Any, *, transfer: Callable[[Any], Any], rank: int, world_size: int) -> Any:
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
            transfer=transfer,
            rank=rank,
            world_size=world_size,
        )
        if getattr(loader.sampler, "poisson", False) and (self.groups is not None or self.augmentations > 1):
            name = type(loader.sampler).__name__
            raise ValueError(
                f"sampler={name}: expected no groups or augmentations with a sampler that draws records by itself;"
                " leave them out"
            )
        rules.check_reloaded(known, self._sampling)
        if known is not None and self._fit is not None:
            self._follow(self._sampling)
        return converted

    def _follow(self, sampling: Sampling) -> None:
        """Connects a loader's draws to the keys of this fit, and the watch to its records."""
        if sampling.rekey is not None:
            sampling.rekey([source.secret for source in self._started.step.sources])
        if sampling.records is not None:
            self._started.watch.follow(sampling.records)

    def _plan(self, trainer: pl.Trainer) -> tuple[Mechanism, Sampling]:
        if self._sampling is None:
            trainer.fit_loop.setup_data()
        if self._sampling is None:
            raise ValueError(
                "train_dataloader=null: expected a DataLoader to sample from; define train_dataloader or pass one to"
                " fit"
            )
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

    def _secrets(
        self, module: pl.LightningModule, optimizer: Any, mechanism: Mechanism, sampling: Sampling
    ) -> list[Secret]:
        """Secrets of this fit, for batches and noise."""
        restored = (self._restored or {}).get("fits")
        self._identities: list[str] = restored or identities(
            module,
            optimizer,
            mechanism,
            purpose=self.purpose,
            models=self._models(),
            transposed=transposed(module),
        )
        secrets = [fit_secret(self._secret, identity) for identity in self._identities]
        if sampling.rekey is not None:
            sampling.rekey(secrets)
        return secrets

    def _chooser(
        self,
        module: pl.LightningModule,
        mechanism: Mechanism,
        sampling: Sampling,
        secrets: Sequence[Secret],
    ) -> Chooser:
        assert sampling.records is not None
        return Chooser.of(
            module,
            self.per_record,
            records=sampling.records,
            mechanism=mechanism,
            secrets=secrets,
            models=self._models(),
            unchecked=self.unchecked,
        )

    def _warn(self, messages: Sequence[str]) -> None:
        for message in messages:
            warnings.warn(message, PrivacyWarning, stacklevel=2)
