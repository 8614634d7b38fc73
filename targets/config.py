"""Settings of a run by dotted keys, and the share of canaries that its audit guesses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from palisade.fields import as_written

CONF_FOLDER = Path(__file__).parents[1].resolve() / "conf"
"""Where Hydra composes settings from."""
DEFAULT_ENGINE: Mapping[str, Any] = {"_target_": "palisade.targets.engines.local.LocalEngine"}
"""Node of the engine of programs that name none."""
DEFAULT_GUESSED_SHARE = 0.1
"""Of the canaries, guessed at either end where a run recorded none before it was trained."""
AtEitherEnd = Annotated[float, Field(gt=0, le=0.5, examples=[DEFAULT_GUESSED_SHARE])]
SHARE_ROUNDING = 1e-9  # of a share of a count


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every single setting with its key.

    >>> dict(flat({"seed": 0, "trainer": {"optimizer": {"lr": 0.1}}}))
    {'seed': 0, 'trainer.optimizer.lr': 0.1}
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def validated_share(key: str, share: Any) -> float:
    """A share of the records that may be guessed at either end, in (0, 0.5].

    Args:
        key: the setting that holds it.
        share: its value.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
        raise ValueError(
            f"{key}={as_written(share)}: expected a number > 0 and <= 0.5; choose e.g. {DEFAULT_GUESSED_SHARE}"
        )
    return float(share)


def at_either_end(share: float, records: int) -> int:
    """Number of records guessed to be members, and as many to be non-members."""
    return int(share * records + SHARE_ROUNDING)


def validate_guessed_records(key: str, share: float, records: int) -> None:
    """Raises ValueError for a share of so few records that no record would be guessed; `key` is its setting."""
    if not at_either_end(share, records):
        least = f"choose {key}={-(-10_000 // records) / 10_000:g}, or audit" if records > 1 else "audit"
        raise ValueError(
            f"{key}={share:g}: expected a share of at least one of {records} records; {least} more of them"
        )
