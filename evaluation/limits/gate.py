"""The gate of a pipeline: every run must be known to keep a limit."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.curves import ordered
from evaluation.findings import Findings
from evaluation.limits.limit import Limit
from evaluation.titles import title


def gate(findings: Sequence[Findings], limit: Limit) -> tuple[list[str], bool]:
    """A line for each run, and whether all of them keep the limit.

    What cannot be measured does not pass: an FPR that takes more records, attacks that were all skipped, a claim that
    is refuted, and scores behind which the models still leak.
    """
    lines, passed = [f"gate: {limit}"], True
    for found in ordered(findings):
        objection = limit.objection(found, findings)
        why = limit.measured(found) if objection is None else objection
        lines.append(f"{'kept' if objection is None else 'EXCEEDED'}: {title(found)} ({found.run}): {why}")
        passed &= objection is None
    return lines, passed
