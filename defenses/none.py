"""No defense: the point that every other is compared with."""

from __future__ import annotations

from palisade.targets.fleet import Defense


class NoDefense(Defense):
    """Plain training. What leaks here is what a defense is to prevent."""
