"""The fast way to per-record gradients: one backward pass of the batch, on a network that stays what it is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from palisade.data.placement import in_highest_precision
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.gradients import ClippedSum, Refused
from palisade.defenses.dp_sgd.layers import Gradients, Sums, Tape, gradients
from palisade.defenses.dp_sgd.layers.dense import dense_gradients
from palisade.defenses.dp_sgd.layers.embedding import embedding_gradients
from palisade.defenses.dp_sgd.layers.tied import tied_gradients
from palisade.defenses.dp_sgd.precision import HALF_TYPES, full_precision


class LayerError(Refused):
    """A layer whose per-record gradient book-keeping does not know; records by themselves can still train it."""


@dataclass(kw_only=True, eq=False)
class _Layer:
    """A layer with trainable parameters of its own, or two that share their weight, and what they saw in this step."""

    title: str
    modules: tuple[nn.Module, ...]
    gradients: Callable[[Sequence[Tape]], Gradients]
    tapes: list[Tape]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(dict.fromkeys(parameter for module in self.modules for parameter in _trainable(module)))


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
            raise LayerError("training_step differentiates a gradient (create_graph=True)")
        (activation,) = ctx.saved_tensors
        activations, output_gradients = ctx.tape
        activations.append(activation.detach())
        output_gradients.append(deltas[0].detach().reshape(ctx.shape))
        return deltas[0], None, None, None, None


@dataclass(frozen=True)
class Notes:
    """Notes of the layers in one backward pass: norms and weighted sums of its records' gradients follow from them.

    Args:
        of_layers: for every layer that took part, its tapes; every tensor leads with the units of privacy,
            (batch, ...) or (models, batch, ...).
        axis: of the batch, 0 or, behind a model axis, 1.
    """

    of_layers: Mapping[_Layer, Sequence[Tape]]
    axis: int

    def gradients(self) -> tuple[Float[Tensor, "layers *models batch"], list[Sums]]:
        """Squared norms per layer, and every layer's way to sum."""
        both = [layer.gradients(tapes) for layer, tapes in self.of_layers.items()]
        return torch.stack([squares for squares, _ in both]), [sums for _, sums in both]

    def total(self, weights: Float[Tensor, "*#layers *models batch"]) -> dict[nn.Parameter, Tensor]:
        """Sum of the gradients, each times its weight, which may differ by layer."""
        _, sums = self.gradients()
        alike = weights.ndim == self.axis + 1
        parts = [layer_sums(weights if alike else weights[number]) for number, layer_sums in enumerate(sums)]
        return {parameter: value for part in parts for parameter, value in part.items()}

    def some(self, columns: Sequence[int]) -> Notes:
        """Notes of some units, in every model of a stack."""
        chosen = torch.tensor(columns, dtype=torch.long)
        return self._changed(lambda call: call.index_select(self.axis, chosen.to(call.device)))

    @staticmethod
    def joined(parts: Sequence[Notes]) -> Notes | None:
        """Notes of several batches as of one; None if they differ in anything but the number of records."""
        forms = {tuple(call.shape[part.axis + 1 :] for call in part._calls()) for part in parts}
        if len(forms) != 1 or len({tuple(part.of_layers) for part in parts}) != 1:
            return None
        calls = [torch.cat(same, dim=parts[0].axis) for same in zip(*(part._calls() for part in parts), strict=True)]
        remaining = iter(calls)
        return parts[0]._changed(lambda _: next(remaining))

    def _calls(self) -> Iterator[Tensor]:
        """All tensors, in the order in which `_changed` goes through them."""
        for tapes in self.of_layers.values():
            for activations, deltas in tapes:
                yield from activations
                yield from deltas

    def where(self, records: Bool[Tensor, "*models batch"]) -> Notes:
        """Notes with zeros for all other records: put there, not by a factor 0, since 0 · inf is NaN."""
        others = ~records
        return self._changed(
            lambda call: call.masked_fill(others.view(*others.shape, *[1] * (call.ndim - others.ndim)), 0)
        )

    def difference(self, other: Notes, scale: float | Tensor, other_scale: float | Tensor) -> Notes:
        """Notes in double precision whose gradients are scale · these − other_scale · the others', record by record.

        A scale that differs by record has the shape of the records.
        """
        parts: dict[_Layer, Sequence[Tape]] = {}
        for layer in dict.fromkeys([*self.of_layers, *other.of_layers]):
            one, two = (
                [_double(tape, by) for tape in notes.of_layers.get(layer, [([], [])] * len(layer.modules))]
                for notes, by in ((self, scale), (other, -other_scale))
            )
            parts[layer] = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(one, two, strict=True)]
        return Notes(parts, self.axis)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Notes:
        return Notes(
            {
                layer: [([*map(change, a)], [*map(change, d)]) for a, d in tapes]
                for layer, tapes in self.of_layers.items()
            },
            self.axis,
        )


