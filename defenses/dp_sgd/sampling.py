"""Poisson sampling for any map-style data set, whatever loader it came in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from torch import Tensor
from torch.utils import data

from datamodules.samplers import poisson_mask
from datamodules.secret import Secret


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What the accountant must know about a loader.

    Args:
        rate: q, the probability that a record takes part in a step.
        public_size: N, treated as public.
        steps: T where the sampler fixes it; otherwise the trainer does.
        models: numbers of the models that the sampler draws for, where it knows them.
        gather: where the user's own sampling was replaced, what makes batches of their data set.
    """

    rate: float
    public_size: int
    steps: int | None = None
    models: tuple[int, ...] | None = None
    gather: Gather | None = None


class PoissonSteps(data.Sampler[list[int]]):
    """Draws every record into a step with probability q, independently; a step may be empty.

    Step t is a function of (secret, t) and an epoch begins at the first step that is not accounted for, so a resume
    in the middle of an epoch repeats and skips nothing.

    Args:
        records: size of the data set.
        rate: q.
        steps: steps per epoch, from public numbers alone.
        secret: whose "batches" counter is drawn from.
        model: the model's number.
        done: returns how many steps are accounted for.
    """

    poisson = True

    def __init__(self, *, records: int, rate: float, steps: int, secret: Secret, model: int, done: Callable[[], int]):
        self.records, self.rate, self.steps = records, rate, steps
        self.secret, self.model, self.done = secret, model, done

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        first = self.done()
        for step in range(first, first + self.steps):
            taken = poisson_mask(self.secret, self.model, step, records=self.records, rate=self.rate)
            yield np.flatnonzero(taken).tolist()


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
            return first_records(self[[0]], 0, of=1)
        return self.collate([self.dataset[i] for i in indices] if self.by_record else self.dataset[indices])


class PoissonSource(_DataLoaderSource):
    """Lightning's source of the training loader, converting what it yields, as late as Lightning asks for it."""

    def __init__(self, source: _DataLoaderSource, convert: Callable[[Any], Any]):
        super().__init__(source.instance, source.name)
        self.convert = convert

    def dataloader(self) -> Any:
        return self.convert(super().dataloader())


def poisson_sampler(loader: Any) -> Any:
    """The loader's sampler if it already samples Poisson and says so, otherwise None."""
    sampler = getattr(loader, "sampler", None)
    return sampler if getattr(sampler, "poisson", False) else None


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
    if not plain:
        raise ValueError(
            f"sampler={type(order).__name__} would be replaced by Poisson sampling over the whole data set;"
            " use shuffle=True, and torch.utils.data.Subset for a part of it"
        )
    if batches.drop_last:
        raise ValueError("drop_last=True means nothing under Poisson sampling; set drop_last=False")
    return batches.batch_size


def poisson_loader(
    loader: data.DataLoader[Any], *, public_size: int | None, secret: Secret, model: int, done: Callable[[], int]
) -> tuple[data.DataLoader[Any], Sampling]:
    """The loader with Poisson sampling at q = B/N and ⌈N/B⌉ steps per epoch in place of its own.

    Args:
        loader: the user's, with batch size B.
        public_size: N; the data set's size, then treated as public, if None.
        secret: fixes the draws.
        model: the model's number.
        done: returns how many steps are accounted for.
    """
    batch_size = check_replaceable(loader)
    records = len(loader.dataset)  # type: ignore[arg-type]
    size = records if public_size is None else public_size
    if batch_size > size:
        raise ValueError(f"batch_size={batch_size} exceeds N={size}; choose at most {size}")
    gather = Gather(loader)
    sampling = Sampling(rate=batch_size / size, public_size=size, gather=gather)
    steps = PoissonSteps(
        records=records, rate=sampling.rate, steps=math.ceil(size / batch_size), secret=secret, model=model, done=done
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


def batch_shape(batch: Any, dimensions: int) -> tuple[int, ...]:
    """(batch,) or (models, batch), read from the first tensor.

    Raises:
        ValueError: if there is no such tensor.
    """
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim >= dimensions:
            return tuple(leaf.shape[:dimensions])
    raise ValueError(f"batch={type(batch).__name__} holds no tensor to count records in; make its collate function")


def first_records(batch: Any, count: int, *, of: int) -> Any:
    """The batch cut down to its first `count` of `of` records."""
    if isinstance(batch, Tensor):
        return batch[:count] if batch.ndim and len(batch) == of else batch
    if isinstance(batch, dict):
        return type(batch)({key: first_records(value, count, of=of) for key, value in batch.items()})
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = {
            field.name: first_records(getattr(batch, field.name), count, of=of) for field in dataclasses.fields(batch)
        }
        return dataclasses.replace(batch, **parts)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(first_records(value, count, of=of) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(first_records(value, count, of=of) for value in batch)
    return batch


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, dict):
        parts = list(batch.values())
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        yield batch
        return
    for part in parts:
        yield from _leaves(part)


def _as_is(batch: Any) -> Any:
    return batch
