"""Runs of the user's training_step out of turn, which leave no trace."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from palisade.data.draws import Draws
from palisade.defenses.dp_sgd.gradients import Refused
from palisade.defenses.dp_sgd.state import ModuleState, Saved

SHARED_SEED = 0x5EED
"""Seed of random numbers where both sides of a comparison need equal ones."""


class StepFailed(ValueError):
    """The user's own code raised an error out of its turn; `__cause__` has it."""


class Rehearsal:
    """Runs of the user's training_step on batches of choice.

    Logging does nothing, random numbers come from a seed, gradients that are there are put aside, and afterwards state
    and random numbers are as they were. Hooks of the module that see a batch before `training_step` run too, since they
    may change it, and those of callbacks that were seen to change one.

    Args:
        module: the user's.
        training_step: its own.
    """

    def __init__(self, module: pl.LightningModule, training_step: Callable[..., Any]) -> None:
        self.module, self.training_step = module, training_step
        self.callbacks: Sequence[pl.Callback] = ()
        """Callbacks whose hooks change batches."""
        self.state = ModuleState(module)
        self.inputs = len(inspect.signature(training_step).parameters)
        self._saved: Saved | None = None
        self._with_weights = True
        self._sign: Any = None
        self.started = False
        """The user's hooks before the first batch have run."""
        self.drew = False
        """The last run drew random numbers."""
        self._names: list[str] = []
        self._marks = torch.zeros(0, dtype=torch.bool)
        """Tensors that runs may have changed unseen, and whether they did; on the device, until the host asks."""
        self._losses: list[Tensor] = []
        self._stand_ins: list[nn.Parameter] = []
        self._backward: Callable[[Tensor], object] | None = None

    @contextmanager
    def session(self, *, dropout: bool = True, weights: bool = True) -> Iterator[None]:
        """Context in which `loss` and `step` may be called.

        Args:
            dropout: whether dropout layers drop.
            weights: whether trained weights are put back too; they need not be where what changes them was refused.
        """
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        dropouts = [layer for layer in self.module.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
        modes = [(each, each.training) for each in self.module.modules()]
        for parameter in parameters:
            parameter.grad = None
        trainer: Any = self.module.__dict__.get("_trainer")
        stopping = getattr(trainer, "should_stop", None)
        with unchanged_random_state(), self._stubs():
            self._with_weights = weights
            self.rebase()
            origin = self._saved
            assert origin is not None
            try:
                for layer in (layer for layer in dropouts if not dropout or layer.p == 0):
                    layer.training = False
                if not self.started:  # hooks that may make attributes, or put frozen layers in evaluation mode
                    for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
                        self._hook(hook)
                    self.rebase()
                with nullcontext() if dropout else _no_dropout():
                    yield
            finally:
                origin.restore()
                if stopping is not None:
                    trainer.should_stop = stopping
                self._saved = None
                for each, was in modes:
                    each.training = was
                for parameter in self.module.parameters():
                    parameter.grad = None
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient

    def loss(
        self,
        make: Callable[[], Any],
        *,
        seed: int,
        backward: Callable[[Tensor], object] | None = None,
        index: int = 0,
        fresh: bool = True,
        notice: bool = True,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            make: makes the batch as training_step gets it.
            seed: of all random numbers, in `make` too.
            backward: called with the loss, where manual optimization would run the backward pass; None for none.
            index: of the batch.
            notice: whether to find out if random numbers were drawn (`drew`).
            fresh: whether from the state that was there when the session began, or from what has become of it.

        Raises:
            StepFailed: if the user's code raises.
        """
        if fresh:
            self.restore()
        return self._run(make, seed, backward, index, notice)[0]

    @contextmanager
    def accompanied(self, callbacks: Sequence[pl.Callback]) -> Iterator[None]:
        """Context in which hooks of these callbacks run too; afterwards their state is restored."""
        callback_state = Saved([], [], [("", vars(callback)) for callback in callbacks], keep=[self.module])
        before, self.callbacks = self.callbacks, [*self.callbacks, *(c for c in callbacks if c not in self.callbacks)]
        try:
            yield
        finally:
            self.callbacks = before
            callback_state.restore()

    def step(
        self,
        make: Callable[[], Any],
        *,
        seed: int,
        index: int = 0,
        last: bool = False,
    ) -> None:
        """A whole step without an optimizer, with all hooks of batch and epoch that the module has.

        Args:
            make: makes the batch.
            seed: of all random numbers.
            index: of the batch.
            last: whether the hooks at the end of a training follow.
        """
        self.put_back()
        self._hook("on_train_epoch_start")
        loss, batch = self._run(make, seed, Tensor.backward, index)
        self._step_weights()
        if optimizers := getattr(self.module.__dict__.get("_trainer"), "optimizers", None):
            self._hook("on_before_zero_grad", optimizers[0])
        outputs = {"loss": loss.detach()}
        with _wrapped_errors():
            for callback in self.callbacks:
                callback.on_train_batch_end(self.module.trainer, self.module, outputs, batch, index)
        self._hook("on_train_batch_end", outputs, batch, index)
        self._hook("on_train_epoch_end")
        if last:
            self._hook("on_train_end")
            self._hook("on_fit_end")

    @torch.no_grad()
    def _step_weights(self) -> None:
        """Moves the trained weights, always alike, as an optimizer would: hooks that change weights then have to."""
        generator = torch.Generator().manual_seed(SHARED_SEED)
        for _, parameter in self.state.weights:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))

    def restore(self) -> None:
        """Puts back the state of the session's beginning, unless nothing can have changed it."""
        if self.state.holds_containers or self._signed() != self._sign:
            self.put_back()

    def reset(self, names: Collection[str], to: Saved) -> None:
        """Puts some attributes back to what they were at another time; the session's end undoes that."""
        to.restore_some(names)
        self.rebase()

    def put_back(self) -> None:
        """Puts back the state of the session's beginning, without looking at the cheap marks."""
        assert self._saved is not None
        self._saved.restore()
        self._sign = self._signed()

    def rebase(self) -> None:
        """Makes the present state, such as moved weights, that of the session's beginning."""
        self._saved, self._sign = self.state.save(weights=self._with_weights), self._signed()

    def check_unchanged(self) -> None:
        """Raises ValueError if the runs changed what only `.data` can change unseen; of a device, `settle_changes`."""
        self.restore()
        assert self._saved is not None
        names, marks = self._saved.changed()
        if names != self._names:
            self.settle_changes()
            self._names, self._marks = names, marks
        else:
            self._marks = self._marks | marks
        if marks.device.type == "cpu":
            self.settle_changes()

    def settle_changes(self) -> None:
        """Raises ValueError if runs since the last call changed such a thing, for which the host waits."""
        changed = [name for name, mark in zip(self._names, self._marks.tolist(), strict=True) if mark]
        self._names, self._marks = [], torch.zeros(0, dtype=torch.bool)
        if changed:
            raise ValueError(
                f"training_step changes {changed[0]} of the module in place through .data, so that records would meet"
                " in it; leave it alone, or change it in a way that does not depend on the records"
            )

    def _signed(self) -> Any:
        return self.state.sign(), self.state.weights_sign()

    def _run(
        self,
        make: Callable[[], Any],
        seed: int,
        backward: Callable[[Tensor], object] | None,
        index: int,
        notice: bool = False,
    ) -> tuple[Tensor, Any]:
        seed_all(seed)
        self._losses, self._backward, self._stand_ins = [], backward, []
        before = random_state() if notice else None
        batch = make()
        with _wrapped_errors():
            for callback in self.callbacks:
                callback.on_train_batch_start(self.module.trainer, self.module, batch, index)
            self._hook("on_train_batch_start", batch, index)
            with torch.enable_grad():
                output = self.training_step(*(batch, index)[: self.inputs])
        if notice:
            self.drew = random_state() != before
        for parameter in self._stand_ins:
            parameter.grad = None
        if not self.module.automatic_optimization:
            if not self._losses:
                raise ValueError("training_step ran no backward pass; call self.manual_backward(loss) in it, once")
            return sum(self._losses, start=torch.zeros(())), batch
        if output is None:
            raise ValueError("training_step returned None; a step may not depend on the records, return the loss")
        loss: Tensor = output["loss"] if isinstance(output, dict) else output
        if backward is not None:
            backward(loss)
        return loss.detach(), batch

    def _hook(self, name: str, *inputs: Any) -> None:
        """Calls a hook of the module if it has one of its own."""
        if is_overridden(name, self.module, pl.LightningModule):
            with _wrapped_errors():
                getattr(self.module, name)(*inputs)

    def _manual_backward(self, loss: Tensor, *inputs: Any, **keywords: Any) -> None:
        self._losses.append(loss.detach())
        if self._backward is not None:
            self._backward(loss)
        for parameter in self.module.parameters():
            if parameter.requires_grad and parameter.grad is None:  # user code may look at it
                parameter.grad = torch.zeros_like(parameter)
                self._stand_ins.append(parameter)

    @contextmanager
    def _stubs(self) -> Iterator[None]:
        stubs: dict[str, Any] = dict.fromkeys(("log", "log_dict"), lambda *_, **__: None)
        if not self.module.automatic_optimization:
            stubs["manual_backward"] = self._manual_backward
            for name in ("optimizers", "lr_schedulers", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"):
                stubs[name] = _Idle
        held, before = self.module.__dict__, {name: self.module.__dict__.get(name) for name in stubs}
        held.update(stubs)
        try:
            yield
        finally:
            for name, value in before.items():
                held.pop(name)
                if value is not None:
                    held[name] = value


class _Idle:
    """Stand-in for an optimizer or a schedule, which does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return _Idle


@contextmanager
def _no_dropout() -> Iterator[None]:
    """Replaces dropout functions by the identity."""
    functions: Any = nn.functional
    names = [name for name in vars(functions) if "dropout" in name and not name.startswith("_")]
    before = {name: getattr(functions, name) for name in names}
    for name in names:
        setattr(functions, name, lambda input, *_, **__: input)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(functions, name, function)


@contextmanager
def _wrapped_errors() -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise StepFailed(type(error).__name__) from error


def random_state() -> tuple[Any, ...]:
    """All of torch's, NumPy's and Python's random numbers, in a form that can be compared."""
    _, words, *rest = np.random.get_state()  # noqa: NPY002
    of_torch = [state.numpy().tobytes() for state in (torch.get_rng_state(), *map(torch.cuda.get_rng_state, _gpus()))]
    return *of_torch, np.asarray(words).tobytes(), *rest, random.getstate(), Draws.count


def seed_all(seed: int) -> None:
    """Torch's, NumPy's and Python's random numbers from a seed of 63 bits."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` asks every kind of device, which takes milliseconds
    for gpu in _gpus():
        torch.cuda.default_generators[gpu].manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Leaves all random numbers afterwards as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=_gpus()):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _gpus() -> range:
    """Numbers of the GPUs that may have drawn; none where CUDA was not started, which asking them would do."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if started else 0)
