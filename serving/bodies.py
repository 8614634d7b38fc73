"""Bodies of requests as rows: the v1 form of TensorFlow Serving and KServe, and Open Inference v2.

Nothing here grows with what a client claims, only with the bytes that it sent, and no error repeats a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import orjson
from jaxtyping import Float64

from palisade.data.columns import Columns
from palisade.data.preprocessing import Preprocessing
from palisade.data.scattering import Scattering
from palisade.data.sequences import Sequences
from palisade.data.tokens import Tokens

WHOLE_TYPES = {
    "BOOL": (0, 1),
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}
"""Smallest and largest number of each type of whole numbers."""
NUMBER_TYPES = (*WHOLE_TYPES, "FP32", "FP64")
JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
"""A string in a body; possessive, as a way back for every letter would take a hundred times the memory."""
ENVELOPE_PARTS = 64
"""Lists, objects and values around the rows of a body, for each of its tensors."""
UNREAD_CELLS = 64
"""Cells of a table's row that are not looked at."""
CELL_TYPES = {str, int, float, bool, type(None)}
INPUT_NAME = "input"


class RefusedError(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        reason: in one line, without any value of a record.
        wait: seconds until the same request would be answered, where that helps.
    """

    def __init__(self, status: int, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.wait = status, reason, wait


class Room(NamedTuple):
    """Room of a body: more parts are refused before anything is made of them.

    Args:
        rows: at most.
        lists: and objects, at most.
        values: at most.
    """

    rows: int
    lists: int
    values: int

    def check(self, body: bytes) -> None:
        """Raises RefusedError for a body with more parts: a short one can hold hundreds of thousands of lists.

        Brackets and commas in strings are left out where they matter.
        """
        if not self._holds(body) and not self._holds(JSON_STRING.sub(b"", body)):
            raise RefusedError(413, f"expected no more parts than {self.rows} rows have; send fewer rows")

    def _holds(self, body: bytes) -> bool:
        return body.count(b"[") + body.count(b"{") <= self.lists and body.count(b",") <= self.values


@dataclass(frozen=True)
class RowForm:
    """Form of the raw rows that a release takes.

    Args:
        step: the release's preprocessing.
        most: rows in one request at most.
    """

    step: Preprocessing
    most: int

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of a table's columns; None for arrays and texts."""
        return tuple(self.step.columns) if isinstance(self.step, Columns) else None

    @property
    def are_texts(self) -> bool:
        """True where a row is a text."""
        return isinstance(self.step, Tokens | Sequences)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of numbers; () for a text."""
        if isinstance(self.step, Tokens | Sequences):
            return ()
        return self.step.image if isinstance(self.step, Scattering) else tuple(self.step.shape)

    @cached_property
    def room(self) -> Room:
        """Room of a body with as many rows as may come, however they are nested."""
        lists, values, tensors = 1, 1, 1
        if self.columns is not None:
            lists, values, tensors = len(self.columns), len(self.columns) + UNREAD_CELLS, len(self.columns)
        elif self.shape:
            lists, values = 1 + sum(accumulate(self.shape[:-1], mul)), math.prod(self.shape)
        envelope = ENVELOPE_PARTS * (1 + tensors)
        return Room(self.most, self.most * lists + envelope, self.most * values + envelope)

    def of_instances(self, content: Any) -> Any:
        """The rows of a v1 body, `{"instances": […]}`.

        Raises:
            RefusedError: if there are none, too many, or some of another form.
        """
        rows = content.get("instances")
        if not isinstance(rows, list) or not rows:
            raise RefusedError(400, 'instances: expected a list of at least one row; send {"instances": […]}')
        self.check_count(len(rows))
        if self.columns is not None:
            return self._of_table(rows)
        if self.are_texts:
            return _texts("instances", rows)
        return self._numbers("instances", rows)

    def of_tensors(self, content: Any) -> Any:
        """The rows of a v2 body: one tensor `input`, or one for each column of a table.

        Raises:
            RefusedError: if tensors are absent, there twice, or of another form.
        """
        tensors = content.get("inputs")
        if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
            raise RefusedError(400, "inputs: expected a list of tensors; give name, shape, datatype and data of each")
        wanted = (INPUT_NAME,) if self.columns is None else self.columns
        named = {tensor["name"]: tensor for tensor in tensors if isinstance(tensor.get("name"), str)}
        if len(named) < len(tensors) or not set(wanted) <= set(named):
            raise RefusedError(400, f"inputs: expected each of {_some(wanted)} once; see the model's metadata")
        shapes = {name: _shape(name, named[name]) for name in wanted}
        count = shapes[wanted[0]][0]
        self.check_count(count)
        if self.columns is None:
            return self._of_tensor(named[INPUT_NAME], shapes[INPUT_NAME])
        for name, shape in shapes.items():
            if shape[0] != count or math.prod(shape[1:]) != 1:
                raise RefusedError(400, f"inputs: expected one value a row for column {name}; give shape [{count}]")
        cells = [_flat(name, named[name], count) for name in wanted]
        return self._of_table([dict(zip(wanted, row, strict=True)) for row in zip(*cells, strict=True)])

    def check_count(self, count: int) -> None:
        """Raises RefusedError for more rows than one request may have."""
        if count > self.most:
            raise RefusedError(413, f"expected at most {self.most} rows in one request; send fewer")

    def _of_table(self, rows: list[Any]) -> list[dict[str, Any]]:
        """Cells of the columns alone; others are not looked at."""
        columns = self.columns or ()
        for row in rows:
            if not isinstance(row, dict) or not all(name in row for name in columns):
                raise RefusedError(400, f"rows: expected the columns {_some(columns)} in each; see the metadata")
        cells = [{name: row[name] for name in columns} for row in rows]
        if not set(map(type, chain.from_iterable(row.values() for row in cells))) <= CELL_TYPES:
            raise RefusedError(400, "rows: expected a word, a number or null in each column; send no lists")
        return cells

    def _of_tensor(self, tensor: Mapping[str, Any], shape: Sequence[int]) -> Any:
        count = shape[0]
        if self.are_texts:
            if tensor.get("datatype") != "BYTES" or math.prod(shape[1:]) != 1:
                raise RefusedError(400, f"inputs: expected BYTES of shape [{count}]; send texts")
            return _texts("inputs", _flat(INPUT_NAME, tensor, count))
        if tensor.get("datatype") not in NUMBER_TYPES:
            raise RefusedError(400, "inputs: expected a datatype of numbers; choose e.g. FP32")
        if math.prod(shape[1:]) != math.prod(self.shape):
            raise RefusedError(400, f"inputs: expected shape [{count}, {_joined(self.shape)}]; reshape the data")
        array = self._array(_flat(INPUT_NAME, tensor, count * math.prod(self.shape)), count)
        low, high = WHOLE_TYPES.get(tensor["datatype"], (-math.inf, math.inf))
        if low > -math.inf and not ((array >= low) & (array <= high) & (array == np.round(array))).all():
            raise RefusedError(400, f"inputs: expected numbers of {tensor['datatype']}; choose e.g. FP32")
        return array

    def _numbers(self, key: str, rows: list[Any]) -> Float64[np.ndarray, "rows *shape"]:
        """Rows of nested or flat lists."""
        flat, is_nested = rows, isinstance(rows[0], list) and bool(rows[0]) and isinstance(rows[0][0], list)
        for length in self.shape if is_nested else (math.prod(self.shape),):
            if not all(isinstance(part, list) and len(part) == length for part in flat):
                raise RefusedError(400, f"{key}: expected rows of shape [{_joined(self.shape)}]; reshape them")
            flat = list(chain.from_iterable(flat))
        return self._array(flat, len(rows))

    def _array(self, flat: list[Any], count: int) -> Float64[np.ndarray, "rows *shape"]:
        if not set(map(type, flat)) <= {int, float, bool}:
            raise RefusedError(400, "expected numbers alone; send no text, list or null among them")
        array = np.array(flat, dtype=np.float64).reshape(count, *self.shape) + 0.0  # one zero, without sign
        with np.errstate(over="ignore"):
            if not np.isfinite(array.astype(np.float32)).all():
                raise RefusedError(400, "expected numbers that float32 holds; correct or scale them")
        return array


def parsed(body: bytes, room: Room) -> Any:
    """The object in a body of JSON.

    Raises:
        RefusedError: if it is none, has too many parts, is deeply nested, or has a name twice.
    """
    room.check(body)
    try:
        content = orjson.loads(body)
    except ValueError as error:  # its text holds no part of the body
        raise RefusedError(400, f"expected JSON ({str(error).partition(':')[0]}); correct the body") from None
    if not isinstance(content, dict):
        raise RefusedError(400, "expected a JSON object; send {…}")
    try:
        names = _count_of_names(content)
    except RecursionError:
        raise RefusedError(400, "expected JSON of a few levels; correct the body") from None
    # Colons in words are rare: only then strings are cut out.
    if body.count(b":") != names and JSON_STRING.sub(b"", body).count(b":") != names:
        raise RefusedError(400, "expected every name once in an object; remove the second")
    return content


def _count_of_names(value: Any) -> int:
    """Names in an object and the objects below it."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count_of_names, value.values()))
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return sum(map(_count_of_names, value))
    return 0


def _shape(name: str, tensor: Mapping[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(map(_is_length, shape)):
        raise RefusedError(400, f"inputs: expected a shape of positive lengths for {name}; give e.g. [1, 2]")
    return shape


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _flat(name: str, tensor: Mapping[str, Any], count: int) -> list[Any]:
    """Data of a tensor, which may come nested, as a flat list."""
    data = tensor.get("data")
    for _ in range(8):
        if not isinstance(data, list) or not data or not isinstance(data[0], list):
            break
        if not all(isinstance(part, list) for part in data):
            raise RefusedError(400, f"inputs: expected data of one depth for {name}; send them flat")
        data = list(chain.from_iterable(data))
    if not isinstance(data, list) or len(data) != count:
        raise RefusedError(400, f"inputs: expected {count} values in data of {name}, as its shape says; correct one")
    return data


def _texts(key: str, rows: list[Any]) -> list[str]:
    if not all(isinstance(row, str) for row in rows):
        raise RefusedError(400, f"{key}: expected texts alone; send one for each row")
    return rows


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _joined(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
