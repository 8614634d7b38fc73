"""Report on a test of records in question."""

from __future__ import annotations

from typing import Any

import numpy as np

from palisade.evaluation.audits.asked_records import AskedRecords
from palisade.evaluation.audits.page import Page, Table
from palisade.evaluation.audits.plot import p_value_curve

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


def asked_page(found: AskedRecords, what: str, command: str) -> Page:
    """The page.

    Args:
        found: what was measured.
        what: was asked, in a sentence.
        command: what was called.
    """
    rows = _rows(found)
    columns = ("row", "class", "p-value", "Benjamini–Hochberg", "Holm", "named")
    order = np.argsort(found.p, kind="stable")[:SHOWN]
    lines = [
        (
            str(rows[k]["row"]),
            str(rows[k]["label"]),
            *(f"{rows[k][name]:.4f}" for name in ("p", "p_benjamini_hochberg", "p_holm")),
            "yes" if rows[k]["named"] else "no",
        )
        for k in order.tolist()
    ]
    return Page(
        title="Were these records used?",
        what=what,
        verdict=found.sentences(),
        meaning=MEANING,
        figure=p_value_curve(found.p),
        figure_heading="All records",
        figure_label="The share of the records in question with a p-value up to each level, beside the diagonal that is"
        " expected if none was used.",
        caption="The further the line rises above the dotted one on the left, the more records look used.",
        tables=[
            Table(
                heading="Record by record",
                caption=f"The {len(lines)} smallest of {len(rows):,} p-values; row 0 is the first of the file."
                f" Named: Benjamini–Hochberg at most {found.alpha:g}. Score: {found.attack} ({found.needs}).",
                columns=columns,
                numeric=columns[1:],
                lines=lines,
            )
        ],
        flags=found.flags,
        skipped={},
        rows=rows,
        command=command,
    )


def asked_content(found: AskedRecords) -> dict[str, Any]:
    """Content of report.json beside the words."""
    return {
        "attack": found.attack,
        "records": len(found.p),
        "nonmembers": found.nonmembers,
        "alpha": found.alpha,
        "all_together": found.all_together._asdict(),
        "used_share": found.used._asdict(),
        "named": {
            "benjamini_hochberg": int((found.benjamini_hochberg <= found.alpha).sum()),
            "holm": int((found.holm <= found.alpha).sum()),
        },
        "rows": _rows(found),
    }


def _rows(found: AskedRecords) -> list[dict[str, Any]]:
    values = zip(found.labels, found.scores, found.p, found.benjamini_hochberg, found.holm, strict=True)
    return [
        {
            "row": row, "label": int(label), "score": float(score), "p": float(p), "p_benjamini_hochberg": float(bh),
            "p_holm": float(strict), "named": bool(bh <= found.alpha),
        }
        for row, (label, score, p, bh, strict) in enumerate(values)
    ]  # fmt: skip
