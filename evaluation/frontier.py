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
    results = [result for line in lines for result in line.runs]
    refuted = {violation.result.run for violation in violations(results)}
    points = [
        point
        for line in lines
        for point in line.points
        if is_resolved(point.result)
        and not has_canaries(point.result)
        and point.result.run not in refuted
        and not is_masked(point.result, results)
    ]
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.leakage.value, -worth(point.result))):
        if not best or worth(point.result) > worth(best[-1].result):
            best.append(point)
    return best
