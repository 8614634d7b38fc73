"""Per-record clipping in one backward pass, on a network that stays what it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from defenses.dp_sgd.layers import Gradients, Sums, Tape, gradients


@dataclass(kw_only=True)
class _Layer:
    """A layer with trainable parameters of its own, and what it saw in this step."""

    title: str
    module: nn.Module
    gradients: Callable[[nn.Module, Tape], Gradients]
    tape: Tape


class _Record(torch.autograd.Function):
    """The identity on a layer's output; its backward notes the output gradient.

    The parameters are inputs so that the output requires a gradient; they get none. The activation is saved
    through autograd, which refuses an activation that was changed in place afterwards.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, activation: Tensor, tape: Tape, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(activation)
        ctx.tape = tape
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        (activation,) = ctx.saved_tensors
        activations, output_gradients = ctx.tape
        activations.append(activation.detach())
        output_gradients.append(deltas[0].detach())
        return (deltas[0], *[None] * (len(ctx.needs_input_grad) - 1))


class Engine:
    """Leaves the sum of clipped per-record gradients in `p.grad` after one backward pass.

    While attached, a layer's forward runs with its parameters cut off from autograd and notes (activation,
    output gradient); `clip` makes norms and sums of these (book-keeping: Bu et al. 2023, "Differentially Private
    Optimization on Large Model at Small Cost"). One record then moves the sum by at most C, which is what the noise
    is measured against. Class, attributes and `state_dict` names of the network stay.

    Args:
        network: the module to train; every trainable parameter must belong to a layer with a known gradient.
        max_grad_norm: C > 0, over all layers of a model together.
        stacked: whether tensors lead with a model axis: parameters (models, …), activations (models, batch, …).

    Raises:
        ValueError: for layers that mix records or whose per-record gradient is unknown.
    """

    name = "book-keeping"

    def __init__(self, network: nn.Module, *, max_grad_norm: float, stacked: bool = False):
        self.max_grad_norm, self.stacked = max_grad_norm, stacked
        self.layers = list(_layers(network, stacked))
        if not self.layers:
            raise ValueError(f"{type(network).__name__} has no trainable parameter; unfreeze a layer")
        self.parameters = [parameter for layer in self.layers for parameter in _trainable(layer.module)]
        self.complete = False

    def attach(self) -> None:
        for layer in self.layers:
            layer.module.forward = _recording(layer.module, layer.tape)

    def detach(self) -> None:
        """Leaves the network as it was."""
        for layer in self.layers:
            layer.module.__dict__.pop("forward", None)
        self.clear()

    def clear(self) -> None:
        for layer in self.layers:
            layer.tape[0].clear()
            layer.tape[1].clear()

    def clip(self, records: Sequence[int], scale: float) -> Float[Tensor, "*models batch"]:
        """Turns what the backward pass noted into clipped sums in `p.grad`; returns the norms before clipping.

        A record whose gradient is not finite contributes nothing.

        Args:
            records: the batch's shape, (batch,) or (models, batch), which every layer must have seen.
            scale: what the loss was divided by; a record's own gradient is that many times what came back.
        """
        squares, sums = self.gradients(records)
        norms = scale * squares.sqrt()
        # min(1, C/‖g‖) without 0/0 for records that have no gradient; `scale` undoes the loss's division.
        weights = scale * self.max_grad_norm / norms.clamp(min=self.max_grad_norm)
        self._write({parameter: total for layer_sums in sums for parameter, total in layer_sums(weights).items()})
        return norms

    def gradients(self, records: Sequence[int]) -> tuple[Float[Tensor, "*models batch"], list[Sums]]:
        """Squared norms over all layers, and every layer's way to sum; not finite gradients count as zero."""
        noted = self._noted(tuple(records))
        squares, sums = _joined(noted)
        finite = squares.isfinite()
        if not finite.all():
            # `where`, not a factor 0: 0 · inf is NaN and would spoil the whole sum.
            for layer in noted:
                for calls in layer.tape:
                    calls[:] = [call.where(_as_mask(finite, call), 0) for call in calls]
            squares, sums = _joined(noted)
        return squares, sums

    def clip_nothing(self) -> None:
        """The sum over an empty batch: zeros."""
        self._write({})

    def _write(self, sums: dict[nn.Parameter, Tensor]) -> None:
        for parameter in self.parameters:
            parameter.grad = sums[parameter] if parameter in sums else torch.zeros_like(parameter)
        self.clear()

    def _noted(self, records: tuple[int, ...]) -> list[_Layer]:
        """The layers that took part, after checking that what they noted is what clipping needs."""
        for layer in self.layers:
            if any(parameter.grad is not None for parameter in _trainable(layer.module)):
                raise ValueError(
                    f"layer {layer.title} has a gradient that no record was clipped for: its weights were used outside"
                    " its forward, in evaluation mode, or not zeroed; call the layer itself, in training mode"
                )
            for tensor in itertools.chain(*layer.tape):
                if tuple(tensor.shape[: len(records)]) != records:
                    raise ValueError(
                        f"layer {layer.title} saw a tensor of shape {tuple(tensor.shape)} in a batch of"
                        f" {' × '.join(map(str, records))} records; keep the batch dimension first in every layer"
                    )
        noted = [layer for layer in self.layers if layer.tape[1]]
        if not self.complete and len(noted) < len(self.layers):
            unused = next(layer for layer in self.layers if not layer.tape[1])
            raise ValueError(
                f"layer {unused.title} is trainable but the loss does not depend on it; use it or freeze it with"
                " requires_grad_(False)"
            )
        self.complete = True
        return noted


