"""The share of an audit's records that is guessed: recorded before training, and every other one that was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.runs import Run

SHARE = 0.1
"""Of the canaries, guessed at either end where a run recorded none before it was trained."""
FOLDER = "guesses"
"""In a run's private folder, an empty file for each share that was tried besides: two evaluations lose none."""


def checked_share(key: str, share: Any) -> float:
    """A share of the records that may be guessed at either end, in (0, 0.5].

    Args:
        key: the setting that holds it.
        share: its value.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
        raise ValueError(f"{key}={share} is no share at either end; choose above 0, at most 0.5")
    return float(share)


def shares_tried(run: Run, share: float) -> list[float]:
    """All shares that audits of a run ever guessed, rising: the recorded one, this one, and those tried before."""
    files = (run.folder / "private" / FOLDER).glob("[0-9]*")
    return sorted({run.guesses, share, *(float(path.name) for path in files)})


def record_share(run: Run, share: float) -> None:
    """Leaves behind that audits of a run guess a share, before anybody sees what that shows."""
    if share != run.guesses:
        folder = run.folder / "private" / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / repr(share)).touch(mode=0o600)
