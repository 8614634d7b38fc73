"""Counts in Redis, which all workers share: one atomic script a request, refused where Redis may forget."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from palisade.serving.gathering import Gathering
from palisade.serving.limits import DAY_SECONDS, Charge, StoreError, over_budget, over_day, over_rate
from palisade.serving.settings import PASSWORD_VARIABLE, RedisSettings

TIMEOUT_SECONDS = 0.4
"""Patience with Redis: who waits for a batch before gets its 503 within a second too."""
CHARGES_AT_ONCE = 256
NO_LIMIT = -1
DURABLE_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
TAKE_SCRIPT = f"""
local records, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local day_limit, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local new, used = {{}}, 0
if budget >= 0 then
  for place = 6, #ARGV do
    if redis.call('SISMEMBER', KEYS[1], ARGV[place]) == 0 then new[#new + 1] = ARGV[place] end
  end
  used = redis.call('SCARD', KEYS[1]) + #new
  if #new > 0 and used > budget then return {{'budget', '0'}} end
end
local full_at = now
if rate > 0 then
  local before = tonumber(redis.call('HGET', KEYS[2], 'full_at') or 0)
  full_at = math.min(math.max(before, now), now + burst / rate) + records / rate  -- a clock may have gone back
  local wait = full_at - now - burst / rate
  if wait > 0 then return {{'rate', tostring(wait)}} end
end
local day = math.floor(now / {DAY_SECONDS})
local of_day = records
if day <= tonumber(redis.call('HGET', KEYS[2], 'day') or 0) then  -- a clock that goes back frees nothing
  of_day = of_day + tonumber(redis.call('HGET', KEYS[2], 'records') or 0)
end
if day_limit >= 0 and of_day > day_limit then return {{'day', tostring((day + 1) * {DAY_SECONDS} - now)}} end
redis.call('HSET', KEYS[2], 'full_at', string.format('%.6f', full_at), 'day', day, 'records', of_day)
for _, digest in ipairs(new) do redis.call('SADD', KEYS[1], digest) end
return {{'counted', tostring(used)}}
"""
"""Lua script with the rules of `limits.Counts.take`, by the clock of Redis; a test compares both by request."""


class RedisStore:
    """Counts of all clients of a release, in Redis. Requests that gather go there together, each with its own script.

    Args:
        settings: of Redis.
        model: name of the release, part of the keys.
    """

    def __init__(self, settings: RedisSettings, model: str) -> None:
        self._prefix = f"{settings.prefix}:{model}"
        self._redis = redis.Redis.from_url(
            settings.url, password=os.environ.get(PASSWORD_VARIABLE), socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._gathering: Gathering[Charge, Any] = Gathering(self._counted, lambda _: 1, CHARGES_AT_ONCE)

    async def take(self, charge: Charge) -> int:
        """Counts a request; returns how many different records the client has asked about.

        Raises:
            RefusedError: if it exceeds a limit.
            StoreError: if Redis does not confirm it; it may be counted then, and gets no answer.
        """
        outcome = await self._gathering.outcome(charge)
        if isinstance(outcome, Exception):
            raise StoreError
        kind, number = outcome[0].decode(), float(outcome[1])
        limits = charge.client.limits
        if kind == "budget":
            raise over_budget(limits.budget or 0)
        if kind == "rate":
            raise over_rate(limits.rate or 0.0, number)
        if kind == "day":
            raise over_day(limits.day or 0, number)
        return int(number)

    async def check(self) -> None:
        """Raises StoreError if Redis does not answer."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._redis.ping)
        except redis.RedisError:
            raise StoreError from None

    async def close(self) -> None:
        """Closes the connection."""
        self._gathering.close()
        self._redis.close()

    def _counted(self, charges: list[Charge]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for charge in charges:
            limits, key = charge.client.limits, f"{self._prefix}:{{{charge.client.name}}}"
            rate = NO_LIMIT if limits.rate is None else limits.rate
            burst = 0 if limits.rate is None else limits.burst
            bounds = [NO_LIMIT if limit is None else limit for limit in (limits.day, limits.budget)]
            digests = [] if limits.budget is None else charge.digests
            pipeline.eval(
                TAKE_SCRIPT, 2, f"{key}:seen", f"{key}:counts", charge.records, rate, burst, *bounds, *digests
            )
        try:
            return pipeline.execute(raise_on_error=False)
        except redis.RedisError:
            raise StoreError from None


def check_durable(settings: RedisSettings) -> str | None:
    """Notice that a Redis may lose counts, in one line, if that was accepted; None if nothing.

    Raises:
        ValueError: if it may lose counts and `durable` is set, or it cannot be reached.
    """
    client = redis.Redis.from_url(
        settings.url, password=os.environ.get(PASSWORD_VARIABLE), socket_timeout=5, socket_connect_timeout=5,
        decode_responses=True, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    try:
        with client:
            client.ping()
            try:
                actual = {name: client.config_get(name).get(name) for name in DURABLE_SETTINGS}
            except redis.ResponseError:  # a service that hides its settings
                actual = {}
    except redis.RedisError as error:
        raise ValueError(
            f"store.url={settings.url}: expected a Redis that answers ({type(error).__name__}); start it, or correct"
            " the address"
        ) from None
    wrong = [f"{name} {value}" for name, value in DURABLE_SETTINGS.items() if actual.get(name) != value]
    if wrong and settings.durable:
        raise ValueError(
            f"store.durable=true: expected a Redis with {', '.join(wrong)}, or budgets may be forgotten; set these"
            " there, or accept that with store.durable=false"
        )
    return f"store.durable=false: Redis may forget counts, as it lacks {', '.join(wrong)}" if wrong else None
