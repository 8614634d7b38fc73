"""Poisson sampling for any map-style data set, whatever loader it came in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from torch.utils import data

from datamodules.samplers import poisson_mask
from datamodules.secret import Secret
from datamodules.units import Units
from defenses.dp_sgd.batches import part


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What the accountant must know about a loader.

    Args:
        rate: q, the probability that a unit of privacy takes part in a step.
        public_size: N, how many units there are, treated as public.
        unit: what a unit is: record, person or group.
        rows_per_unit: how many rows of a batch, side by side, are one unit.
        augmentations: how many of these are the same record.
        steps: T where the sampler fixes it; otherwise the trainer does.
        models: numbers of the models that the sampler draws for, where it knows them.
        gather: where the user's own sampling was replaced, what makes batches of their data set.
    """

    rate: float
    public_size: int
    unit: str = "record"
    rows_per_unit: int = 1
    augmentations: int = 1
    steps: int | None = None
    models: tuple[int, ...] | None = None
    gather: Gather | None = None


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
    ):
        self.units, self.rate, self.steps = units, rate, steps
        self.secret, self.model, self.done = secret, model, done
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        first = self.done()
        for step in range(first, first + self.steps):
            taken = poisson_mask(self.secret, self.model, step, units=len(self.units), rate=self.rate)
            share = np.flatnonzero(taken)[self.rank :: self.world_size]
            yield self.units.rows(share, self.model, step).tolist()


class Gather(data.Dataset[Any]):
    """Turns a step's indices into a batch, with the loader's own collate function.

    Args:
        loader: the user's.
    """

    def __init__(self, loader: data.DataLoader[Any]):
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

    def __init__(self, source: _DataLoaderSource, convert: Callable[[Any], Any]):
        super().__init__(source.instance, source.name)
        self.convert = convert

    def dataloader(self) -> Any:
        return self.convert(super().dataloader())


def check_replaceable(loader: Any) -> int:
    """The loader's batch size, after checking that Poisson sampling may stand in for its own sampling.

    Raises:
        ValueError: if the loader's records cannot be drawn independently, or its sampler means something else.
    """
    if not isinstance(loader, data.DataLoader):
        raise ValueError(f"train_dataloader={type(loader).__name__} cannot be sampled; give one torch DataLoader")
    if isinstance(loader.dataset, data.IterableDataset):
        raise ValueError(
            f"dataset={type(loader.dataset).__name__} is iterable, so its records cannot be drawn independently;"
            " give a map-style data set with len() and indices"
        )
    batches = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    order = batches.sampler if isinstance(batches, data.BatchSampler) else loader.sampler
    if not isinstance(batches, data.BatchSampler):
        raise ValueError(
            f"sampler={type(batches).__name__} has no batch size; give batch_size= or a torch BatchSampler"
        )
    plain = isinstance(order, data.SequentialSampler) or (
        isinstance(order, data.RandomSampler) and not order.replacement and order.num_samples == len(order.data_source)
    )
    plain = plain and len(getattr(order, "data_source", ())) == len(loader.dataset)  # type: ignore[arg-type]
    if not plain:
        raise ValueError(
            f"sampler={type(order).__name__} would be replaced by Poisson sampling over the whole data set;"
            " use shuffle=True, and torch.utils.data.Subset for a part of it"
        )
    if batches.drop_last:
        raise ValueError("drop_last=True means nothing under Poisson sampling; set drop_last=False")
    return batches.batch_size


def poisson_loader(
    loader: Any,
    *,
    units: Callable[[int], Units],
    public_size: int | None,
    secret: Secret,
    models: Sequence[int],
    done: Callable[[], int],
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
        rank: of this process.
        world_size: number of processes.
    """
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "poisson", False):
        if world_size > 1:
            raise ValueError(f"sampler={type(sampler).__name__} samples for one process; use devices=1")
        return loader, _sampling_of(sampler)
    if len(models) > 1:
        raise ValueError(f"models={list(models)} need a loader that samples for each; set sampler.poisson=True")
    batch_size = check_replaceable(loader)
    made = units(len(loader.dataset))
    size = len(made) if public_size is None else public_size
    if batch_size > size:
        raise ValueError(f"batch_size={batch_size} exceeds N={size}; choose at most {size}")
    sampling = Sampling(
        rate=batch_size / size,
        public_size=size,
        unit=made.name,
        rows_per_unit=made.rows_per_unit,
        augmentations=made.augmentations,
        gather=Gather(loader),
    )
    steps = PoissonSteps(
        units=made,
        rate=sampling.rate,
        steps=math.ceil(size / batch_size),
        secret=secret,
        model=models[0],
        done=done,
        rank=rank,
        world_size=world_size,
    )
    converted = data.DataLoader(
        sampling.gather,  # type: ignore[arg-type]
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


def _sampling_of(sampler: Any) -> Sampling:
    """What a Poisson sampler says about itself."""
    models = getattr(sampler, "models", None)
    return Sampling(
        rate=sampler.sampling_rate,
        public_size=sampler.public_size,
        unit=getattr(sampler, "unit", "record"),
        rows_per_unit=getattr(sampler, "rows_per_unit", 1),
        steps=sampler.steps,
        models=None if models is None else tuple(models),
    )


def _as_is(batch: Any) -> Any:
    return batch
