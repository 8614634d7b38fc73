"""One step of DP-SGD: clipped sum, noise, division by q·N, and the count of what was spent, before anyone sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.clipping import ClippingStats
from palisade.defenses.dp_sgd.gradients import ClippedSum
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.noise import NoiseSource, ParameterNoise, StepNormals
from palisade.defenses.dp_sgd.rules import check_resumed
from palisade.targets.stacks import transposed


class PrivateStep:
    """The step between the clipped sum and the user's optimizer, which is the user's own, unwrapped.

    `write` puts the noised mean into `p.grad` and counts the step, so that nothing which reads `p.grad` afterwards
    (the optimizer, hooks, logging) sees anything else; whatever it does with it is post-processing.

    Args:
        module: the user's.
        optimizer: its only optimizer.
        mechanism: what every step has to follow.
        clipped: the sum of clipped gradients.
        secrets: of this fit, one for every model.
        models: numbers of the models that are trained; several mean a stack.
        secure: whether noise is drawn against floating-point attacks.
        ahead: whether a thread may draw noise ahead.
        processes: how many train together.
        adds_noise: whether this process does; one of them must.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        mechanism: Mechanism,
        clipped: ClippedSum,
        secrets: Sequence[Secret],
        models: Sequence[int],
        *,
        secure: bool,
        ahead: bool,
        processes: int,
        adds_noise: bool,
    ) -> None:
        assert clipped.clipping is not None
        self.mechanism, self.optimizer, self.clipped, self.clipping = mechanism, optimizer, clipped, clipped.clipping
        self.models, self.adds_noise = models, adds_noise
        self.stacked = len(models) > 1
        self.done = 0
        """Steps accounted for so far: batches whose noised mean was written."""
        self.gradient_noise = self.clipping.gradient_noise(mechanism.noise_multiplier, mechanism.expected_batch_size)
        self.sources = [NoiseSource(secret=secret, secure=secure) for secret in secrets]
        self.noise = ParameterNoise(
            clipped.parameters,
            stacked=self.stacked,
            transposed=transposed(module),
            ahead=ahead and adds_noise and self.gradient_noise > 0,
        )
        self.normals = StepNormals(self.sources, models, clipped.parameters[0].device)
        self.reduce: Callable[[Tensor], object] | None = torch.distributed.all_reduce if processes > 1 else None
        self.clipping_stats = ClippingStats(clipped.parameters)
        self.written, self.stepped = False, 0
        self.after_step: Callable[[], None] = lambda: None
        """Called when the optimizer has moved the weights."""
        self._left_out = False
        self._released: list[Tensor] = []
        self._settings: Any = None
        self._settings_after: Any = None
        self._settings_moved = False
        self._check_parameters()

    @property
    def pending(self) -> bool:
        """True if a gradient was written that no optimizer step has used yet."""
        return self.written and not self.stepped

    def attach(self) -> Callable[[], object]:
        """Watches the optimizer's steps; returns the function that ends that."""
        handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]

        def detach() -> None:
            for handle in handles:
                handle.remove()
            self.noise.close()
            for parameter in self.clipped.parameters:
                parameter.grad = None

        return detach

    def state(self) -> dict[str, Any]:
        """Plain numbers, enough to go on from."""
        return {"steps_done": self.done, "bounds": list(self.clipping.bounds), **asdict(self.mechanism)}

    def restore(self, state: Mapping[str, Any], *, may_continue: bool) -> None:
        """Continues from a `state`, if it is of the same mechanism.

        Args:
            state: of the checkpoint.
            may_continue: whether more steps may follow than were planned: where σ was not calibrated for them.
        """
        check_resumed(asdict(self.mechanism), state, may_continue=may_continue)
        self.done, self.clipping.bounds = state["steps_done"], list(state["bounds"])

    def begin(self, index: int) -> None:
        """Begins a batch of this number in its epoch."""
        self.written, self.stepped, self._released = False, 0, []
        settings = self._optimizer_settings()
        if index > 0 and self._settings_after is not None:  # Lightning's own schedules have stepped before that
            self._settings_moved = self._settings_moved or settings != self._settings_after
        self._settings = settings
        self.clipping_stats.begin_step()

    def clear_gradients(self) -> None:
        """Clears gradients before the batch's backward pass, so that a later one comes from it."""
        if not self.written:
            for parameter in self.clipped.parameters:
                parameter.grad = None

    def observe(self, norms: Tensor) -> None:
        """Takes in the norms of a part of the batch, before clipping."""
        self.clipping.observe(norms)
        self.clipping_stats.note(norms, norms > self.clipping.bound(norms))

    def write(self) -> None:
        """Leaves the noised mean in `p.grad` and counts the step.

        Raises:
            ValueError: for a second time in one batch, beyond the planned steps, or if other parameters are trained.
        """
        if self.written:
            raise ValueError(
                "training_step ran a second backward pass for one batch, which would spend ε twice (as sharpness-aware"
                " minimization does); run one backward pass for every batch"
            )
        if self.done >= self.mechanism.steps:
            raise ValueError(f"step {self.done + 1} exceeds the T={self.mechanism.steps} planned steps; train anew")
        self._check_parameters()
        sums = self.clipped.take()
        if self.gradient_noise > 0 and self.adds_noise:
            self._add_noise(sums)
        if self.reduce is not None:
            for total in sums:
                self.reduce(total)
        torch._foreach_div_(sums, self.mechanism.expected_batch_size)  # q·N: the realised size of a batch is private
        for parameter, total in zip(self.clipped.parameters, sums, strict=True):
            parameter.grad = total
        if self.gradient_noise == 0:  # nothing hides what is done to the sum, so nothing may be
            self._released = [total.clone() for total in sums]
        self.clipping.adapt(lambda: self.normals.at(self.done), self.reduce)
        self.written, self.done = True, self.done + 1

    def end(self) -> None:
        """Ends a batch.

        Raises:
            ValueError: if the batch wrote nothing: whether ε is spent may not depend on the records.
        """
        self._settings_after = self._optimizer_settings()
        self._left_out = self._left_out or not self.stepped
        if not self.written:
            raise ValueError("training_step ran no backward pass for a batch; run exactly one for every batch")

    def _add_noise(self, sums: Sequence[Tensor]) -> None:
        scales, times = self.clipping.noise_scales(self.gradient_noise)
        drawn = self.noise.draw(self.sources, models=self.models, step=self.done, scales=scales, times=times)
        torch._foreach_add_(list(sums), drawn)

    def _before_step(self, optimizer: Optimizer, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Checks the step; Lightning's closure, which runs the backward pass, comes first."""
        closure = keywords.get("closure", inputs[1] if len(inputs) > 1 else None)  # the first is the optimizer
        if closure is None:
            return self._check_step()

        def checked() -> Any:
            loss = closure()
            self._check_step()
            return loss

        return (optimizer,), {**keywords, "closure": checked}

    def _check_step(self) -> None:
        if not self.written:
            raise ValueError("optimizer.step() found no clipped gradients; call self.manual_backward(loss) before it")
        self.stepped += 1
        if self.stepped > 1:
            raise ValueError(f"training_step took {self.stepped} optimizer steps; take exactly one for every batch")
        self._settings_moved = self._settings_moved or self._optimizer_settings() != self._settings
        for parameter, released in zip(self.clipped.parameters, self._released, strict=False):
            if parameter.grad is None or not torch.equal(parameter.grad, released):
                raise ValueError(
                    "gradients were changed after clipping and there is no noise (σ = 0) to hide by how much; remove"
                    " what changes them"
                )

    def warnings(self) -> list[str]:
        """Warnings that the whole fit gives reason for."""
        moved = (
            "optimizer settings changed otherwise than by a schedule: where the step size follows the loss, ε does not"
            " cover what that reveals"
        )
        left_out = "an optimizer step was left out: where that follows the loss, ε does not cover what it reveals"
        texts = [text for text, seen in ((moved, self._settings_moved), (left_out, self._left_out)) if seen]
        return [*self.clipping_stats.warnings(), *texts]

    def _optimizer_settings(self) -> list[list[Any]]:
        return [[v for name, v in group.items() if name != "params"] for group in self.optimizer.param_groups]

    def _check_parameters(self) -> None:
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        if len(trained) != len(self.clipped.parameters) or set(trained) != set(self.clipped.parameters):
            raise ValueError(
                "the optimizer's trainable parameters are not the module's; freeze before the fit what is not trained"
                " (requires_grad_(False)), and make what is trained a parameter of the module"
            )
