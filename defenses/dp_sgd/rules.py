"""Refusals and warnings of DP-SGD: settings under which the claim would be false or misleading."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import optim

from palisade.defenses.dp_sgd.accounting import Accounted
from palisade.defenses.dp_sgd.clipping import CLIPPING_CLASSES
from palisade.defenses.dp_sgd.gradients import GRADIENT_METHODS
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.sampling import Sampling
from palisade.targets.statement import rounded_up

VACUOUS_EPSILON = 10.0
READS_GRADIENTS = ("on_after_backward", "on_before_optimizer_step")


class PrivacyWarning(UserWarning):
    """Warning about a sound training whose result may be overrated."""


def check_arguments(
    epsilon: float | None,
    delta: float | None,
    noise_multiplier: float | None,
    max_grad_norm: float,
    clipping: str,
    per_record: str = "auto",
) -> None:
    """Refusal of arguments of the callback out of range.

    Args:
        epsilon: ε > 0, inf for clipping alone; None where the noise is given.
        delta: δ in (0, 1); None: N^−1.1.
        noise_multiplier: finite σ ≥ 0; None where ε is given.
        max_grad_norm: finite C > 0.
        clipping: a key of `CLIPPING_CLASSES`.
        per_record: one of `GRADIENT_METHODS`.

    Raises:
        ValueError: for the first one that is wrong.
    """
    check_words(clipping, per_record)
    if (epsilon is None) == (noise_multiplier is None):
        raise ValueError(
            f"epsilon={epsilon}, noise_multiplier={noise_multiplier}: expected exactly one of them; the other follows"
        )
    if epsilon is not None and not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: expected a number > 0; choose e.g. 8, or inf for clipping only")
    if noise_multiplier is not None and not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier={noise_multiplier}: expected a finite number >= 0; choose e.g. 1")
    if not 0 < max_grad_norm < math.inf:
        raise ValueError(f"max_grad_norm={max_grad_norm}: expected a finite number > 0; choose e.g. 1")
    if delta is not None and not 0 < delta < 1:
        raise ValueError(f"delta={delta}: expected a number > 0 and < 1; choose a value below 1/N")


def check_words(clipping: str, per_record: str) -> None:
    """Check of `clipping` and `per_record`, the keys of `CLIPPING_CLASSES` and `GRADIENT_METHODS`; else ValueError."""
    for name, value, words in (("clipping", clipping, CLIPPING_CLASSES), ("per_record", per_record, GRADIENT_METHODS)):
        if value not in words:
            raise ValueError(f"{name}={value}: expected one of {', '.join(words)}; choose e.g. {next(iter(words))}")


def check_counts(**counts: int | None) -> None:
    """Raises ValueError for a count below 1, by the name of its setting; None stands for no bound."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected an integer >= 1; choose e.g. 1")


def check_trainer(
    trainer: pl.Trainer, module: pl.LightningModule, own: pl.Callback, max_physical_batch: int | None
) -> None:
    """Refuses settings of the trainer, the module or callbacks other than `own` under which no claim would hold."""
    if max_physical_batch is not None and not module.automatic_optimization:
        raise ValueError(
            f"max_physical_batch={max_physical_batch}: expected null under automatic_optimization=False; leave it out,"
            " or let Lightning call backward and step"
        )
    _check_tuning(trainer)
    _check_trainer_settings(trainer)
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ValueError("training_step(dataloader_iter) fetches batches by itself; take a batch instead")
    _check_gradient_readers(trainer, module, own)


def _check_tuning(trainer: pl.Trainer) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LearningRateFinder | BatchSizeFinder):
            raise ValueError(
                f"{type(callback).__name__} (Tuner.lr_find, Tuner.scale_batch_size) trains without noise, and no ε"
                " covers that; remove it, and choose the setting on public records"
            )


def _check_trainer_settings(trainer: pl.Trainer) -> None:
    if trainer.gradient_clip_val:
        raise ValueError(
            f"gradient_clip_val={trainer.gradient_clip_val}: expected null, since it clips the sum and not the records;"
            " remove it and set DPSGD(max_grad_norm=…)"
        )
    scheduler: Any = next((c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)), None)  # type: ignore[attr-defined]
    if trainer.accumulate_grad_batches != 1 or (scheduler is not None and scheduler.going_to_accumulate_grad_batches()):
        raise ValueError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}: expected 1, since each batch is accounted for"
            " separately; set it to 1 and raise the batch size"
        )
    if "16" in str(trainer.precision):
        raise ValueError(
            f"precision={trainer.precision}: expected 32-true or 64-true, since 16 bits round the norms of clipping;"
            " set precision=32-true"
        )
    if overfit := getattr(trainer, "overfit_batches", 0):
        raise ValueError(f"overfit_batches={overfit}: expected 0, since others repeat the same batches; set it to 0")
    if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
        raise ValueError(
            f"strategy={type(trainer.strategy).__name__}: expected one that keeps network and gradients whole; use ddp"
        )


def _check_gradient_readers(trainer: pl.Trainer, module: pl.LightningModule, own: pl.Callback) -> None:
    for hook in ("configure_gradient_clipping", *READS_GRADIENTS):
        if is_overridden(hook, module, pl.LightningModule):
            raise ValueError(f"{type(module).__name__}.{hook} sees gradients before the noise is added; remove it")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in READS_GRADIENTS:
            if callback is not own and is_overridden(hook, callback, pl.Callback):
                raise ValueError(
                    f"callback {type(callback).__name__} reads gradients in {hook}, before noise is added; remove it"
                )


