"""Formats of values as text, and of tables in the terminal: as wide as their words need."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TextIO, runtime_checkable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

NO_NUMBER = "–"
"""Text of a cell without a number."""
LEAST_POWER = 1e6
"""Least number that is written as a power of ten."""


@runtime_checkable
class Interval(Protocol):
    """A value with the ends of its interval."""

    @property
    def value(self) -> float | None:
        """The value itself, None where it cannot be resolved."""

    @property
    def low(self) -> float | None:
        """Lower end, None where there is no interval."""

    @property
    def high(self) -> float | None:
        """Upper end, None where there is no interval."""


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a CSV file: values as Python writes them, and nothing for None."""
    import pandas as pd  # slow to import; what only looks at settings or the cache needs none of it

    table = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return table.to_csv(index=False, lineterminator="\n")


def number(row: Interval | None, *, factor: float = 1, digits: int = 3, unit: str = "", interval: bool = False) -> str:
    """A value, with its interval on request: `0.912 [0.903–0.921]`; a dash where there is none.

    Args:
        row: holds the value and its interval.
        factor: that all three are multiplied by.
        digits: behind the decimal point.
        unit: behind the value.
        interval: also the interval, where there is one.
    """
    if row is None or row.value is None:
        return NO_NUMBER
    value = f"{decimal(factor * row.value, digits)}{unit}"
    if not interval or row.low is None or row.high is None:
        return value
    return f"{value} [{decimal(factor * row.low, digits)}–{decimal(factor * row.high, digits)}]"


def percent(row: Interval | None, *, interval: bool = False) -> str:
    """A rate in percent, with its interval on request: `23.1 % [20.4–25.9]`."""
    return number(row, factor=100, digits=1, unit=" %", interval=interval)


def decimal(value: float, digits: int) -> str:
    """A number with this many digits behind the point; as a power of ten from a million on.

    >>> decimal(0.9123, 3), decimal(1234.567, 0), decimal(4.852e8, 0)
    ('0.912', '1,235', '4.85e+08')
    """
    return f"{value:,.{digits}f}" if abs(value) < LEAST_POWER else f"{value:.3g}"


def decimals(value: float) -> int:
    """Digits behind the point that leave at least three that count.

    >>> decimals(3.2719), decimals(16.828), decimals(1234.567)
    (2, 1, 0)
    """
    return max(2 - math.floor(math.log10(abs(value))), 0) if 0 < abs(value) < LEAST_POWER else 0


def share_text(rate: float) -> str:
    """A rate in percent without the sign, two digits that count where it is small.

    >>> share_text(0.01), share_text(0.0153), share_text(0.00123)
    ('1', '1.5', '0.12')
    """
    value = 100 * rate
    return f"{value:.1f}".removesuffix(".0") if value >= 1 else f"{value:.2g}"


def counted_runs(count: int) -> str:
    """1 run, 2 runs."""
    return "1 run" if count == 1 else f"{count} runs"


def epsilon_text(epsilon: float) -> str:
    """ε for labels, rounded up: a claim may be understated in protection, never in ε.

    >>> epsilon_text(7.921), epsilon_text(31.2), epsilon_text(math.inf)
    ('8', '32', '∞')
    """
    if math.isinf(epsilon):
        return "∞"
    unit = 1.0 if epsilon >= 10 else 0.1 if epsilon >= 1 else 0.01
    return f"{round(math.ceil(epsilon / unit - 1e-9) * unit, 2):g}"


def bound_text(audit: Mapping[str, Any], method: str) -> str:
    """A lower bound on ε, rounded down, and the ceiling that a perfect attack would reach: `0.31 (≤ 4.1)`.

    Args:
        audit: bounds and ceilings by method; empty if none was measured.
        method: such as `one_run`.
    """
    if not audit:
        return NO_NUMBER
    bound, ceiling = audit["bounds"][method], audit["ceilings"][method]
    shown = "∞" if math.isinf(bound) else f"{floored(bound):.2f}"
    return f"{shown} (≤ {'∞' if math.isinf(ceiling) else f'{ceiling:.1f}'})"


def floored(bound: float) -> float:
    """A lower bound to two digits, rounded down: it is still one."""
    return bound if math.isinf(bound) else math.floor(100 * bound) / 100


PLAIN_WIDTH = 120


def console_for(file: TextIO | None = None) -> Console:
    """The console that tables are printed on, of a fixed width where there is no terminal."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def empty_table() -> Table:
    """A table without rows in the style of all tables of the terminal."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def show(console: Console, *parts: Table | Text | str) -> None:
    """Prints one after the other; a table whose words need more room than the console has stands out beyond it."""
    for part in parts:
        width = console.width
        if isinstance(part, Table):
            console.width = max(width, _fitted(part, width))
        console.print(part)
        console.width = width


def _fitted(table: Table, room: int) -> int:
    """Width of a table after each of its columns holds its longest word, and those on the left what else fits."""
    spaces = 2 * len(table.columns)  # between columns, and at both ends
    texts = [[str(text) for text in (column.header, *column.cells)] for column in table.columns]
    natural = [max(len(line) for text in own for line in text.splitlines() or [""]) for own in texts]
    least = [
        most if column.no_wrap else max(len(word) for text in own for word in text.split() or [""])
        for column, own, most in zip(table.columns, texts, natural, strict=True)
    ]
    spare = max(room - spaces - sum(least), 0)
    for column, fewest, most in zip(table.columns, least, natural, strict=True):
        column.width = min(most, fewest + spare)
        spare -= column.width - fewest
    return spaces + sum(column.width or 0 for column in table.columns)
