"""Tables in the terminal, as wide as their words need: what had no room would be cropped."""

from __future__ import annotations

import sys
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 120


def console_for(file: TextIO | None = None) -> Console:
    """The console that tables are printed on, of a fixed width where there is no terminal."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
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
