"""Per-record clipping in one backward pass, on a network that stays what it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from defenses.dp_sgd.clipping import Flat
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

    A parameter is an input so that the output requires a gradient; it gets none. The activation is saved
    through autograd, which refuses an activation that was changed in place afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, activation: Tensor, tape: Tape, shape: torch.Size, parameter: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(activation)
        ctx.tape, ctx.shape = tape, shape
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ValueError("training_step differentiates a gradient (create_graph=True); no record's share is known")
        (activation,) = ctx.saved_tensors
        activations, output_gradients = ctx.tape
        activations.append(activation.detach())
        output_gradients.append(deltas[0].detach().reshape(ctx.shape))
        return deltas[0], None, None, None, None


class Engine:
    """Leaves the sum of clipped per-record gradients in `p.grad` after one backward pass.

    While attached, a layer's forward runs with its parameters cut off from autograd and notes (activation,
    output gradient); `clip` makes norms and sums of these (book-keeping: Bu et al. 2023, "Differentially Private
    Optimization on Large Model at Small Cost"). One record then moves the sum by at most C, which is what the noise
    is measured against. Class, attributes and `state_dict` names of the network stay.

    Args:
        network: the module to train; every trainable parameter must belong to a layer with a known gradient.
        clipping: what scales the gradients down; None sums them as they are.
        stacked: whether tensors lead with a model axis: parameters (models, …), activations (models, batch, …).
        rows_per_unit: how many rows of a batch, side by side, are clipped as one.

    Raises:
        ValueError: for layers that mix records or whose per-record gradient is unknown.
    """

    name = "book-keeping"

    def __init__(
        self, network: nn.Module, *, clipping: Flat | None = None, stacked: bool = False, rows_per_unit: int = 1
    ):
        self.clipping, self.stacked, self.rows_per_unit = clipping, stacked, rows_per_unit
        self.layers = list(_layers(network, stacked))
        if not self.layers:
            raise ValueError(f"{type(network).__name__} has no trainable parameter; unfreeze a layer")
        self.parameters = [parameter for layer in self.layers for parameter in _trainable(layer.module)]
        self.complete = False
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._undo: list[Callable[[], object]] = []

    def attach(self) -> None:
        for layer in self.layers:
            self._undo.append(replace_attribute(layer.module, "forward", _recording(layer.module, layer.tape)))

    def detach(self) -> None:
        """Leaves the network as it was."""
        while self._undo:
            self._undo.pop()()
        self._forget()

    def clip(self, records: Sequence[int], scale: float) -> Float[Tensor, "*models batch"]:
        """Adds the clipped gradients that the backward pass noted to the sum; returns the norms before clipping.

        A record whose gradient is not finite contributes nothing.

        Args:
            records: the batch's shape in units of privacy, (batch,) or (models, batch).
            scale: what the loss was divided by; a record's own gradient is that many times what came back.
        """
        squares, sums = self.gradients(records)
        squares *= scale**2
        norms = squares.sum(0).sqrt()
        factors = torch.ones_like(norms) if self.clipping is None else self.clipping.factors(norms, squares)
        weights = scale * factors  # undoes the loss's division
        for number, layer_sums in enumerate(sums):
            for parameter, total in layer_sums(weights[number] if weights.ndim > norms.ndim else weights).items():
                self._sums[parameter] = self._sums[parameter] + total if parameter in self._sums else total
        self.clear()
        return norms

    def gradients(self, records: Sequence[int]) -> tuple[Float[Tensor, "layers *models batch"], list[Sums]]:
        """Squared norms per layer, and every layer's way to sum; gradients that are not finite count as zero."""
        noted = self._noted(tuple(records))
        squares, sums = _joined(noted)
        finite = squares.sum(0).isfinite()
        if not finite.all():
            # `where`, not a factor 0: 0 · inf is NaN and would spoil the whole sum.
            for layer in noted:
                for calls in layer.tape:
                    calls[:] = [call.where(_as_mask(finite, call), 0) for call in calls]
            squares, sums = _joined(noted)
        return squares, sums

    def write(self) -> None:
        """Puts the sum in `p.grad`, zeros where there was nothing to add, and begins a new one."""
        for parameter in self.parameters:
            parameter.grad = self._sums[parameter] if parameter in self._sums else torch.zeros_like(parameter)
        self._forget()

    def _forget(self) -> None:
        self._sums.clear()
        self.clear()

    def clear(self) -> None:
        """Forgets what was noted since the last `clip`."""
        for layer in self.layers:
            layer.tape[0].clear()
            layer.tape[1].clear()

    def _noted(self, records: tuple[int, ...]) -> list[_Layer]:
        """The layers that took part, after checking that what they noted is what clipping needs."""
        rows = (*records[:-1], records[-1] * self.rows_per_unit)
        for layer in self.layers:
            if any(parameter.grad is not None for parameter in _trainable(layer.module)):
                raise ValueError(
                    f"layer {layer.title} has a gradient that no record was clipped for: its weights were used outside"
                    " its forward, in evaluation mode, or not zeroed; call the layer itself, in training mode"
                )
            for tensor in itertools.chain(*layer.tape):
                if tuple(tensor.shape[: len(rows)]) != rows:
                    raise ValueError(
                        f"layer {layer.title} saw a tensor of shape {tuple(tensor.shape)} in a batch of"
                        f" {' × '.join(map(str, rows))} records; keep the batch dimension first in every layer"
                    )
        noted = [layer for layer in self.layers if layer.tape[1]]
        if not self.complete and len(noted) < len(self.layers):
            unused = next(layer for layer in self.layers if not layer.tape[1])
            raise ValueError(
                f"layer {unused.title} is trainable but the loss does not depend on it; use it or freeze it with"
                " requires_grad_(False)"
            )
        self.complete = True
        if self.rows_per_unit > 1:  # rows of one unit add up like calls of a layer
            for calls in itertools.chain(*(layer.tape for layer in noted)):
                calls[:] = [row for call in calls for row in self._unbound(call, records)]
        return noted

    def _unbound(self, call: Tensor, records: tuple[int, ...]) -> tuple[Tensor, ...]:
        axis = len(records) - 1
        return call.reshape(*records, self.rows_per_unit, *call.shape[axis + 1 :]).unbind(axis + 1)


def replace_attribute(module: nn.Module, name: str, value: Any) -> Callable[[], object]:
    """Sets an attribute on the instance; returns what makes the instance as it was."""
    before = module.__dict__.get(name)
    module.__dict__[name] = value
    return lambda: module.__dict__.pop(name) if before is None else module.__dict__.update({name: before})


def _as_mask(records: Tensor, tensor: Tensor) -> Tensor:
    return records.view(*records.shape, *[1] * (tensor.ndim - records.ndim))


def _joined(noted: list[_Layer]) -> tuple[Tensor, list[Sums]]:
    """Squared norms per layer, and every layer's way to sum."""
    found = [layer.gradients(layer.module, layer.tape) for layer in noted]
    return torch.stack([squares for squares, _ in found]), [sums for _, sums in found]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _recording(module: nn.Module, tape: Tape) -> Callable[..., Tensor]:
    """The layer's forward, with parameters cut off from autograd and the output's gradient noted."""
    original = module.forward

    def forward(*inputs: Tensor, **keywords: Tensor) -> Tensor:
        if not (module.training and torch.is_grad_enabled()):
            return cast(Tensor, original(*inputs, **keywords))
        attached, state = module._parameters, module.__dict__  # not by `Module.__setattr__`, which is slow
        state["_parameters"] = {name: value if value is None else value.detach() for name, value in attached.items()}
        try:
            output = original(*inputs, **keywords)
        finally:
            state["_parameters"] = attached
        activation = next(iter((*inputs, *keywords.values())))
        learning = next((value for value in attached.values() if value is not None and value.requires_grad), None)
        # The product of a sequence is a view; noted on what it is a view of, autograd copies nothing.
        base = output._base
        if base is None or base.numel() != output.numel() or not (base.is_contiguous() and output.is_contiguous()):
            base = output
        noted: Tensor = _Record.apply(base, activation, tape, output.shape, learning)  # type: ignore[no-untyped-call]
        return noted if base is output else noted.view(output.shape)

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
            raise ValueError(
                f"layer {title} mixes the records of a batch; replace it with nn.GroupNorm, as DPSGD(fix=True) does"
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ValueError(f"layer {title} keeps statistics of the records; set track_running_stats=False")
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"layer {title} bypasses its projections' forward, so that no record would be clipped;"
                " use opacus.layers.DPMultiheadAttention(…, batch_first=True) or attention made of nn.Linear"
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
            if parameter._backward_hooks:
                raise ValueError(f"layer {title} has a parameter with a hook, which sees no gradient; remove the hook")
            if parameter in owners:
                raise ValueError(f"layer {title} shares a parameter with {owners[parameter]}; give each its own copy")
            owners[parameter] = title
        yield _Layer(title=title, module=module, gradients=found, tape=([], []))
