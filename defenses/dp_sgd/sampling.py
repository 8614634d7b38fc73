"""Poisson sampling for any map-style data set, whatever loader it came in."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils import data

from palisade.data.loaders import Gather, Poisson, poisson_mask
from palisade.data.secret import Secret
from palisade.data.units import Groups, Units
from palisade.defenses.dp_sgd.microbatches import part
from palisade.defenses.dp_sgd.records import Drawn, FitRecords, foreign_steps, names_records


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Facts about a loader that the accountant needs.

    Args:
        rate: q, the probability that a unit of privacy takes part in a step.
        public_size: N, how many units there are, treated as public.
        unit: what a unit is: record, person or group.
        rows_per_unit: how many rows of a batch, side by side, are one unit.
        augmentations: how many of these are the same record.
        records_there: how many units there are, which is private.
        steps: T where the sampler fixes it; otherwise the trainer does.
        models: numbers of the models that the sampler draws for, where it knows them.
        records: makes batches of some of the records.
        rekey: has the draws follow other secrets, one for every model; None where a foreign sampler draws.
    """

    rate: float
    public_size: int
    unit: str = "record"
    rows_per_unit: int = 1
    augmentations: int = 1
    records_there: int | None = field(default=None, compare=False)
    steps: int | None = None
    models: tuple[int, ...] | None = None
    records: FitRecords | None = field(default=None, compare=False)
    rekey: Callable[[Sequence[Secret]], object] | None = field(default=None, compare=False)


class PoissonSteps(data.DistributedSampler[list[int]]):
    """Draws every unit of privacy into a step with probability q, independently; a step may be empty.

    Step t is a function of (secret, t) and an epoch begins at the first step that is not accounted for, so a resume
    in the middle of an epoch repeats and skips nothing. Of several processes each takes its share of the same step;
    as a `DistributedSampler` it is left alone by Lightning, which would hand whole steps to different processes.

    Args:
        units: what is drawn.
        rate: q.
        steps: steps per epoch, from public numbers alone.
        secret: whose "batches" counter is drawn from.
        model: the model's number.
        done: returns how many steps are accounted for.
        rank: of this process.
        world_size: number of processes.
    """

    poisson = True

    def __init__(
        self,
        *,
        units: Units,
        rate: float,
        steps: int,
        secret: Secret,
        model: int,
        done: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.units, self.rate, self.steps = units, rate, steps
        self.secret, self.model, self.done = secret, model, done
        self.rank, self.world_size = rank, world_size
        self.waiting: deque[list[int]] = deque()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        self.waiting.clear()
        first = self.done()
        for step in range(first, first + self.steps):
            taken = poisson_mask(self.secret, self.model, step, units=len(self.units), rate=self.rate)
            share = np.flatnonzero(taken)[self.rank :: self.world_size]
            rows = self.units.rows(share, self.model, step).tolist()
            self.waiting.append(rows)
            yield rows

    def rekey(self, secrets: Sequence[Secret]) -> None:
        """Switches the draws to another secret."""
        (self.secret,) = secrets
        if isinstance(self.units, Groups):
            self.units.secret = self.secret

    def first(self, units: int, number: int) -> list[int]:
        """Rows of so many units, at most, chosen by the secret."""
        order = self.secret.numpy("check", self.model, number).permutation(len(self.units))
        return self.units.rows(np.sort(order[:units]), self.model, 0).tolist()


class PoissonGather(data.Dataset[Any]):
    """Turns a step's indices into a batch, with the loader's own collate function.

    Args:
        loader: the user's.
    """

    def __init__(self, loader: data.DataLoader[Any]) -> None:
        self.dataset, self.collate = loader.dataset, loader.collate_fn
        self.by_record = loader.batch_sampler is not None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, indices: list[int]) -> Any:
        if not indices:
            return part(self[[0]], 0, 0, of=(1,))
        return self.collate([self.dataset[i] for i in indices] if self.by_record else self.dataset[indices])


class PoissonSource(_DataLoaderSource):
    """Lightning's source of the training loader, converting what it yields, as late as Lightning asks for it."""

    def __init__(self, source: _DataLoaderSource, convert: Callable[[Any], Any]) -> None:
        super().__init__(source.instance, source.name)
        self.convert = convert

    def dataloader(self) -> Any:
        """The user's loader, converted to Poisson sampling."""
        return self.convert(super().dataloader())


