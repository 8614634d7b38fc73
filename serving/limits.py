"""Price of a request in records, and limits of a client: rate, day and budget, all or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from palisade.serving.bodies import RefusedError
from palisade.serving.keys import Client

DAY_SECONDS = 86_400


class Charge(NamedTuple):
    """Records of a request that are to be counted.

    Args:
        client: that asks.
        records: in the request.
        digests: of its different records.
    """

    client: Client
    records: int
    digests: Sequence[bytes]


class StoreError(Exception):
    """Counts cannot be read or kept now."""


class Store(Protocol):
    """Place where counts lie."""

    async def take(self, charge: Charge) -> int:
        """Counts a request as a whole, so that no answer leaves uncounted, or not at all.

        Returns:
            How many different records the client has asked about, if a budget limits them.

        Raises:
            RefusedError: if it exceeds a limit.
            StoreError: if the counts cannot be kept.
        """

    async def check(self) -> None:
        """Raises StoreError if counts cannot be kept now."""

    async def close(self) -> None:
        """Ends what was opened."""


@dataclass
class Counts:
    """Counts of one client.

    Args:
        full_at: second at which its rate allows a whole burst again (generic cell rate algorithm).
        day: number of the day since 1970 (UTC) that `records` are of.
        records: on this day.
        seen: digests of all different records.
    """

    full_at: float = -math.inf
    day: int = 0
    records: int = 0
    seen: set[bytes] = field(default_factory=set)

    def new(self, charge: Charge) -> list[bytes]:
        """Different records of a request that were never asked about; none where no budget counts them."""
        if charge.client.limits.budget is None:
            return []
        return [digest for digest in charge.digests if digest not in self.seen]

    def take(self, charge: Charge, now: float, clock: float) -> list[bytes]:
        """Counts a request; returns its new records.

        Args:
            charge: the request.
            now: seconds of a clock that never goes back.
            clock: seconds since 1970.

        Raises:
            RefusedError: if it exceeds a limit; nothing was counted then.
        """
        limits, new = charge.client.limits, self.new(charge)
        if new and limits.budget is not None and len(self.seen) + len(new) > limits.budget:
            raise over_budget(limits.budget)
        full_at = self.full_at
        if limits.rate is not None:
            full_at = max(full_at, now) + charge.records / limits.rate
            if (wait := full_at - now - limits.burst / limits.rate) > 0:
                raise over_rate(limits.rate, wait)
        day = int(clock // DAY_SECONDS)
        records = (self.records if day <= self.day else 0) + charge.records  # a clock that goes back frees nothing
        if limits.day is not None and records > limits.day:
            raise over_day(limits.day, (day + 1) * DAY_SECONDS - clock)
        self.full_at, self.day, self.records = full_at, day, records
        self.seen.update(new)
        return new


def check_size(charge: Charge) -> None:
    """Raises RefusedError for a request that no waiting would let pass."""
    limits = charge.client.limits
    if charge.records > min(limits.burst, limits.day or math.inf):
        most = int(min(limits.burst, limits.day or math.inf))
        raise RefusedError(413, f"expected at most {most} records at once from this key; send fewer")


def over_budget(budget: int) -> RefusedError:
    """The refusal of more different records than a key may ask about."""
    return RefusedError(
        403, f"this key may ask about {budget} different records, and these would be more; ask the operator"
    )


def over_rate(rate: float, wait: float) -> RefusedError:
    """The refusal of more records than a second allows."""
    return RefusedError(429, f"this key may ask about {rate:g} records a second; wait as Retry-After says", wait)


def over_day(day: int, wait: float) -> RefusedError:
    """The refusal of more records than a day allows."""
    return RefusedError(429, f"this key may ask about {day} records a day; wait as Retry-After says", wait)
