"""The watch sees careless probing, misses careful probing, and leaves honest clients alone, as the docs say."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from running_server import DIGIT_IMAGES, command, running

from palisade.attacks import Boundary, View
from palisade.data.location30 import Location30
from palisade.serving.monitor import Monitor, MonitorSettings

REPOSITORY_ROOT = Path(__file__).parents[2]
LOCATION30_FOLDER = REPOSITORY_ROOT.parent / "shared" / "data" / "location30"
PROJECTION_SEED = bytes(32)


def digests(rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in rows]


def monitor(reference: np.ndarray, **settings: object) -> Monitor:
    return Monitor(MonitorSettings(name="near_duplicates", reference="r", **settings), reference, PROJECTION_SEED)


def first_alarm(watch: Monitor, client: str, queries: np.ndarray, batch: int = 1) -> int | None:
    """How many queries a client has asked when the first alarm comes."""
    for start in range(0, len(queries), batch):
        part = queries[start : start + batch]
        if watch.observe(client, part, digests(part)).is_alarm:
            return start + len(part)
    return None


def test_near_duplicates_are_counted_once_and_by_client() -> None:
    rng = np.random.default_rng(0)
    watch = monitor(rng.normal(size=(200, 5)), count=3, window=10)
    row = rng.normal(size=(1, 5)).astype(np.float32) + 100
    close = row + np.float32(1e-3) * rng.normal(size=(6, 5)).astype(np.float32)
    assert watch.observe("a", row, digests(row)) == (0, False)
    for _ in range(5):
        assert watch.observe("a", row, digests(row)) == (0, False), "a repeated query is no duplicate of another"
    assert watch.observe("a", close[:2], digests(close[:2])) == (2, False)
    assert watch.observe("b", close[2:3], digests(close[2:3])) == (0, False), "of another client"
    assert watch.observe("a", close[2:3], digests(close[2:3])) == (1, True)
    assert watch.observe("a", close[3:4], digests(close[3:4])) == (1, False), "the next alarm needs as many again"
    both = np.repeat(close[4:6], [1, 1], axis=0)
    assert watch.observe("c", both, digests(both)) == (1, False), "beside each other in one request"
    far = rng.normal(size=(20, 5)).astype(np.float32) * 1000
    watch.observe("a", far, digests(far))
    assert watch.observe("a", close[5:], digests(close[5:])) == (0, False), "the window has moved on"


def test_the_radius_is_that_of_reference_records() -> None:
    grid = np.arange(100.0)[:, None]
    assert monitor(np.concatenate([grid, grid])).radius == pytest.approx(1.0), "equal records are no neighbors"
    with pytest.raises(ValueError, match=r"monitor\.reference=r: expected at least 50 records, not 20"):
        monitor(grid[:20])


@pytest.fixture(scope="module")
def people() -> np.ndarray:
    if not LOCATION30_FOLDER.is_dir():
        pytest.skip("no Location30 under ../shared/data")
    rows = Location30(root=str(LOCATION30_FOLDER)).load().rows.astype(np.float32)
    return rows[np.random.default_rng(0).permutation(len(rows))]


def boundary_queries(record: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Queries of HopSkipJump about one record of a random linear classifier."""
    queries: list[np.ndarray] = []
    weights = np.random.default_rng(0).standard_normal((record.shape[1], 30)).astype(np.float32)

    def ask(_: int, points: np.ndarray) -> np.ndarray:
        queries.extend(np.asarray(points).reshape(-1, record.shape[1]))
        return (np.asarray(points) @ weights).argmax(axis=-1)

    rows = np.concatenate([record, others])
    labels = ask(0, rows)
    queries.clear()
    whole = np.ones((1, len(rows)), dtype=bool)
    view = View(predictions=labels[None], labels=labels, membership=whole, features=rows, query=ask)
    Boundary(budget=500, records=2).score(view)
    return np.array(queries, dtype=np.float32)


@pytest.mark.slow
def test_the_table_of_the_docs(people: np.ndarray) -> None:
    watch, rest, rng = monitor(people[:1000]), people[1000:], np.random.default_rng(1)

    def flipped(rate: float, client: str, copies: int = 300) -> int | None:
        copy = np.abs(rest[:1] - (rng.random((copies, rest.shape[1])) < rate)).astype(np.float32)
        return first_alarm(watch, client, np.concatenate([rest[:1], copy]))

    boundary = first_alarm(watch, "boundary", boundary_queries(rest[:1], rest[2000:2200]))
    assert boundary is not None and boundary <= 100
    assert (two := flipped(0.02, "two")) is not None and two <= 100
    assert flipped(0.1, "ten") is None, "missed"
    spread = [flipped(0.02, f"key {k}", copies=18) for k in range(17)]
    assert spread == [None] * 17, "300 copies by 17 keys: missed"
    honest = [first_alarm(watch, f"honest {k}", rest[rng.permutation(len(rest))[:500]], batch=25) for k in range(50)]
    assert honest == [None] * 50
    visits = 0
    for k in range(50):  # forty patients, each seen again with two values changed
        patients = rest[rng.permutation(len(rest))[:40]]
        again = np.abs(patients - (rng.random(patients.shape) < 2 / patients.shape[1])).astype(np.float32)
        visits += first_alarm(watch, f"clinic {k}", np.concatenate([patients, again]), batch=20) is not None
    assert visits == 50, "false alarms: mark such a key as repeats"
    page = (REPOSITORY_ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]*) \| after (\d+) queries \|$", page, re.MULTILINE))
    assert rows == {"HopSkipJump": str(boundary), "copies with 2 % of the values flipped": str(two)}


def test_a_probing_key_is_suspended_after_its_answer(digits_release, tmp_path: Path) -> None:
    folder, private = digits_release("none"), f"private={tmp_path}"
    np.savez(tmp_path / "reference.npz", features=DIGIT_IMAGES[:500])
    keys = {
        name: command("keys=make", f"key.name={name}", *words, private, folder=folder).stdout.strip()
        for name, words in {"prober": (), "clinic": ("key.repeats=true",), "honest": ()}.items()
    }
    watch = ("monitor=near_duplicates", f"monitor.reference={tmp_path}/reference.npz", "monitor.action=suspend")
    probes = DIGIT_IMAGES[600] + 0.01 * np.arange(30)[:, None, None, None]
    with running(folder, private, *watch) as server:
        for name in ("clinic", "honest"):
            rows = probes if name == "clinic" else DIGIT_IMAGES[700:750]
            assert server.predict(rows, keys[name]).status_code == 200
        assert server.predict(probes, keys["prober"]).status_code == 200, "no query is refused for what it is"
        refused = server.predict(probes[:1], keys["prober"])
        assert refused.status_code == 403 and "suspended" in refused.json()["error"]
        for name in ("clinic", "honest"):
            assert server.predict(DIGIT_IMAGES[:1], keys[name]).status_code == 200
        metrics = requests.get(server.metrics_url, timeout=5).text
        command("keys=restore", "key.name=prober", private, folder=folder)
        server.signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while server.predict(probes[:1], keys["prober"]).status_code != 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert server.predict(probes[:1], keys["prober"]).status_code == 200
    assert "alarm: prober" in server.printed() and "suspended: prober" in server.printed()
    assert 'palisade_alarms_total{client="prober"} 1.0' in metrics
    assert 'palisade_near_duplicates_total{client="prober"} 29.0' in metrics