def batch_transfer(trainer: pl.Trainer, module: pl.LightningModule) -> Callable[[Any], Any]:
    """Lightning's transfer of a collated batch to training_step, with the user's hooks on it."""
    to_device = trainer.strategy.batch_to_device

    def transfer(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        if _transfers_nothing(trainer, module):  # Lightning takes a while to find that out
            return batch
        return to_device(module._on_before_batch_transfer(batch, dataloader_idx=0), dataloader_idx=0)

    return transfer


def _transfers_nothing(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """True if batches reach training_step as they are collated: on a CPU, without hooks of module or data module."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    source: Any = getattr(trainer, "datamodule", None)
    return (
        module.device.type == "cpu"
        and not any(is_overridden(hook, module, pl.LightningModule) for hook in hooks)
        and not (source and any(is_overridden(hook, source, pl.LightningDataModule) for hook in hooks))
    )


def check_replaceable(loader: Any) -> int:
    """The loader's batch size, after checking that Poisson sampling may stand in for its own sampling.

    Raises:
        ValueError: if the loader's records cannot be drawn independently, or its sampler means something else.
    """
    if not isinstance(loader, data.DataLoader):
        raise ValueError(
            f"train_dataloader={type(loader).__name__}: expected one torch DataLoader; return one DataLoader"
        )
    if isinstance(loader.dataset, data.IterableDataset):
        raise ValueError(
            f"dataset={type(loader.dataset).__name__}: expected a map-style data set, whose records can be drawn"
            " independently; use one with len() and indices"
        )
    batches = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    order = batches.sampler if isinstance(batches, data.BatchSampler) else loader.sampler
    if not isinstance(batches, data.BatchSampler):
        raise ValueError(
            f"sampler={type(batches).__name__}: expected one with a batch size; give batch_size= or a torch"
            " BatchSampler"
        )
    plain = isinstance(order, data.SequentialSampler) or (
        isinstance(order, data.RandomSampler) and not order.replacement and order.num_samples == len(order.data_source)
    )
    plain = plain and len(getattr(order, "data_source", ())) == len(loader.dataset)  # type: ignore[arg-type]
    if not plain:
        raise ValueError(
            f"sampler={type(order).__name__}: expected sequential or shuffled order, which Poisson sampling over the"
            " whole data set replaces; use shuffle=True, and torch.utils.data.Subset for a part of it"
        )
    if batches.drop_last:
        raise ValueError("drop_last=True: expected False under Poisson sampling; set drop_last=False")
    return batches.batch_size


def poisson_loader(
    loader: Any,
    *,
    units: Callable[[int], Units],
    public_size: int | None,
    secret: Secret,
    models: Sequence[int],
    done: Callable[[], int],
    transfer: Callable[[Any], Any],
    rank: int,
    world_size: int,
) -> tuple[Any, Sampling]:
    """The loader with Poisson sampling at q = B/N and ⌈N/B⌉ steps per epoch, unless that is what it does already.

    Args:
        loader: the user's, with batch size B: the units expected in a step, over all processes together.
        units: makes the units of privacy for a number of records.
        public_size: N; the number of units, then treated as public, if None.
        secret: fixes the draws.
        models: the models' numbers; several need a loader that samples for each.
        done: returns how many steps are accounted for.
        transfer: puts a batch on the device and runs the user's hooks for that.
        rank: of this process.
        world_size: number of processes.
    """
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "poisson", False):
        if world_size > 1 and getattr(sampler, "processes", 1) != world_size:
            raise ValueError(
                f"sampler={type(sampler).__name__}: expected one process, for which it samples; set devices=1"
            )
        return _foreign(loader, transfer)
    if len(models) > 1:
        raise ValueError(f"models={list(models)}: expected a loader that samples for each; set sampler.poisson=True")
    batch_size = check_replaceable(loader)
    privacy_units = units(len(loader.dataset))
    check_repeats(loader.dataset, privacy_units)
    size = len(privacy_units) if public_size is None else public_size
    if batch_size > size:
        raise ValueError(f"batch_size={batch_size}: expected at most N={size}; choose at most {size}")
    steps = PoissonSteps(
        units=privacy_units,
        rate=batch_size / size,
        steps=math.ceil(size / batch_size),
        secret=secret,
        model=models[0],
        done=done,
        rank=rank,
        world_size=world_size,
    )
    gather = PoissonGather(loader)
    sampling = Sampling(
        rate=steps.rate,
        public_size=size,
        records_there=len(privacy_units),
        unit=privacy_units.name,
        rows_per_unit=privacy_units.rows_per_unit,
        augmentations=privacy_units.augmentations,
        records=FitRecords(
            gather.__getitem__,
            transfer=transfer,
            rows_per_unit=privacy_units.rows_per_unit,
            waiting=steps.waiting,
            first=steps.first,
        ),
        rekey=steps.rekey,
    )
    converted = data.DataLoader(
        gather,
        sampler=steps,
        batch_size=None,
        collate_fn=_as_is,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
    return converted, sampling


def _foreign(loader: data.DataLoader[Any], transfer: Callable[[Any], Any]) -> tuple[data.DataLoader[Any], Sampling]:
    """A loader that samples Poisson by itself, with what its sampler says about itself."""
    sampler: Any = loader.sampler
    drawn = Drawn(sampler)
    noted = copy.copy(loader)
    noted.__dict__["sampler"] = drawn  # which DataLoader itself sets only once
    models, own = getattr(sampler, "models", None), isinstance(sampler, Poisson)
    rows_per_index = getattr(sampler, "rows_per_index", None)
    rows_per_unit = getattr(sampler, "rows_per_unit", None) or 1
    if not hasattr(sampler, "rows_per_unit") and rows_per_index and names_records(foreign_steps(sampler)[0]):
        rows_per_unit = rows_per_index  # the rows of an index are one unit, unless it stands for a whole batch

    def first(units: int, number: int) -> Any:
        if own:
            return sampler.first(units, number)
        steps = foreign_steps(sampler)
        if rows_per_index is not None:
            return steps[0]
        for step in steps:
            records.rows(step)  # raises where it names nobody
        return [int(index) for step in steps for index in step][: units * rows_per_unit]

    records = FitRecords(
        lambda step: loader.collate_fn(loader.dataset[step]),
        transfer=transfer,
        rows_per_unit=rows_per_unit,
        waiting=drawn.waiting,
        first=first,
        rows_per_index=rows_per_index,
        on_host=loader.dataset.on_host if isinstance(loader.dataset, Gather) else None,
    )
    return noted, Sampling(
        rate=sampler.sampling_rate,
        public_size=sampler.public_size,
        unit=getattr(sampler, "unit", "record"),
        rows_per_unit=rows_per_unit,
        augmentations=sampler.augmentations if own else 1,
        steps=sampler.steps,
        models=None if models is None else tuple(models),
        records=records,
        rekey=sampler.rekey if own else None,
    )


def check_repeats(dataset: Any, units: Units) -> None:
    """Refuses a data set that names a record several times: it would take part with several times the probability.

    Repeats within one group are the group's own affair. Only `Subset` and `ConcatDataset` can be looked into.

    Raises:
        ValueError: with the number of repeats.
    """
    parts = _origins(dataset, np.arange(len(dataset)))
    bases = np.concatenate([np.full(len(indices), place) for place, (_, indices) in enumerate(parts.values())])
    named = np.concatenate([indices for _, indices in parts.values()])
    if parts and isinstance(units, Groups):
        return  # a unit is a group, which may hold a record as often as it likes
    repeats = len(named) - len(np.unique(bases * (named.max(initial=0) + 1) + named))
    if repeats:
        raise ValueError(
            f"dataset={type(dataset).__name__}: expected each record once, but {repeats} are named again, so that ε"
            " would not hold for them; remove repeats (Subset.indices, a data set twice in ConcatDataset), or protect"
            " all copies together with groups="
        )


def _origins(dataset: Any, positions: Any) -> dict[int, tuple[Any, Any]]:
    """Records of underlying data sets at the positions of a data set, by the underlying data set's id."""
    positions = np.where(positions < 0, positions + len(dataset), positions)  # -1 is the last one
    if isinstance(dataset, data.Subset):
        return _origins(dataset.dataset, np.asarray(dataset.indices)[positions])
    if not isinstance(dataset, data.ConcatDataset):
        return {id(dataset): (dataset, positions)}
    ends = np.array([0, *dataset.cumulative_sizes])
    place = np.searchsorted(ends, positions, side="right") - 1
    together: dict[int, tuple[Any, Any]] = {}
    for number, inner in enumerate(dataset.datasets):
        for key, (base, indices) in _origins(inner, (positions - ends[number])[place == number]).items():
            before = together[key][1] if key in together else np.empty(0, dtype=np.int64)
            together[key] = base, np.concatenate([before, indices])
    return together


def _as_is(batch: Any) -> Any:
    return batch
