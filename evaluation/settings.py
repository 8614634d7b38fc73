"""Settings by dotted keys, as they stand on a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
