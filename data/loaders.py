"""Batches of records: loaders, and the samplers that decide which records each step sees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Real
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from palisade.data.placement import CPU, on_device, sent
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret
from palisade.data.units import Groups, SingleRecords, Units

PADDING_ROWS = 64
"""Batches of a fixed width are a multiple of it wide: shapes that products on a GPU are fast for."""
WIDTH_DEVIATIONS = 6
Step = tuple[Int64[np.ndarray, "models batch"], Bool[np.ndarray, "models batch"]]


class Batch(NamedTuple):
    """One step's records; a leading model axis is there when a stack is trained.

    Documents have a class at every position. Soft labels, where a defense trains on any, stand in `targets` beside the
    classes.
    """

    x: Real[Tensor, "*models batch ..."]
    y: Int64[Tensor, "*models batch *positions"]
    mask: Bool[Tensor, "*models batch"]
    records: Int64[Tensor, "*models batch"]
    targets: Float[Tensor, "*models batch *positions classes"] | None = None

    @property
    def positional(self) -> bool:
        """True for documents: a class at every position, of which padding has none."""
        return self.y.ndim > self.mask.ndim


class Gather(Dataset[Batch]):
    """Turns a sampler's step into a `Batch`.

    Args:
        x: inputs of all records, in memory or memory-mapped.
        y: their labels.
        stacked: whether to keep the sampler's model axis.
        soft_labels: for every model of the stack the probabilities of the classes that it is to learn, instead of `y`.
        device: where batches are to lie. On any but the CPU all records are there, and a step sends indices alone.
    """

    def __init__(
        self,
        x: Real[np.ndarray, "records ..."],
        y: Int64[np.ndarray, "records *positions"],
        *,
        stacked: bool,
        soft_labels: Float32[np.ndarray, "models records *positions classes"] | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.x, self.y, self.stacked, self.soft_labels, self.device = x, torch.tensor(y), stacked, soft_labels, device
        self.placed = None if device.type == "cpu" else _Placed(x, y, soft_labels, device)

    def __getitem__(self, step: Step) -> Batch:
        if self.placed is not None:
            return self.placed.batch(*self._of_models(step))
        return self.on_host(step)

    def on_host(self, step: Step) -> Batch:
        """The batch of a step on the CPU, wherever batches are to lie: its values without a wait for the device."""
        index, mask = self._of_models(step)
        return Batch(
            torch.from_numpy(self.x[index]),
            self.y[index],
            torch.from_numpy(mask),
            torch.from_numpy(index),
            None if self.soft_labels is None else torch.from_numpy(self._soft_labels(index)),
        )

    def _of_models(self, step: Step) -> tuple[np.ndarray, np.ndarray]:
        return step if self.stacked else (step[0][0], step[1][0])

    def _soft_labels(
        self, index: Int64[np.ndarray, "*models batch"]
    ) -> Float32[np.ndarray, "*models batch *positions classes"]:
        assert self.soft_labels is not None
        model = np.arange(len(index))[:, None] if self.stacked else 0
        return self.soft_labels[model, index]


class _Placed:
    """All records on a device."""

    def __init__(self, x: np.ndarray, y: np.ndarray, soft_labels: np.ndarray | None, device: torch.device) -> None:
        self.device = device
        self.x, self.y = on_device(x, device), on_device(y, device)
        self.soft_labels = None if soft_labels is None else on_device(soft_labels, device)

    def batch(self, index: Int64[np.ndarray, "*models batch"], mask: Bool[np.ndarray, "*models batch"]) -> Batch:
        """The records of a step, by one copy of its indices: those of padded rows travel as −1."""
        signed = sent(np.where(mask, index, -1), self.device)
        there, records = signed >= 0, signed.clamp(min=0)
        rows = records.flatten()
        x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
        soft_labels = None
        if self.soft_labels is not None:
            models, count, *shape = self.soft_labels.shape
            first = count * torch.arange(models, device=self.device).unsqueeze(1) if records.ndim == 2 else 0
            soft_labels = self.soft_labels.flatten(0, 1).index_select(0, (records + first).flatten())
            soft_labels = soft_labels.view(*records.shape, *shape)
        x, y = (part.view(*records.shape, *part.shape[1:]) for part in (x, y))
        return Batch(x, y, there, records, soft_labels)


def training_loader(data: Gather, sampler: Sampler) -> DataLoader[Batch]:
    """A loader whose items are whole steps (a default loader makes a small fit five times slower)."""
    return DataLoader(data, sampler=sampler, batch_size=None, collate_fn=lambda batch: batch)


class Sampler(ABC):
    """Yields one step at a time: record indices (models, batch) and a mask that marks the real rows.

    Models differ in size, so rows are padded; a padded row has mask False and must get zero weight.
    What model k sees depends on (secret, k) only, never on its neighbors in the stack.

    Args:
        members: for every model of the stack, the indices of the records that it may train on.
        models: the models' numbers in the fleet.
        schedule: the public numbers of the fleet.
    """

    poisson: bool

    def __init__(
        self,
        members: Sequence[Int64[np.ndarray, "_"]],
        models: Sequence[int],
        schedule: TrainingSchedule,
        secret: Secret,
    ) -> None:
        self.members, self.models, self.secret = members, models, secret
        self.sampling_rate, self.public_size, self.steps = (
            schedule.sampling_rate,
            schedule.size,
            schedule.steps,
        )
        self.steps_per_epoch = schedule.steps_per_epoch
        self.epoch = 0
        self.process, self.processes = 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def take_share(self, process: int, processes: int) -> None:
        """Yields from now on the share of one of several processes that train together: of every step its records."""
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return self.steps_per_epoch

    @abstractmethod
    def __iter__(self) -> Iterator[Step]: ...


class Shuffling(Sampler):
    """Cuts every model's permutation into the same number of nearly equal parts (sampling without replacement)."""

    poisson = False

    def __iter__(self) -> Iterator[Step]:
        parts = [
            np.array_split(self.secret.numpy("batches", k, self.epoch).permutation(members), self.steps_per_epoch)
            for k, members in zip(self.models, self.members, strict=True)
        ]
        for step in zip(*parts, strict=True):
            yield pad([part[self.process :: self.processes] for part in step])


