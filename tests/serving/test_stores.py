"""Both stores count by the same rules, all or nothing, and never forget what was answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from running_redis import redis_server
from running_server import free_port

from palisade.serving.bodies import RefusedError
from palisade.serving.keys import Client
from palisade.serving.limits import DAY_SECONDS, Charge, Counts, StoreError, check_size
from palisade.serving.memory_store import JOURNAL_NAME, MemoryStore
from palisade.serving.redis_store import RedisStore, check_durable
from palisade.serving.server import own_hash_key, shared_hash_key
from palisade.serving.settings import Limits, RedisSettings


def client(**limits: float | None) -> Client:
    return Client("alice", Limits(**{"rate": None, "day": None, "budget": None, **limits}), repeats=False)


def charge(of: Client, *digests: bytes) -> Charge:
    return Charge(of, len(digests), list(dict.fromkeys(digests)))


def test_a_budget_counts_different_records_and_repeats_are_free() -> None:
    counts, alice = Counts(), client(budget=3)
    assert counts.take(charge(alice, b"a", b"b", b"a"), 0, 0) == [b"a", b"b"]
    with pytest.raises(RefusedError) as refused:
        counts.take(charge(alice, b"c", b"d"), 0, 0)
    assert refused.value.status == 403 and refused.value.wait is None
    assert counts.take(charge(alice, b"c"), 0, 0) == [b"c"], "all or nothing: what was refused was not counted"
    assert counts.take(charge(alice, b"a", b"b", b"c"), 0, 0) == []
    lowered = client(budget=1)
    assert counts.take(charge(lowered, b"a"), 0, 0) == [], "a repeat, whatever the budget is now"


def test_a_rate_is_of_records_and_the_wait_it_names_holds() -> None:
    counts, alice = Counts(), client(rate=10)
    counts.take(charge(alice, *[b"a"] * 10), 100, 0)
    with pytest.raises(RefusedError) as refused:
        counts.take(charge(alice, *[b"a"] * 5), 100.1, 0)
    assert refused.value.status == 429 and refused.value.wait == pytest.approx(0.4)
    with pytest.raises(RefusedError):
        counts.take(charge(alice, *[b"a"] * 5), 100.1 + 0.39, 0)
    counts.take(charge(alice, *[b"a"] * 5), 100.1 + refused.value.wait + 1e-9, 0)
    accepted = 0
    for step in range(20_000):  # 20 times the rate, for 100 s
        try:
            counts.take(charge(alice, b"a"), 200 + step / 200, 0)
            accepted += step >= 200  # the burst left out
        except RefusedError:
            pass
    assert accepted == pytest.approx(990, rel=0.05)


def test_a_day_ends_at_midnight() -> None:
    counts, alice, noon = Counts(), client(day=4), 20_000 * DAY_SECONDS + DAY_SECONDS / 2
    counts.take(charge(alice, *[b"a"] * 3), 0, noon)
    with pytest.raises(RefusedError) as refused:
        counts.take(charge(alice, *[b"a"] * 2), 0, noon)
    assert refused.value.wait == DAY_SECONDS / 2
    counts.take(charge(alice, *[b"a"] * 4), 0, noon + refused.value.wait)
    with pytest.raises(RefusedError, match="at most 4 records at once") as refused:
        check_size(charge(alice, *[b"a"] * 5))
    assert refused.value.status == 413, "no waiting would help"


def test_a_clock_that_goes_back_over_midnight_frees_nothing() -> None:
    counts, alice, midnight = Counts(), client(day=4), 20_000 * DAY_SECONDS
    counts.take(charge(alice, *[b"a"] * 3), 0, midnight + 1)
    with pytest.raises(RefusedError, match="4 records a day"):
        counts.take(charge(alice, *[b"a"] * 2), 0, midnight - 1)
    counts.take(charge(alice, b"a"), 0, midnight - 1)
    counts.take(charge(alice, *[b"a"] * 4), 0, midnight + 1)


def test_the_journal_survives_and_a_torn_line_does_not(tmp_path: Path) -> None:
    async def use(*requests: Charge) -> list[int]:
        store = MemoryStore(tmp_path)
        try:
            return [await store.take(request) for request in requests]
        finally:
            await store.close()

    alice = client(budget=3, day=1000)
    assert asyncio.run(use(charge(alice, b"a" * 16), charge(alice, b"b" * 16))) == [1, 2]
    journal = tmp_path / JOURNAL_NAME
    assert journal.stat().st_mode & 0o077 == 0
    with journal.open("a") as file:
        file.write('{"client": "alice", "new": ["63636')
    assert asyncio.run(use(charge(alice, b"a" * 16), charge(alice, b"c" * 16))) == [2, 3]
    with pytest.raises(RefusedError, match="3 different records"):
        asyncio.run(use(charge(alice, b"d" * 16)))
    journal.write_text("{}\n" + journal.read_text())
    with pytest.raises(ValueError, match="line 1 is no count; restore the file"):
        MemoryStore(tmp_path)


def test_a_repeat_waits_for_the_line_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (time.sleep(0.3), fsync(file)))

    async def use() -> None:
        store, request = MemoryStore(tmp_path), charge(client(budget=5), b"a" * 16)
        first = asyncio.ensure_future(store.take(request))
        await asyncio.sleep(0.05)
        again = asyncio.ensure_future(store.take(request))
        await asyncio.sleep(0.05)
        assert not first.done() and not again.done(), "a kill now would forget the record that both answer"
        assert [await first, await again] == [1, 1]
        await store.close()

    asyncio.run(use())


def test_days_are_journaled_ahead(tmp_path: Path) -> None:
    async def use(records: int) -> None:
        store = MemoryStore(tmp_path)
        try:
            for _ in range(records):
                await store.take(charge(client(day=200), b"a"))
        finally:
            await store.close()

    asyncio.run(use(150))
    assert len((tmp_path / JOURNAL_NAME).read_text().splitlines()) == pytest.approx(50, abs=2)
    with pytest.raises(RefusedError, match="200 records a day"):
        asyncio.run(use(51))
    asyncio.run(use(0))


def test_a_clock_that_goes_back_forgets_no_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(clock: float, *requests: Charge) -> None:
        monkeypatch.setattr(time, "time", lambda: clock)
        store = MemoryStore(tmp_path)
        try:
            for request in requests:
                await store.take(request)
        finally:
            await store.close()

    alice = client(day=4)
    asyncio.run(use(3 * DAY_SECONDS, charge(alice, b"a")))
    asyncio.run(use(2 * DAY_SECONDS, charge(alice, *[b"a"] * 3)))
    with pytest.raises(RefusedError, match="4 records a day"):
        asyncio.run(use(2 * DAY_SECONDS + 1, charge(alice, b"a")))


def test_a_clock_of_redis_that_goes_back_locks_nobody_out_and_frees_nothing(redis_url: str) -> None:
    async def use() -> None:
        store, alice = RedisStore(RedisSettings(url=redis_url), "m"), client(rate=20)
        store._redis.hset("palisade:m:{alice}:counts", "full_at", time.time() + 3600)
        with pytest.raises(RefusedError) as refused:
            await store.take(charge(alice, *[b"a"] * 20))
        assert refused.value.wait <= 1.01
        tomorrow = int(time.time() // DAY_SECONDS) + 1
        store._redis.hset("palisade:m:{alice}:counts", mapping={"full_at": 0, "day": tomorrow, "records": 4})
        with pytest.raises(RefusedError, match="5 records a day"):
            await store.take(charge(client(rate=None, day=5), b"a", b"a"))
        await store.take(charge(client(rate=None, day=5), b"a"))
        await store.close()

    asyncio.run(use())


def test_one_server_alone_has_a_folder(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    with pytest.raises(ValueError, match=r"private=.*: expected a folder that no other server has"):
        MemoryStore(tmp_path)
    asyncio.run(store.close())
    asyncio.run(MemoryStore(tmp_path).close())


def test_records_of_another_release_in_the_folder_are_new(tmp_path: Path) -> None:
    release, private = tmp_path / "released", tmp_path / "private"
    release.mkdir()
    (release / "card.json").write_text("{}")
    (release / "model.safetensors").write_bytes(b"weights")
    secret = shared_hash_key(private)
    own = own_hash_key(secret, release)
    (release / "card.html").write_text("a page")
    assert secret == shared_hash_key(private) and own == own_hash_key(secret, release), "after a restart"
    (release / "guard.safetensors").write_bytes(b"state")
    guarded = own_hash_key(secret, release)
    (release / "model.safetensors").write_bytes(b"Weights")
    assert len({own, guarded, own_hash_key(secret, release), secret, own_hash_key(own, release)}) == 5


def test_a_full_disk_answers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        store = MemoryStore(tmp_path)
        (tmp_path / "full").symlink_to("/dev/full")
        store._file = os.open(tmp_path / "full", os.O_WRONLY)
        await store.check()
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.take(charge(client(budget=5), b"a" * 16))
        with pytest.raises(StoreError):
            await store.check()
        await store.close()

    asyncio.run(use())


def test_redis_counts_as_memory_does(redis_url: str) -> None:
    """Random requests, one by one, on both; times apart from the clock of Redis are not compared."""
    rng = np.random.default_rng(0)
    alice, counts = client(budget=45, day=100), Counts()

    async def use() -> list[tuple[str, str]]:
        store, seen = RedisStore(RedisSettings(url=redis_url), "m"), []
        for _ in range(120):
            request = charge(alice, *[bytes([k]) * 16 for k in rng.integers(0, 60, rng.integers(1, 5))])
            outcomes = []
            for take in (lambda r=request: counts.take(r, 0, time.time()), None):
                try:
                    done = take() if take else await store.take(request)
                    outcomes.append(str(len(counts.seen)) if take else str(done))
                except RefusedError as refused:
                    outcomes.append(refused.reason)
            seen.append(tuple(outcomes))
        await store.close()
        return seen

    seen = asyncio.run(use())
    assert all(one == other for one, other in seen)
    assert {reason[:22] for reason, _ in seen if reason.startswith("this")} == {"this key may ask about"}
    assert any("different" in reason for reason, _ in seen) and any("a day" in reason for reason, _ in seen)


def test_redis_keeps_the_rate_and_names_a_wait_that_holds(redis_url: str) -> None:
    async def use() -> None:
        store, alice = RedisStore(RedisSettings(url=redis_url), "m"), client(rate=20)
        await store.take(charge(alice, *[b"a"] * 20))
        with pytest.raises(RefusedError) as refused:
            await store.take(charge(alice, *[b"a"] * 10))
        assert 0.2 < refused.value.wait <= 0.5
        await asyncio.sleep(refused.value.wait + 0.01)
        await store.take(charge(alice, *[b"a"] * 10))
        await store.close()

    asyncio.run(use())


def test_a_redis_that_may_forget_is_refused(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here; .ci/run installs Debian's")
    port = free_port()
    server = redis_server(port, tmp_path)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        with pytest.raises(ValueError, match=r"store\.durable=true: expected a Redis with appendonly yes") as error:
            check_durable(RedisSettings(url=url))
        assert "store.durable=false" in str(error.value)
        assert "Redis may forget counts" in check_durable(RedisSettings(url=url, durable=False))
    finally:
        server.kill()
        server.wait()
    with pytest.raises(ValueError, match=r"store\.url=.*: expected a Redis that answers"):
        check_durable(RedisSettings(url=url))
    with pytest.raises(ValueError, match="url: expected no password in it"):
        RedisSettings(url="redis://:secret@localhost/0")


def test_a_durable_redis_is_accepted(redis_url: str) -> None:
    assert check_durable(RedisSettings(url=redis_url)) is None
