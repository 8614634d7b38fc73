"""DP-SGD for any LightningModule, as one callback."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.secret import Secret
from defenses.dp_sgd import rules
from defenses.dp_sgd.calibration import Accounted, accounted, calibrate, privacy_curve, rdp_epsilon
from defenses.dp_sgd.engine import Engine
from defenses.dp_sgd.optimizer import NoisyOptimizer
from defenses.dp_sgd.probe import check_separable
from defenses.dp_sgd.rules import Mechanism, PrivacyWarning
from defenses.dp_sgd.sampling import PoissonSource, Sampling, batch_shape, poisson_loader, poisson_sampler
from targets.stacks import transposed
from targets.statement import NOT_COVERED, Statement


class DPSGD(pl.Callback):
    """Trains any LightningModule with DP-SGD (Abadi et al. 2016, algorithm 1): `Trainer(callbacks=[DPSGD(epsilon=8)])`.

    Samples records Poisson, clips every record's gradient to C, adds noise N(0, σ²C²) to the sum and divides by q·N, so
    that the trained weights say little about any one record. Module, optimizer and loader are as they were when the
    fit ends. A training loader whose sampler has `poisson = True` (with `sampling_rate`, `public_size`, `steps`) is
    used as it is; the sampling of any other is replaced. The loss must be the mean over the batch, unless the module
    has an attribute `loss_divisor`: then it is a sum over records divided by that.

    Args:
        epsilon: ε > 0 to calibrate the noise for; inf clips without noise. Exactly one of `epsilon` and
            `noise_multiplier`.
        delta: δ below 1/N; N^−1.1 if None.
        noise_multiplier: σ ≥ 0, noise over clipping norm.
        max_grad_norm: C > 0.
        public_size: N, known to everyone, for loaders whose sampling is replaced; the data set's size if None.
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
        public_size: int | None = None,
        secret: Secret | None = None,
        models: Sequence[int] | None = None,
    ):
        rules.check_arguments(epsilon, delta, noise_multiplier, max_grad_norm)
        self.target_epsilon, self.delta, self.noise_multiplier = epsilon, delta, noise_multiplier
        self.max_grad_norm, self.public_size = max_grad_norm, public_size
        self.secret, self.models = secret, models
        self.steps = 0
        """Steps accounted for so far."""
        self._mechanism: Mechanism | None = None
        self._cautions: tuple[str, ...] = ()
        self._restored: dict[str, Any] | None = None
        self._undo: list[Callable[[], object]] = []

    def epsilon(self) -> float:
        """ε spent so far, by Rényi accounting; until the planned steps are done it is no guarantee."""
        mechanism = self._known()
        return rdp_epsilon(mechanism.noise_multiplier, mechanism.sampling_rate, self.steps, mechanism.delta)

    @property
    def statement(self) -> Statement:
        """The whole claim. Its ε is that of the planned steps, since when to stop may depend on the records."""
        mechanism = self._known()
        spent = self._accounted()
        given = self.secret is not None and self.secret.given
        return Statement(
            guarantee=math.isfinite(spent.epsilon),
            epsilon=spent.epsilon,
            delta=mechanism.delta,
            accountant=spent.accountant,
            epsilon_rdp=spent.epsilon_rdp,
            sampling="Poisson",
            public_size=mechanism.public_size,
            sampling_rate=mechanism.sampling_rate,
            steps_planned=mechanism.steps,
            steps_done=self.steps,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            engine=Engine.name,
            randomness="given secret: no guarantee towards whoever knows it" if given else "operating system",
            privacy_curve=privacy_curve(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps),
            not_covered=NOT_COVERED,
            warnings=self._cautions,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; never the secret, with which anyone could take the noise off again."""
        return {} if self._mechanism is None else {"steps_done": self.steps, **asdict(self._mechanism)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)

    # What follows is in the order in which Lightning calls it.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        rules.check_trainer(trainer, pl_module, self)
        self.steps, self._mechanism, self._restored = 0, None, None
        self._secret = self.secret or Secret.from_system()
        self._sampling: Sampling | None = None
        # Before configure_optimizers, which may ask for the number of steps.
        source = trainer.fit_loop._data_source
        trainer.fit_loop._data_source = PoissonSource(source, self._convert)
        self._undo.append(lambda: setattr(trainer.fit_loop, "_data_source", source))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mechanism = self._plan(trainer)
        self._resume(trainer)
        models = self._models()
        stacked = len(models) > 1
        self._dimensions = 2 if stacked else 1
        self._cautions = rules.cautions(self._mechanism, self._accounted(), trainer)
        if (gather := self._sampled().gather) is not None:
            few = trainer.strategy.batch_to_device(gather[[0, 1, 2][: len(gather)]])
            self._cautions += tuple(filter(None, [check_separable(pl_module, few)]))
        self._warn(self._cautions)
        self._engine = Engine(pl_module, max_grad_norm=self.max_grad_norm, stacked=stacked)
        inner = rules.check_optimizers(trainer.strategy.optimizers)
        expected = self._mechanism.sampling_rate * self._mechanism.public_size
        self._optimizer = NoisyOptimizer(
            inner,
            noise_multiplier=self._mechanism.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=expected,
            models=len(models) if stacked else None,
            transposed=transposed(pl_module),
        )
        self._optimizer.attach_step_hook(self._count)
        trainer.strategy.optimizers = [self._optimizer]
        self._undo.append(lambda: setattr(trainer.strategy, "optimizers", [self._optimizer.release()]))
        self._engine.attach()
        self._undo.append(self._engine.detach)
        pl_module.training_step = self._guarded(pl_module.training_step)  # type: ignore[method-assign]
        self._undo.append(lambda: pl_module.__dict__.pop("training_step"))
        self._start = [parameter.detach().clone() for parameter in self._engine.parameters]
        self._clipped, self._seen = 0.0, 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._records = batch_shape(batch, self._dimensions)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if math.prod(self._records) == 0:
            self._engine.clip_nothing()
        else:
            divisor = getattr(pl_module, "loss_divisor", None)
            norms = self._engine.clip(self._records, scale=divisor or self._records[-1])
            self._clipped += float((norms > self.max_grad_norm).sum())
            self._seen += float((norms > 0).sum())
        if self._optimizer.noise_multiplier > 0:
            self._optimizer.bits = [
                functools.partial(self._secret.bits, "noise", k, self.steps) for k in self._models()
            ]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        unmoved = all(torch.equal(a, b) for a, b in zip(self._start, self._engine.parameters, strict=True))
        fraction = self._clipped / max(self._seen, 1.0)
        self._detach()
        if unmoved and self.steps:
            self._warn(["the weights did not move; check the learning rate and that the optimizer has the parameters"])
        if self._seen and not 0.01 <= fraction <= 0.99:
            self._warn([f"{fraction:.1%} of the gradients were clipped; choose max_grad_norm nearer to their median"])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._detach()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._detach()

    def _detach(self) -> None:
        """Module, optimizer and loader as they were."""
        while self._undo:
            self._undo.pop()()

    def _known(self) -> Mechanism:
        if self._mechanism is None:
            raise ValueError("DPSGD has no claim before a fit has started; call Trainer.fit first")
        return self._mechanism

    def _accounted(self) -> Accounted:
        mechanism = self._known()
        return accounted(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps, mechanism.delta)

    def _sampled(self) -> Sampling:
        if self._sampling is None:
            raise ValueError("train_dataloader is missing; DPSGD needs one to sample from")
        return self._sampling

    def _models(self) -> tuple[int, ...]:
        sampled = self._sampling.models if self._sampling else None
        return tuple(self.models) if self.models is not None else sampled or (0,)

    def _convert(self, loader: Any) -> Any:
        """Poisson sampling in place of the loader's own, unless that is what it does."""
        if (sampler := poisson_sampler(loader)) is not None:
            models = getattr(sampler, "models", None)
            self._sampling = Sampling(
                rate=sampler.sampling_rate,
                public_size=sampler.public_size,
                steps=sampler.steps,
                models=None if models is None else tuple(models),
            )
            return loader
        if len(self._models()) > 1:
            raise ValueError(
                f"models={list(self._models())} need a loader that samples for each; set sampler.poisson=True"
            )
        converted, self._sampling = poisson_loader(
            loader, public_size=self.public_size, secret=self._secret, model=self._models()[0], done=lambda: self.steps
        )
        return converted

    def _plan(self, trainer: pl.Trainer) -> Mechanism:
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("max_epochs=-1 without max_steps has no end to account for; set one of them")
        if self._sampling is None:
            trainer.fit_loop.setup_data()
        sampling = self._sampled()
        if self.models is not None and sampling.models not in (None, tuple(self.models)):
            raise ValueError(
                f"models={list(self.models)} are not the sampler's {list(sampling.models or ())}; give the same"
            )
        if sampling.steps is not None and steps > sampling.steps:
            raise ValueError(f"max_steps={steps} exceeds the sampler's T={sampling.steps}; train at most that long")
        steps = int(sampling.steps or steps)
        delta = float(sampling.public_size**-1.1) if self.delta is None else self.delta
        rules.check_delta(delta, sampling.public_size)
        noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.target_epsilon is not None
            noise_multiplier = calibrate(self.target_epsilon, delta, sampling.rate, steps)
        return Mechanism(
            noise_multiplier=float(noise_multiplier),
            max_grad_norm=float(self.max_grad_norm),
            sampling_rate=sampling.rate,
            public_size=sampling.public_size,
            steps=steps,
            delta=delta,
        )

    def _resume(self, trainer: pl.Trainer) -> None:
        if self._restored is not None:
            self.steps = self._restored["steps_done"]
            rules.check_resumed(asdict(self._known()), self._restored)
        elif trainer.ckpt_path is not None:
            raise ValueError(
                f"ckpt_path={trainer.ckpt_path} holds no accountant's state; its steps are unaccounted for, train anew"
            )

    def _guarded(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        """The user's training_step, except for empty batches, which user code is rarely written for."""

        @functools.wraps(training_step)
        def guarded(*inputs: Any, **keywords: Any) -> Any:
            if math.prod(self._records) == 0:
                return torch.zeros((), requires_grad=True)
            loss = training_step(*inputs, **keywords)
            if loss is None:
                raise ValueError("training_step returned None; a step may not depend on the records, return the loss")
            return loss

        return guarded

    def _count(self, optimizer: Any) -> None:
        if self.steps >= self._known().steps:
            raise ValueError(f"step {self.steps + 1} exceeds the T={self._known().steps} planned steps; train anew")
        self.steps += 1

    def _warn(self, messages: Sequence[str]) -> None:
        for message in messages:
            warnings.warn(message, PrivacyWarning, stacklevel=2)
