"""The most useful run that keeps a limit, and the command that ships it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from palisade.evaluation.curves import ordered
from palisade.evaluation.findings import Findings
from palisade.evaluation.limits.few_models import ENOUGH, unseen
from palisade.evaluation.limits.limit import Limit, found_text, upper
from palisade.evaluation.titles import has_canaries, title
from palisade.evaluation.utility import worth
from palisade.targets.guards.registry import registered

CANARIES = "only its canaries were attacked, and no release may hold any"
SELECTED = (
    "It was chosen by the very numbers that it is shown with, which flatters it: train its setting again with another"
    " seed=… and attack that run before relying on them."
)


def recommend(findings: Sequence[Findings], limit: Limit) -> tuple[list[str], Findings | None]:
    """Lines that name the run of best utility that keeps the limit, if any does, and say why others do not.

    Returns:
        The lines, and the run; None if none keeps the limit. The lines then name the one that comes nearest.

    Raises:
        ValueError: if the utility can be measured on none of the runs.
    """
    if all(math.isinf(worth(found)) for found in findings):
        name = findings[0].utility.name
        raise ValueError(f"utility={name} cannot be measured on any of these runs; choose another, such as accuracy")
    objections = {found.run: _objection(found, findings, limit) for found in findings}
    fit = [found for found in ordered(findings) if objections[found.run] is None]
    best = max(fit, key=worth, default=None)
    lines = [f"choose: {limit}", *(_told(best, limit) if best is not None else _nearest(findings, objections, limit))]
    lines += [
        f"not {title(found)} ({found.run}): {why}" for found in ordered(findings) if (why := objections[found.run])
    ]
    return lines, best


def ship_command(found: Findings) -> str:
    """The command that trains the release of a run, behind the guard that it was measured with."""
    words = [f"ship={found.folder}"]
    if found.guard != "none":
        guard = registered(Path(found.folder), found.run.partition("+")[2])
        words += [f"guard={guard.name}", *(f"guard.{key}={value}" for key, value in asdict(guard).items())]
    return shlex.join(["python", "train.py", *words])


def _objection(found: Findings, together: Sequence[Findings], limit: Limit) -> str | None:
    if has_canaries(found):
        return CANARIES
    if math.isinf(worth(found)):
        return f"its {found.utility.words} cannot be measured"
    return limit.objection(found, together)


def _told(best: Findings, limit: Limit) -> Iterator[str]:
    utility = best.utility.text(best.find(best.utility.metric), interval=True)
    yield f"{title(best)} ({best.run}): {best.utility.words} {utility}, {limit.measured(best)}"
    yield SELECTED
    if best.models < ENOUGH:
        yield f"{unseen(best.models)}: train fleet.models={ENOUGH} before relying on it"
    yield f"to ship it: {ship_command(best)}"


def _nearest(findings: Sequence[Findings], objections: dict[str, str | None], limit: Limit) -> Iterator[str]:
    """That no run keeps the limit, and which of those that exceed it does so least."""
    exceeding = [
        (found, row)
        for found in findings
        if not has_canaries(found) and (row := limit.highest(found)) is not None and upper(row) > limit.most
    ]
    told = ""
    if exceeding:
        found, row = min(exceeding, key=lambda pair: upper(pair[1]))
        told = f"; {title(found)} comes nearest, with {found_text(row)}"
    yield f"none of {len(findings)} runs keeps it{told}"
