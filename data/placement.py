"""Records on the device: copied there once by every process, however many models it trains on them."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

CPU = torch.device("cpu")
DEVICES_WITHOUT_DOUBLES = frozenset({"mps"})
"""Kinds of devices that have no double precision: they refuse it."""
_placed: dict[tuple[int, torch.device], Tensor] = {}
"""By the identity of an array, as long as it lives."""


def on_device(array: Shaped[np.ndarray, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """A tensor of the array's values; on any device but the CPU it is copied once, and used again.

    Args:
        array: in memory or memory-mapped; on the CPU the tensor shares its memory. It must not change afterwards.
        device: where the tensor is to lie.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.ascontiguousarray(array))
    key = (id(array), device)
    if key not in _placed:
        _placed[key] = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        weakref.finalize(array, _placed.pop, key, None)
    return _placed[key]


def rows(
    array: Shaped[np.ndarray, "records *shape"], index: Int64[np.ndarray, "*batch"], device: torch.device
) -> Shaped[Tensor, "*batch *shape"]:
    """Records by their index on the device; on any but the CPU all of them are there, and the index alone is sent."""
    if device.type == "cpu":
        return torch.from_numpy(array[index])
    return on_device(array, device)[sent(index, device)]


def sent(values: Shaped[np.ndarray | Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Values that are used once, such as those of a step, on the device; a GPU's host does not wait for the copy."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(device, non_blocking=device.type == "cuda")


def in_highest_precision(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Values in the most precise type of their device: single precision on that of a Mac."""
    return values if values.device.type in DEVICES_WITHOUT_DOUBLES else values.double()


def in_double(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Values in double precision where they lie, or on the CPU if that device has none."""
    return (values.cpu() if values.device.type in DEVICES_WITHOUT_DOUBLES else values).double()