def _as_mask(records: Tensor, tensor: Tensor) -> Tensor:
    return records.view(*records.shape, *[1] * (tensor.ndim - records.ndim))


def _joined(noted: list[_Layer]) -> tuple[Tensor, list[Sums]]:
    """Squared norms over all layers, and every layer's way to sum."""
    found = [layer.gradients(layer.module, layer.tape) for layer in noted]
    return torch.stack([squares for squares, _ in found]).sum(0), [sums for _, sums in found]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _recording(module: nn.Module, tape: Tape) -> Callable[..., Tensor]:
    """The layer's forward, with parameters cut off from autograd and the output's gradient noted."""
    original = module.forward

    def forward(*inputs: Tensor, **keywords: Tensor) -> Tensor:
        if not (module.training and torch.is_grad_enabled()):
            return cast(Tensor, original(*inputs, **keywords))
        attached = module._parameters
        cut: dict[str, Any] = {name: value if value is None else value.detach() for name, value in attached.items()}
        module._parameters = cut
        try:
            output = original(*inputs, **keywords)
        finally:
            module._parameters = attached
        activation = next(iter((*inputs, *keywords.values())))
        return cast(Tensor, _Record.apply(output, activation, tape, *_trainable(module)))  # type: ignore[no-untyped-call]

    return forward


def _layers(network: nn.Module, stacked: bool) -> Iterator[_Layer]:
    """Every layer with trainable parameters of its own.

    Raises:
        ValueError: naming the first layer that DP-SGD cannot train, and what to do about it.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, module in network.named_modules():
        title = f"{name or 'itself'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"layer {title} mixes the records of a batch; replace it with nn.GroupNorm")
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ValueError(f"layer {title} keeps statistics of the records; set track_running_stats=False")
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"layer {title} bypasses its projections' forward, so that no record would be clipped;"
                " use opacus.layers.DPMultiheadAttention or attention made of nn.Linear"
            )
        if not (parameters := _trainable(module)):
            continue
        if (found := gradients(module, stacked)) is None:
            raise ValueError(
                f"layer {title} has parameters whose gradient per record is unknown"
                f"{' in a stack' if stacked else ''}; use layers that Opacus knows, or freeze it with"
                " requires_grad_(False)"
            )
        for parameter in parameters:
            if parameter in owners:
                raise ValueError(f"layer {title} shares a parameter with {owners[parameter]}; give each its own copy")
            owners[parameter] = title
        yield _Layer(title=title, module=module, gradients=found, tape=([], []))
