"""The gate of a pipeline: every run must be known to keep a limit."""

from __future__ import annotations

from collections.abc import Sequence

from palisade.evaluation.curves import ordered
from palisade.evaluation.findings import Findings
from palisade.evaluation.limits.few_models import ENOUGH, unseen
from palisade.evaluation.limits.limit import KEPT, Limit
from palisade.evaluation.titles import title


def gate(findings: Sequence[Findings], limit: Limit) -> tuple[list[str], bool]:
    """A line for each run, and whether all of them keep the limit.

    What cannot be measured does not pass: an FPR that takes more records, attacks that were all skipped, a claim that
    is refuted, and scores behind which the models still leak. Nor does what too few models leave undecided.
    """
    lines, passed = [f"gate: {limit}"], True
    for found in ordered(findings):
        word, why = limit.verdict(found, findings)
        if why is None:
            why = limit.measured(found)
            if found.models < ENOUGH:
                why += f"; {unseen(found.models)}"
        lines.append(f"{word}: {title(found)} ({found.run}): {why}")
        passed &= word == KEPT
    return lines, passed