def check_choices(trainer: pl.Trainer, *, monitor_is_public: bool) -> None:
    """Raises ValueError if a scheduler or callback chooses by a metric that is not stated to be public."""
    if monitor_is_public:
        return
    for what, monitor in monitored(trainer):
        raise ValueError(
            f"{what} chooses by {monitor}: if that is measured on private records, the choice gives them away without"
            " noise; remove it, or set monitor_is_public=True if it is measured on public ones"
        )


def monitored(trainer: pl.Trainer) -> list[tuple[str, str]]:
    """Schedulers and callbacks that choose by a logged metric during training, each with its metric."""
    schedules = [
        (type(config.scheduler).__name__, str(config.monitor))
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
    ]
    callbacks = [
        (type(callback).__name__, callback.monitor)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(getattr(callback, "monitor", None), str)
    ]
    return schedules + callbacks


def batch_callbacks(trainer: pl.Trainer, own: pl.Callback) -> list[pl.Callback]:
    """The user's callbacks that see a batch."""
    return [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if callback is not own
        and not type(callback).__module__.startswith("pytorch_lightning.")
        and any(is_overridden(hook, callback, pl.Callback) for hook in ("on_train_batch_start", "on_train_batch_end"))
    ]


def check_optimizers(optimizers: list[optim.Optimizer]) -> optim.Optimizer:
    """The one optimizer of a fit.

    Raises:
        ValueError: if there are several, or it must evaluate a batch several times per step.
    """
    if len(optimizers) != 1:
        raise ValueError(f"configure_optimizers gives {len(optimizers)} optimizers; DPSGD needs exactly one")
    closure = inspect.signature(type(optimizers[0]).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        name = type(optimizers[0]).__name__
        raise ValueError(
            f"optimizer={name}: expected one that evaluates a batch once per step; use SGD, Adam or another one"
        )
    return optimizers[0]


def check_start(trainer: pl.Trainer, *, resumed: bool) -> None:
    """Raises ValueError where earlier steps are unaccounted for: by a checkpoint without our state, or the trainer."""
    if trainer.ckpt_path is not None and not resumed:
        raise ValueError(
            f"ckpt_path={trainer.ckpt_path}: expected a checkpoint with DPSGD's state, or its steps are not accounted"
            " for; train anew"
        )
    if trainer.ckpt_path is None and trainer.global_step:
        raise ValueError(
            f"global_step={trainer.global_step}: expected 0, since this trainer's earlier steps are not accounted for;"
            " make a new Trainer, or resume with ckpt_path="
        )


def check_resumed(now: Mapping[str, Any], before: Mapping[str, Any], *, may_continue: bool) -> None:
    """Refusal of a resumed fit whose mechanism differs from that of its checkpoint.

    Args:
        now: names and values that the claim rests on, in this fit.
        before: those in the checkpoint.
        may_continue: whether more steps may follow, as where σ is given and ε follows.

    Raises:
        ValueError: for the first difference.
    """
    longer = now["steps"] > before.get("steps", now["steps"])
    if longer and not may_continue:  # first, since the noise for more steps differs too
        raise ValueError(
            f"steps={now['steps']}: expected {before['steps']}, as in the checkpoint, which the noise was calibrated"
            f" for; resume with these, or give noise_multiplier={before.get('noise_multiplier')} and no epsilon=, which"
            " accounts for all steps"
        )
    for name, value in now.items():
        if before.get(name) != value and not (longer and name == "steps"):
            raise ValueError(
                f"{name}={value}: expected {before.get(name)}, as in the checkpoint; resume with that, or train anew"
            )


def check_reloaded(before: Sampling | None, now: Sampling) -> None:
    """Raises ValueError if a loader made during the fit samples otherwise than the first; None before that one."""
    if before is not None and before != now:
        raise ValueError(
            f"q={now.rate:.3g}, N={now.public_size}: expected q={before.rate:.3g}, N={before.public_size} from the"
            " reloaded train_dataloader; keep its batch size and its number of records"
        )


def check_end(done: int, planned: int) -> list[str]:
    """Warning about a training that ended before its plan."""
    if done == planned:
        return []
    return [f"stopped after {done} of {planned} steps: ε stays that of the plan; set max_steps to stop there by plan"]


def cautions(mechanism: Mechanism, accounted: Accounted, trainer: pl.Trainer) -> tuple[str, ...]:
    """Cautions for a reader of the claim; they say nothing about the records themselves."""
    texts = []
    if 0 < mechanism.noise_multiplier < 0.5:
        texts.append(f"σ = {mechanism.noise_multiplier:.3g} is below 0.5: most of the claim rests on sampling")
    if mechanism.sampling_rate > 0.5:
        texts.append(f"q = {mechanism.sampling_rate:.3g} is above 0.5: sampling hides little")
    if VACUOUS_EPSILON < accounted.epsilon < math.inf:
        texts.append(f"ε = {rounded_up(accounted.epsilon)} is above {VACUOUS_EPSILON:g}: vacuous as a guarantee")
    if 0 < accounted.epsilon < math.inf and accounted.epsilon_rdp > 1.2 * accounted.epsilon:
        excess = accounted.epsilon_rdp / accounted.epsilon - 1
        texts.append(f"the RDP accountant's ε is {excess:.0%} larger: name the accountant when you compare")
    for what, monitor in monitored(trainer):
        texts.append(f"{what} chooses by {monitor}, which is stated to be measured on public records")
    return tuple(texts)
