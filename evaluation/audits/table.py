"""Tables of an audit in the terminal."""

from __future__ import annotations

from typing import TextIO

from rich.text import Text

from palisade.evaluation.audits.page import Page, by_reason
from palisade.evaluation.terminal import console_for, empty_table, show


def show_page(page: Page, file: TextIO | None = None, lines: int = 20) -> None:
    """Prints the first table, the verdict, what the flags mean and what was skipped.

    Args:
        page: what to tell.
        file: where to; None: standard output.
        lines: of the table at most.
    """
    console, told = console_for(file), page.tables[0]
    table = empty_table()
    for name in told.columns:
        numeric = name in told.numeric
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for line in told.lines[:lines]:
        table.add_row(*line)
    show(console, table, *page.verdict)
    for flag in page.flags:
        console.print(Text.assemble((f"{flag.name}: ", "yellow"), flag.sentence))
    for reason, names in by_reason(page.skipped).items():
        console.print(Text.assemble((f"skipped {', '.join(names)}: ", "dim"), reason))
