"""Ways of auditing a run: each that was ever tried is recorded, and all of them share the level of its bounds on ε."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from palisade.targets.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from palisade.targets.run import Run

FOLDER = "ways"
"""In a run's private folder, a file for each way that was tried, named by its digest: two evaluations lose none."""


def ways_tried(run: Run, way: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The ways by which answers of a run, behind one guard, were ever audited, by their digests.

    Models behind another guard are another release, with bounds of their own.

    Args:
        run: that is audited.
        way: one that counts whether it is recorded or not: plain values under `audit`, `grant`, `queries`, `guesses`
            and whatever else the scores depend on. So does the same at the share that the run recorded before it was
            trained: another one is a second choice from the start.

    Raises:
        ValueError: if a file among those recorded is none of them.
    """
    fixed = {**way, "guesses": run.guesses}
    recorded = (_recorded(path) for path in sorted(_folder(run).glob("*.json")))
    behind = [each for each in recorded if each.get("guard") == run.guard]
    return {_digest(each): each for each in (*behind, *({**each, "guard": run.guard} for each in (fixed, way)))}


def record_way(run: Run, way: Mapping[str, Any]) -> int:
    """The number of ways tried, this one among them, which is recorded before anybody sees what it shows.

    Raises:
        ValueError: if a file among those recorded is none of them.
    """
    folder = _folder(run)
    folder.mkdir(mode=0o700, exist_ok=True)
    for digest, each in ways_tried(run, way).items():
        if not (path := folder / f"{digest}.json").exists():
            write_json(path, each)
    return len(ways_tried(run, way))  # of two evaluations at a time, at least the later one counts both


def _folder(run: Run) -> Path:
    return run.folder / "private" / FOLDER


def _recorded(path: Path) -> Mapping[str, Any]:
    try:
        way = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        way = None
    if not isinstance(way, Mapping) or _digest(way) != path.stem:
        raise ValueError(f"{path} is no recorded way of auditing the run; remove this file")
    return way


def _digest(way: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(way, sort_keys=True).encode(), digest_size=8).hexdigest()