class Engine(ClippedSum):
    """Book-keeping: the clipped sum of per-record gradients from one backward pass of the whole batch.

    While attached, a layer's forward runs with its parameters cut off from autograd and notes (activation,
    output gradient); `clip` makes norms and sums of these (Bu et al. 2023, "Differentially Private Optimization on
    Large Model at Small Cost"). Class, attributes and `state_dict` names of the network stay. That a record's notes
    depend on that record alone is an assumption here, which `checks.py` watches.

    Args:
        network: the module to train; every trainable parameter must belong to a layer with a known gradient.
        clipping: what scales the gradients down; None sums them as they are.
        stacked: whether tensors lead with a model axis: parameters (models, ...), activations (models, batch, ...).
        rows_per_unit: how many rows of a batch, side by side, are clipped as one.

    Raises:
        LayerError: for layers whose per-record gradient is unknown.
    """

    def __init__(
        self, network: nn.Module, *, clipping: Flat | None = None, stacked: bool = False, rows_per_unit: int = 1
    ) -> None:
        self.layers = list(_layers(network, stacked))
        super().__init__(network, clipping)
        self.stacked, self.rows_per_unit = stacked, rows_per_unit
        self.complete = False
        self.recording = True
        self._undo: list[Callable[[], object]] = []

    def attach(self) -> None:
        """Puts a forward that notes activations and output gradients in place of each layer's own, until `detach`."""
        for layer in self.layers:
            for module, tape in zip(layer.modules, layer.tapes, strict=True):
                self._undo.append(replace_attribute(module, "forward", self._recording(module, tape)))

    def detach(self) -> None:
        """Leaves the network as it was."""
        while self._undo:
            self._undo.pop()()
        self.clear()
        super().detach()

    def clip(self, records: Sequence[int], scale: float) -> Float[Tensor, "*models batch"]:
        """Adds the clipped gradients that the backward pass noted to the sum; returns the norms before clipping.

        A record whose gradient is not finite contributes nothing.

        Args:
            records: the batch's shape in units of privacy, (batch,) or (models, batch).
            scale: what the loss was divided by; a record's own gradient is that many times what came back.
        """
        with full_precision():
            notes = self.notes(records)
            squares, sums = notes.gradients()
            finite = squares.sum(0).isfinite()
            # A device would wait for the answer to whether all are finite; there, all notes pass the sieve.
            if finite.device.type != "cpu" or not finite.all():
                squares, sums = notes.where(finite).gradients()
            norms, factors = self.factors(squares * scale**2)
            weights = scale * factors  # undoes the loss's division
            for number, layer_sums in enumerate(sums):
                self.add(layer_sums(weights[number] if weights.ndim > norms.ndim else weights))
        self.clear()
        return norms

    def notes(self, records: Sequence[int]) -> Notes:
        """The notes of the last backward pass, after checking that they are what clipping needs.

        Raises:
            LayerError: if a layer's weights were used elsewhere, or a layer did not see one row for each record, or ran
                in half precision.
            ValueError: if the loss does not depend on a layer.
        """
        records = tuple(records)
        rows = (*records[:-1], records[-1] * self.rows_per_unit)
        for layer in self.layers:
            if any(parameter.grad is not None for parameter in layer.parameters):
                raise LayerError(
                    f"layer {layer.title} has a gradient that no record was clipped for: its weights were used outside"
                    " its forward, in evaluation mode, or not zeroed; call the layer itself, in training mode"
                )
            for tensor in itertools.chain(*itertools.chain(*layer.tapes)):
                if tuple(tensor.shape[: len(rows)]) != rows:
                    raise LayerError(
                        f"layer {layer.title} saw a tensor of shape {tuple(tensor.shape)} in a batch of"
                        f" {' × '.join(map(str, rows))} records; keep the batch dimension first in every layer"
                    )
                if tensor.dtype in HALF_TYPES:
                    kind = str(tensor.dtype).removeprefix("torch.")
                    raise LayerError(
                        f"layer {layer.title} ran in {kind}, whose rounding ties the records of a batch to each other;"
                        " leave torch.autocast out"
                    )
        seen = [layer for layer in self.layers if any(deltas for _, deltas in layer.tapes)]
        if not self.complete and len(seen) < len(self.layers):
            unused = next(layer for layer in self.layers if layer not in seen)
            raise ValueError(
                f"layer {unused.title} is trainable but the loss does not depend on it; use it or freeze it with"
                " requires_grad_(False)"
            )
        self.complete = True
        return Notes(
            {layer: [self._by_unit(tape, records) for tape in layer.tapes] for layer in seen}, len(records) - 1
        )

    def clear(self) -> None:
        """Forgets what was noted since the last `clip`."""
        for layer in self.layers:
            for calls in itertools.chain(*layer.tapes):
                calls.clear()

    @contextmanager
    def aside(self, *, recording: bool = True) -> Iterator[None]:
        """Within, backward passes that are not the step's; what the step noted is there again afterwards."""
        held = [(calls, list(calls)) for layer in self.layers for calls in itertools.chain(*layer.tapes)]
        before, self.recording = (self.recording, self.complete), recording
        self.clear()
        try:
            yield
        finally:
            self.recording, self.complete = before
            for calls, values in held:
                calls[:] = values

    def _by_unit(self, tape: Tape, records: tuple[int, ...]) -> Tape:
        """Rows of one unit add up like calls of a layer."""
        if self.rows_per_unit == 1:
            return tape[0][:], tape[1][:]
        axis = len(records) - 1

        def parted(call: Tensor) -> tuple[Tensor, ...]:
            return call.reshape(*records, self.rows_per_unit, *call.shape[axis + 1 :]).unbind(axis + 1)

        activations, deltas = ([row for call in calls for row in parted(call)] for calls in tape)
        return activations, deltas

    def _recording(self, module: nn.Module, tape: Tape) -> Callable[..., Tensor]:
        """The layer's forward, with parameters cut off from autograd and the output's gradient noted."""
        original = module.forward

        def forward(*inputs: Tensor, **keywords: Tensor) -> Tensor:
            if not (self.recording and module.training and torch.is_grad_enabled()):
                return cast(Tensor, original(*inputs, **keywords))
            attached, state = module._parameters, module.__dict__  # not by `Module.__setattr__`, which is slow
            state["_parameters"] = {name: None if value is None else value.detach() for name, value in attached.items()}
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


