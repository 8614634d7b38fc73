"""The two ways to per-record gradients that take any differentiable module: no record is in a batch with others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.gradients import ClippedSum
from palisade.defenses.dp_sgd.microbatches import leaves, map_tensors
from palisade.defenses.dp_sgd.precision import HALF_TYPES, full_precision
from palisade.defenses.dp_sgd.records import FitRecords
from palisade.defenses.dp_sgd.rehearsal import Rehearsal, StepFailed, random_state, seed_all

MAX_GRADIENT_ELEMENTS = 2**24
"""Numbers of per-record gradients in memory at the same time, at most."""
VECTORIZED_SEED = 0
"""Seed of what draws no random numbers."""
MAX_RELATIVE_DIFFERENCE = 1e-4
"""Relative difference to gradients one by one above which vectorized ones are not used."""


class Alone(ClippedSum):
    """Every unit of privacy through the user's training_step as a batch of its own.

    Nothing of a record can reach another's gradient: before each, the module's state is as it was when the step began,
    and random numbers are seeded by the fit's secret, the step and the record's content.

    Args:
        module: the user's.
        clipping: what scales the gradients down.
        rehearsal: of the user's training_step.
        records: makes the batch of a unit.
        secret: of this fit.
        model: the model's number.
    """

    def __init__(
        self,
        module: nn.Module,
        clipping: Flat | None,
        *,
        rehearsal: Rehearsal,
        records: FitRecords,
        secret: Secret,
        model: int,
    ) -> None:
        super().__init__(module, clipping)
        self.rehearsal, self.records, self.secret, self.model = rehearsal, records, secret, model
        divisor = getattr(module, "loss_divisor", None)
        self.scale = divisor / records.rows_per_unit if divisor else 1.0
        """A unit's gradient is that many times the gradient of its loss."""
        owners: dict[nn.Parameter, int] = {}
        for place, layer in enumerate(module.modules()):
            for parameter in layer.parameters(recurse=False):
                owners.setdefault(parameter, place)
        places = sorted({owners[parameter] for parameter in self.parameters})
        self.layers = [places.index(owners[parameter]) for parameter in self.parameters]
        """Number of the layer that a parameter belongs to."""
        self.layer = torch.tensor(self.layers, device=self.parameters[0].device)

    def detach(self) -> None:
        """Leaves the network as it was, once nothing that only `.data` changes was changed.

        Raises:
            ValueError: if it was.
        """
        super().detach()
        self.rehearsal.settle_changes()

    def clip(self, step: Any, *, number: int, index: int) -> Float[Tensor, " batch"]:
        """Adds the clipped gradients of a step's units to the sum; returns the norms before clipping.

        Args:
            step: as the sampler yielded it.
            number: of the step, which random numbers depend on.
            index: of the batch, as training_step gets it.
        """
        if index == 0:
            self.rehearsal.settle_changes()
        with self.rehearsal.session():
            norms = [self._add(gradients) for gradients in self.gradients(step, number=number, index=index)]
            self.rehearsal.check_unchanged()
        return torch.cat(norms)

    def gradients(self, step: Any, *, number: int, index: int = 0) -> Iterator[list[Float[Tensor, "units ..."]]]:
        """Gradients of every unit, for each parameter; within a session of the rehearsal."""
        for unit in range(self.records.units(step)):
            yield [gradient.unsqueeze(0) for gradient in self.gradient(step, unit, number=number, index=index)[1]]

    def gradient(self, step: Any, unit: int, *, number: int, index: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients of one unit."""
        collated, seed = self.single(step, unit, number=number)
        of_loss: list[tuple[Tensor | None, ...]] = []
        try:
            loss = self.rehearsal.loss(
                lambda: self.records.transfer(collated),
                seed=seed,
                backward=lambda loss: of_loss.append(torch.autograd.grad(loss, self.parameters, allow_unused=True)),
                index=index,
                notice=False,
            )
        except StepFailed as error:
            raise ValueError(
                f"training_step fails on a batch of one record ({type(error.__cause__).__name__}), which is all that"
                " per_record=alone gives it; where squeeze() drops the batch dimension, use squeeze(-1)"
            ) from error.__cause__
        by_parameter = zip(self.parameters, *of_loss, strict=True)
        return loss, [torch.zeros_like(p) if g is None else g * self.scale for p, g in by_parameter]

    def by_itself(self, step: Any, *, number: int) -> bool:
        """Equality of a record's gradients before and after another record: nothing outside the module's state
        passes from one to the next."""
        with self.rehearsal.session():
            first, _, again = (self.gradient(step, unit, number=number)[1] for unit in (0, 1, 0))
        return all(torch.equal(one, other) for one, other in zip(first, again, strict=True))

    def single(self, step: Any, unit: int, *, number: int) -> tuple[Any, int]:
        """The collated batch of one unit, and the seed that belongs to its content."""
        one = self.records.some(step, [unit])
        collated = self.records.collated(one)
        words = self.secret.bits("record", self.model, (number << 63) + self.records.digest(one, collated), count=2)
        return collated, int(words[0]) << 31 ^ int(words[1])

    def _add(self, gradients: Sequence[Float[Tensor, "units ..."]]) -> Float[Tensor, " units"]:
        """Clips and adds; units whose gradient is not finite count as zero."""
        with full_precision():
            flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
            of_parameters = torch.stack([torch.linalg.vector_norm(each, dim=1).square() for each in flat])
            squares = of_parameters.new_zeros(max(self.layers) + 1, len(flat[0]))
            squares = squares.index_add(0, self.layer, of_parameters)
            finite = squares.sum(0).isfinite()
            squares = squares.where(finite, 0)
            norms, factors = self.factors(squares)
            by_layer = factors.expand(len(squares), -1) if factors.ndim == 1 else factors
            part: dict[nn.Parameter, Tensor] = {}
            # A device would wait for the answer to whether all are finite; there, all gradients pass the sieve.
            clean = finite.device.type == "cpu" and bool(finite.all())
            for parameter, each, layer in zip(self.parameters, flat, self.layers, strict=True):
                finite_gradients = each if clean else each.where(finite.unsqueeze(1), 0)
                part[parameter] = (by_layer[layer] @ finite_gradients).view_as(parameter)
            self.add(part)
        return norms


class Functional(Alone):
    """Per-record gradients vectorized over chunks of records by `torch.func`, for modules that pass `tried`.

    Every record is a batch of its own to the user's code here as well, as vmap hides the others.
    """

    def __init__(self, module: nn.Module, clipping: Flat | None, **settings: Any) -> None:
        super().__init__(module, clipping, **settings)
        self.chunk = max(1, MAX_GRADIENT_ELEMENTS // sum(parameter.numel() for parameter in self.parameters))
        self.weights = {f"module.{name}": p for name, p in module.named_parameters() if p.requires_grad}
        self._wrapped = _Called(module)

    def gradients(self, step: Any, *, number: int, index: int = 0) -> Iterator[list[Float[Tensor, "units ..."]]]:
        """Gradients of the units of a step, stacked over chunks of units whose batches have one form.

        Raises:
            ValueError: if a batch holds objects, which cannot be vectorized.
        """
        alike: dict[Any, list[list[Tensor]]] = {}
        forms: dict[Any, Any] = {}
        for unit in range(self.records.units(step)):
            collated, seed = self.single(step, unit, number=number)
            seed_all(seed)
            batch = self.records.transfer(collated)
            tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
            others = [leaf for leaf in leaves(batch) if not isinstance(leaf, Tensor)]
            if not all(leaf is None or isinstance(leaf, bool | int | float | str) for leaf in others):
                raise ValueError("a batch holds objects, which cannot be vectorized; set per_record=alone")
            key = tuple(others), *((each.shape, each.dtype) for each in tensors)
            alike.setdefault(key, []).append(tensors)
            forms.setdefault(key, batch)
            if len(alike[key]) == self.chunk:
                yield self._of(forms[key], alike.pop(key), index)
        for key, batches in alike.items():
            yield self._of(forms[key], batches, index)

    def tried(self, step: Any) -> bool:
        """Fitness of the module for this way: no error, no changed attribute, no random number, no half precision.

        Args:
            step: of a few units.
        """
        with self.rehearsal.session():
            kinds: set[torch.dtype] = set()

            def noted(tensor: Tensor) -> Tensor:
                kinds.add(tensor.dtype)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
                alone = [gradients for gradients in Alone.gradients(self, step, number=0)]
            if kinds.intersection(HALF_TYPES):
                return False
            reference = [torch.cat(each) for each in zip(*alone, strict=True)]
            self.rehearsal.put_back()
            before = self.rehearsal.state.sign()
            try:
                parts = list(self.gradients(step, number=0))
            except Exception:  # whatever torch.func or the user's code raise under it
                return False
            drawn = random_state()
            seed_all(VECTORIZED_SEED)
            if self.rehearsal.state.sign() != before or random_state() != drawn:
                return False
            vectorized = [torch.cat(each) for each in zip(*parts, strict=True)]
            if len(parts) > 1:  # units of different forms come in another order, but add up to the same
                vectorized, reference = ([each.sum(0) for each in gradients] for gradients in (vectorized, reference))
            off = sum(float((one - other).square().sum()) for one, other in zip(vectorized, reference, strict=True))
            return off <= MAX_RELATIVE_DIFFERENCE**2 * sum(float(each.square().sum()) for each in reference)

    def _of(self, form: Any, batches: Sequence[Sequence[Tensor]], index: int) -> list[Float[Tensor, "units ..."]]:
        """Per-record gradients of batches of one form."""

        def loss_of(weights: Mapping[str, Tensor], *tensors: Tensor) -> Tensor:
            remaining = iter(tensors)
            batch = map_tensors(form, lambda _: next(remaining))

            def run() -> Tensor:
                losses: list[Tensor] = []
                self.rehearsal.loss(
                    lambda: batch, seed=VECTORIZED_SEED, backward=losses.append, index=index, fresh=False, notice=False
                )
                return losses[0]

            loss: Tensor = torch.func.functional_call(self._wrapped, dict(weights), (run,))
            return loss

        stacked = [torch.stack(each) for each in zip(*batches, strict=True)]
        each_record = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, *[0] * len(stacked)), randomness="error")
        of_names = each_record({name: p.detach() for name, p in self.weights.items()}, *stacked)
        return [of_names[name].detach() * self.scale for name in self.weights]


class _Called(nn.Module):
    """Runs a function with the module's parameters replaced, as `functional_call` does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        return run()


class RecordByRecord:
    """Stand-in for the user's training_step where records are taken one by one.

    Args:
        clipped: computes the gradients.
        training_step: the user's, run once on the whole batch for what it logs.
        number: returns the number of the step.
        observe: takes in the norms before clipping.
        check: raises if a batch has not the rows that were asked for.
        empty: whether a batch holds no record.
    """

    def __init__(
        self,
        clipped: Alone,
        training_step: Callable[..., Any],
        *,
        number: Callable[[], int],
        observe: Callable[[Tensor], object],
        check: Callable[[Any], object],
        empty: Callable[[Any], bool],
    ) -> None:
        self.clipped, self.training_step, self.number = clipped, training_step, number
        self.observe, self.check, self.empty = observe, check, empty
        self._differentiates = False

    def _logged(self, *inputs: Any) -> Any:
        """The user's training_step on the whole batch; with gradients only where it differentiates by itself."""
        if not self._differentiates:
            try:
                with torch.no_grad():
                    return self.training_step(*inputs)
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                self._differentiates = True
        return self.training_step(*inputs)

    def automatic(self) -> Callable[..., Any]:
        """The training_step for Lightning's own backward and step: units are clipped before their loss is logged."""

        @functools.wraps(self.training_step)
        def training_step(batch: Any, *rest: Any) -> Any:
            self.check(batch)
            if self.empty(batch):
                return torch.zeros((), requires_grad=True)
            step = self.clipped.records.step
            self.observe(self.clipped.clip(step, number=self.number(), index=rest[0] if rest else 0))
            output = self._logged(batch, *rest)
            if output is None:
                raise ValueError("training_step returned None; a step may not depend on the records, return the loss")
            loss = output["loss"] if isinstance(output, dict) else output
            leaf = loss.detach().clone().requires_grad_()  # Lightning's backward pass finds nothing more
            return {**output, "loss": leaf} if isinstance(output, dict) else leaf

        return training_step
