"""The best that can be had: no run is more useful and leaks less."""

from __future__ import annotations

from collections.abc import Sequence

from palisade.evaluation.choice import is_masked, is_resolved
from palisade.evaluation.claims import violations
from palisade.evaluation.curves import Point, Series
from palisade.evaluation.titles import has_canaries
from palisade.evaluation.utility import worth

FEWEST = 3
"""Lines from which on the frontier is no line of the figure already."""


def has_frontier(lines: Sequence[Series]) -> bool:
    """Presence of a frontier that a figure shows: enough runs, of which more than one is on it."""
    return sum(line.canary == "none" for line in lines) >= FEWEST and len(frontier(lines)) > 1


def frontier(lines: Sequence[Series]) -> list[Point]:
    """The points of the frontier, utility and leakage rising.

    Runs that mask what they leak, whose claim is refuted or whose TPR does not say how much leaks are no part of it,
    nor are fleets with canaries, of which other records were attacked.
    """
    findings = [found for line in lines for found in line.runs]
    refuted = {violation.found.run for violation in violations(findings)}
    points = [
        point
        for line in lines
        for point in line.points
        if is_resolved(point.findings)
        and not has_canaries(point.findings)
        and point.findings.run not in refuted
        and not is_masked(point.findings, findings)
    ]
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.leakage.value, -worth(point.findings))):
        if not best or worth(point.findings) > worth(best[-1].findings):
            best.append(point)
    return best
