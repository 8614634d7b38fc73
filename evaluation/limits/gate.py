"""The gate of a pipeline: every run must be known to keep a limit."""

from __future__ import annotations

from collections.abc import Sequence

from palisade.evaluation.curves import ordered
from palisade.evaluation.limits.few_models import ENOUGH, unseen
from palisade.evaluation.limits.limit import KEPT, Limit
from palisade.evaluation.result import Result
from palisade.evaluation.titles import title


def gate(results: Sequence[Result], limit: Limit) -> tuple[list[str], bool]:
    """A line for each run, and whether all of them keep the limit.

    What cannot be measured does not pass: an FPR that takes more records, attacks that were all skipped, a claim that
    is refuted, and scores behind which the models still leak. Nor does what too few models leave undecided.
    """
    lines, passed = [f"gate: {limit}"], True
    for result in ordered(results):
        word, why = limit.verdict(result, results)
        if why is None:
            why = limit.measured(result)
            if result.models < ENOUGH:
                why += f"; {unseen(result.models)}"
        lines.append(f"{word}: {title(result)} ({result.run}): {why}")
        passed &= word == KEPT
    return lines, passed
