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
    """Where tables are printed, of a fixed width where there is no terminal."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def empty_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def show(console: Console, *parts: Table | Text | str) -> None:
    """Prints one after the other; a console too narrow for the words of a table is taken to be wider."""
    for part in parts:
        if isinstance(part, Table):
            console.width = max(console.width, _fitted(part))
        console.print(part)


def _fitted(table: Table) -> int:
    """How wide a table must be for its words, after no column of it can be narrower than its own."""
    for column in table.columns:
        texts = [str(text) for text in (column.header, *column.cells)]
        words = [word for text in texts for word in (text.splitlines() if column.no_wrap else text.split())]
        column.min_width = max(map(len, words), default=0)
    return 1 + sum((column.min_width or 0) + 2 for column in table.columns)  # a space, and the line between columns