def replace_attribute(module: object, name: str, value: Any) -> Callable[[], object]:
    """Sets an attribute on the instance; returns the function that undoes it."""
    own = vars(module)
    before = own.get(name)
    own[name] = value
    return lambda: own.pop(name) if before is None else own.update({name: before})


def _double(tape: Tape, scale: float | Tensor) -> Tape:
    """Notes of a layer in double precision, where their device has it, output gradients times `scale`."""
    activations = [in_highest_precision(call) if call.is_floating_point() else call for call in tape[0]]
    scales = [_like(scale, call) if isinstance(scale, Tensor) else scale for call in tape[1]]
    return activations, [by * in_highest_precision(call) for by, call in zip(scales, tape[1], strict=True)]


def _like(by_record: Tensor, call: Tensor) -> Tensor:
    """One value for each record, in a form that goes with what a layer noted of all of them."""
    return by_record.view(*by_record.shape, *[1] * (call.ndim - by_record.ndim))


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _layers(network: nn.Module, stacked: bool) -> Iterator[_Layer]:
    """Every layer with trainable parameters of its own; an embedding and an output layer may share one weight.

    Raises:
        LayerError: naming the first layer whose per-record gradient is unknown.
    """
    owners: dict[nn.Parameter, _Layer] = {}
    layers: list[_Layer] = []
    for name, module in network.named_modules():
        title = f"{name or 'itself'} ({type(module).__name__})"
        if isinstance(module, nn.MultiheadAttention) and any(p.requires_grad for p in module.parameters()):
            raise LayerError(f"layer {title} bypasses its projections' forward")
        if not (parameters := _trainable(module)):
            continue
        if (known := gradients(module, stacked)) is None:
            raise LayerError(
                f"layer {title} has parameters whose gradient per record is unknown{' in a stack' if stacked else ''}"
            )
        for parameter in parameters:
            if parameter._backward_hooks:
                raise LayerError(f"layer {title} has a parameter with a hook, which sees no gradient")
        layer = _Layer(
            title=title,
            modules=(module,),
            gradients=functools.partial(_single, module, known),
            tapes=[([], [])],
        )
        shared = [parameter for parameter in parameters if parameter in owners]
        if shared:
            other = owners[shared[0]]
            pair = sorted([*other.modules, module], key=lambda each: isinstance(each, nn.Linear))
            if stacked or [type(each) for each in pair] != [nn.Embedding, nn.Linear]:
                raise LayerError(f"layer {title} shares a parameter with {other.title}")
            layer = _Layer(
                title=f"{other.title} and {title}",
                modules=tuple(pair),
                gradients=functools.partial(_tied, pair[0], pair[1]),
                tapes=[([], []), ([], [])],
            )
            layers.remove(other)
        layers.append(layer)
        owners |= dict.fromkeys(layer.parameters, layer)
    yield from layers


def _single(module: nn.Module, known: Callable[[nn.Module, Tape], Gradients], tapes: Sequence[Tape]) -> Gradients:
    """Gradients of one layer."""
    return known(module, tapes[0])


def _tied(embedding: Any, linear: Any, tapes: Sequence[Tape]) -> Gradients:
    """Gradients of an embedding and an output layer with one weight, or of the only one that the loss reaches."""
    looked_up, projected = tapes
    if not projected[1]:
        return embedding_gradients(embedding, looked_up)
    if not looked_up[1]:
        return dense_gradients(linear, projected)
    return tied_gradients(embedding, linear, looked_up, projected)
