"""Settings of a run: by dotted keys, what is wrong with them, and the share of canaries that its audit guesses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palisade.data.settings import check_group, check_numbers, check_switches

CONF = Path(__file__).parents[1].resolve() / "conf"
"""Where Hydra composes settings from."""
SHARE = 0.1
"""Of the canaries, guessed at either end where a run recorded none before it was trained."""
ROUNDING = 1e-9  # of a share of a count


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


def check_settings(settings: Mapping[str, Any]) -> None:
    """Checks of the settings of a run that need none of its data.

    Raises:
        ValueError: if a group is none, a number is beyond use, or the data are not chosen.
    """
    check_groups(settings)
    check_numbers({key: value for key, value in settings.items() if key != "tuning"})  # a trial may fail
    if not isinstance(settings.get("data"), dict):
        names = ", ".join(sorted(path.stem for path in CONF.glob("data/*.yaml")))
        raise ValueError(f"data is not chosen; add data=<name>, one of {names}")
    if missing_keys := [key for key, value in settings["data"].items() if value == "???"]:
        raise ValueError(f"data.{missing_keys[0]} is not given; add data.{missing_keys[0]}=<value>")


def check_groups(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a single value in the place of a group, whatever the group is for."""
    check_switches(settings, ("plan", "quiet", "verbose"))
    if settings["quiet"] and settings["verbose"]:
        raise ValueError("quiet=true and verbose=true say the opposite; leave one of them out")
    for group in ("fleet", "membership", "network", "defense", "guard", "trainer"):
        check_group(group, settings.get(group))  # trainer=[] leaves none
    for group in (group for group in ("tuning", "canary") if settings.get(group)):
        check_group(group, settings[group])
    key, node = "defense", settings["defense"]
    while node.get("base") is not None:
        key, node = f"{key}.base", node["base"]
        check_group(key, node)


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


def at_either_end(share: float, records: int) -> int:
    """Number of records guessed to be members, and as many to be non-members."""
    return int(share * records + ROUNDING)


def check_guesses_somebody(key: str, share: float, records: int) -> None:
    """Raises ValueError for a share of so few records that nobody would be guessed; `key` is its setting."""
    if not at_either_end(share, records):
        least = f"choose {key}={-(-10_000 // records) / 10_000:g}, or audit" if records > 1 else "audit"
        raise ValueError(f"{key}={share:g} of {records} records guesses nobody; {least} more of them")