class Poisson(Sampler):
    """Takes every member into a step with probability q, independently: what the accountant of DP-SGD assumes.

    Args:
        persons: of every record of the data set, if persons are to be sampled and protected as a whole.
        records_per_person: records of a person that take part in a step, at most.
        augmentations: rows of each record that takes part, side by side.
        width: of which the rows of a step are a multiple, so that its shape is fixed; None pads no further than to the
            largest model's rows.
    """

    poisson = True

    def __init__(
        self,
        members: Sequence[Int64[np.ndarray, "_"]],
        models: Sequence[int],
        schedule: TrainingSchedule,
        secret: Secret,
        *,
        persons: Int64[np.ndarray, " records"] | None = None,
        records_per_person: int = 1,
        augmentations: int = 1,
        width: int | None = None,
    ) -> None:
        super().__init__(members, models, schedule, secret)
        self.augmentations, self.width = augmentations, width
        self.units: list[Units] = [
            SingleRecords(records=len(records), augmentations=augmentations)
            if persons is None
            else Groups(
                persons[records],
                records_per_group=records_per_person,
                augmentations=augmentations,
                secret=secret,
                name="person",
            )
            for records in members
        ]
        self.unit, self.rows_per_unit = self.units[0].name, self.units[0].rows_per_unit
        self.secrets = [secret for _ in models]

    def rekey(self, secrets: Sequence[Secret]) -> None:
        """Draws by other secrets from now on, one for every model."""
        self.secrets = list(secrets)
        for units, secret in zip(self.units, secrets, strict=True):
            if isinstance(units, Groups):
                units.secret = secret

    def first(self, units: int, number: int) -> Step:
        """A step of so many units of every model, at most, chosen by its secret."""
        taken = [
            np.sort(secret.numpy("check", k, number).permutation(len(own))[: min(units, *map(len, self.units))])
            for k, secret, own in zip(self.models, self.secrets, self.units, strict=True)
        ]
        return pad([self._rows(position, chosen, 0) for position, chosen in enumerate(taken)])

    def __iter__(self) -> Iterator[Step]:
        for step in range(self.epoch * self.steps_per_epoch, (self.epoch + 1) * self.steps_per_epoch):
            yield pad([self._draw(position, step) for position in range(len(self.models))], self.width)

    def _draw(self, position: int, step: int) -> Int64[np.ndarray, "_"]:
        model, secret, units = self.models[position], self.secrets[position], len(self.units[position])
        taken = poisson_mask(secret, model, step, units=units, rate=self.sampling_rate)
        return self._rows(position, np.flatnonzero(taken)[self.process :: self.processes], step)

    def _rows(self, position: int, taken: Int64[np.ndarray, "_"], step: int) -> Int64[np.ndarray, "_"]:
        return self.members[position][self.units[position].rows(taken, self.models[position], step)]


def poisson_mask(secret: Secret, model: int, step: int, *, units: int, rate: float) -> Bool[np.ndarray, "units"]:
    """Units of privacy that take part in a step: each with probability q, independently, rounded down to 2^-32."""
    return secret.bits("batches", model, step, count=units) < int(rate * 2**32)


def fixed_width(expected: int) -> int:
    """Units that a Poisson batch almost never exceeds: six standard deviations more than expected, in steps of 64.

    The deviation is that of a Poisson number, which is no less than that of a batch from a random number of members.
    """
    return PADDING_ROWS * math.ceil((expected + WIDTH_DEVIATIONS * math.sqrt(expected)) / PADDING_ROWS)


def pad(parts: Sequence[Int64[np.ndarray, "_"]], multiple: int | None = None) -> Step:
    """One step of several models of different size.

    Args:
        parts: for every model, the indices of its records.
        multiple: of which the width has to be one, from it on; None for any width.

    Returns:
        Indices and mask, both (models, batch), as wide as the largest part; padded rows have index 0 and mask False.
    """
    width = max(map(len, parts))
    if multiple is not None:
        width = multiple * max(math.ceil(width / multiple), 1)
    index = np.zeros((len(parts), width), dtype=np.int64)
    mask = np.zeros((len(parts), width), dtype=bool)
    for row, part in enumerate(parts):
        index[row, : len(part)] = part
        mask[row, : len(part)] = True
    return index, mask
