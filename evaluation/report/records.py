"""Report on records in question: were they used?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from palisade.evaluation.figures.curves import p_value_curve
from palisade.evaluation.record_test import AskedRecords
from palisade.evaluation.report.figure_page import PageTable, write_page
from palisade.evaluation.report.scope import INTERNAL
from palisade.evaluation.table import TextTable, drawn
from palisade.evaluation.terminal import console_for, show

SHOWN = 50
"""Records that the page lists; results.csv holds all."""
MEANING = (
    "A p-value is how often a record that was not used, but is otherwise like the non-members, would look at least as"
    " much used as this one. A small one is evidence of use, no proof: an easy record, or one that resembles somebody"
    " else's used record, gets a small one too.",
    "It holds only if the non-members are like the records in question in everything but their use: same source, same"
    " time, same treatment. No test can check that fully (Zhang et al. 2024, “Membership Inference Attacks Cannot Prove"
    " that a Model Was Trained On Your Data”).",
    "A large p-value proves nothing: well-trained and protected models hide most of what they were trained on.",
    "The test of all records takes them as independent. Many rows of one person, or copies, make it too sure.",
    "One score was fixed before any answer was seen. Whoever tries several files, models or scores and reports the best"
    " must correct for that.",
)
COLUMNS = ("row", "class", "p-value", "Benjamini–Hochberg", "Holm", "named")


def write_records(asked: AskedRecords, what: str, command: str, folder: Path, notes: Sequence[str] = ()) -> list[Path]:
    """Writes the page of a test of records and its numbers, each file whole or not at all.

    Args:
        asked: what was measured.
        what: was asked, in a sentence.
        command: what was called.
        folder: where to; made if it is missing.
        notes: sentences that follow the verdict.
    """
    rows = _rows(asked)
    words = {
        "title": "Were these records used?", "scope": INTERNAL, "what": what,
        "verdict": [*asked.sentences(), *notes], "decided": [], "meaning": list(MEANING),
        "flags": [asdict(flag) for flag in asked.flags], "skipped": {},
    }  # fmt: skip
    measured = {
        "attack": asked.attack,
        "records": len(asked.p),
        "nonmembers": asked.nonmembers,
        "alpha": asked.alpha,
        "all_together": asked.all_together._asdict(),
        "used_share": asked.used._asdict(),
        "accuracy": [
            {name: getattr(row, name) for name in ("group", "value", "low", "high")} for row in asked.accuracy
        ],
        "named": {
            "benjamini_hochberg": int((asked.benjamini_hochberg <= asked.alpha).sum()),
            "holm": int((asked.holm <= asked.alpha).sum()),
        },
        "rows": rows,
    }
    figure = {
        "heading": "All records",
        "label": "The share of the records in question with a p-value up to each level, beside the diagonal that is"
        " expected if none was used.",
        "caption": "The further the line rises above the dotted one on the left, the more records look used.",
    }
    table = most_suspect(asked)
    listed = PageTable(
        heading="Record by record",
        caption=f"The {len(table.lines)} smallest of {len(rows):,} p-values; row 0 is the first of the file."
        f" Named: Benjamini–Hochberg at most {asked.alpha:g}. Score: {asked.attack} ({asked.needs}).",
        content=table,
    )
    return write_page(folder, words, measured, rows, p_value_curve(asked.p), figure, [listed], command)


def show_records(asked: AskedRecords, notes: Sequence[str] = ()) -> None:
    """Prints the records with the smallest p-values, the verdict, and what the flags mean."""
    console = console_for()
    show(console, drawn(most_suspect(asked)), *asked.sentences(), *notes)
    for flag in asked.flags:
        console.print(Text.assemble((f"{flag.name}: ", "yellow"), flag.sentence))


def most_suspect(asked: AskedRecords) -> TextTable:
    """The records with the smallest p-values."""
    rows = _rows(asked)
    order = np.argsort(asked.p, kind="stable")[:SHOWN]
    lines = [
        (
            str(rows[k]["row"]),
            str(rows[k]["label"]),
            *(f"{rows[k][name]:.4f}" for name in ("p", "p_benjamini_hochberg", "p_holm")),
            "yes" if rows[k]["named"] else "no",
        )
        for k in order.tolist()
    ]
    return TextTable(COLUMNS, COLUMNS[1:], lines)


def _rows(asked: AskedRecords) -> list[dict[str, Any]]:
    values = zip(asked.labels, asked.scores, asked.p, asked.benjamini_hochberg, asked.holm, strict=True)
    return [
        {
            "row": row, "label": int(label), "score": float(score), "p": float(p), "p_benjamini_hochberg": float(bh),
            "p_holm": float(strict), "named": bool(bh <= asked.alpha),
        }
        for row, (label, score, p, bh, strict) in enumerate(values)
    ]  # fmt: skip
