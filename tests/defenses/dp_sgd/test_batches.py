"""Batches in whatever container a loader puts them."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from palisade.defenses.dp_sgd.microbatches import batch_shape, content, leaves, map_tensors, part

Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Both:
    x: Any
    y: Any


class Encoding(UserDict[str, Any]):
    """As a tokenizer returns it: more than a dictionary, with attributes for its items."""

    def __init__(self, data: dict[str, Any], tokenizer: str):
        super().__init__(data)
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "tokenizer": self.tokenizer}


class Frozen(Mapping[str, Any]):
    def __init__(self, items: Mapping[str, Any]):
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def named(parts: list[Any]) -> dict[str, Any]:
    return dict(zip("xy", parts, strict=True))


BATCH_CONTAINERS = {
    "tuple": tuple,
    "list": list,
    "namedtuple": lambda parts: Pair(*parts),
    "dataclass": lambda parts: Both(*parts),
    "dict": named,
    "OrderedDict": lambda parts: OrderedDict(named(parts)),
    "defaultdict": lambda parts: defaultdict(list, named(parts)),
    "UserDict": lambda parts: UserDict(named(parts)),
    "tokens": lambda parts: Encoding(named(parts), tokenizer="bytes"),
    "immutable": lambda parts: Frozen(named(parts)),
    "proxy": lambda parts: MappingProxyType(named(parts)),
    "nested": lambda parts: UserDict(inputs=Encoding(named(parts), tokenizer="bytes")),
}


@pytest.mark.parametrize("container", BATCH_CONTAINERS)
def test_part_keeps_the_container_and_the_whole(container: str) -> None:
    x, y = torch.arange(12).view(3, 4), torch.arange(3)
    batch = BATCH_CONTAINERS[container]([x, y])
    assert batch_shape(batch, 1) == (3,) and batch_shape(batch, 2) == (3, 4)
    cut = part(batch, 1, 2, of=(3,))
    assert type(cut) is type(batch)
    assert [leaf.tolist() for leaf in leaves(cut)] == [[[4, 5, 6, 7]], [1]]
    assert [id(leaf) for leaf in leaves(batch)] == [id(x), id(y)]


@pytest.mark.parametrize("container", BATCH_CONTAINERS)
def test_change_of_tensors_alone(container: str) -> None:
    batch = BATCH_CONTAINERS[container]([torch.ones(2), "a name"])
    changed = map_tensors(batch, lambda tensor: tensor + 1)
    assert type(changed) is type(batch)
    tensor, name = leaves(changed)
    assert tensor.tolist() == [2, 2] and name == "a name"
    assert next(leaves(batch)).tolist() == [1, 1]


def test_attributes_of_a_mapping_stay() -> None:
    cut = part(BATCH_CONTAINERS["tokens"]([torch.arange(3), torch.arange(3)]), 0, 2, of=(3,))
    assert cut.tokenizer == "bytes" and cut.x.tolist() == [0, 1]
    assert part(defaultdict(list, x=torch.arange(3)), 0, 2, of=(3,)).default_factory is list


def test_part_of_a_stack_and_of_what_is_no_record() -> None:
    x, weight, name = part([torch.arange(12).view(2, 6), torch.ones(6), "name"], 1, 3, of=(2, 6))
    assert x.tolist() == [[1, 2], [7, 8]] and weight.shape == (6,) and name == "name"


def test_part_of_records_that_are_no_tensors() -> None:
    targets = [UserDict(boxes=torch.ones(number + 1, 4)) for number in range(5)]
    x, cut = part((torch.arange(5), targets), 1, 3, of=(5,))
    assert x.tolist() == [1, 2] and [id(target) for target in cut] == [id(target) for target in targets[1:3]]
    pair = part((torch.arange(2), torch.arange(2)), 0, 1, of=(2,))  # two tensors are not two records
    assert [tensor.tolist() for tensor in pair] == [[0], [0]]


def test_refuses_a_batch_without_tensors() -> None:
    with pytest.raises(ValueError, match="batch=UserDict"):
        batch_shape(UserDict(name="a"), 1)


def test_an_empty_batch_has_a_content():
    """NumPy's arrays without values make tensors that cannot be viewed as bytes: the first batch may be empty."""
    assert content(torch.from_numpy(np.zeros(0, dtype=np.int64))) == b""
    assert content(torch.tensor([1, 256])) == np.array([1, 256]).tobytes()
