"""Keys are shown once, kept as hashes, and end when they are revoked, expire, or are suspended."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import commands
import pytest
import requests
from running_server import DIGIT_IMAGES, RunningServer, command, free_port, running, until

from palisade.serving.bodies import RefusedError
from palisade.serving.keys import KEY_PREFIX, KeyFile, KeyRing, hashed
from palisade.serving.settings import Limits


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "private")
    key = file.make("alice", 30, budget=5, repeats=True)
    assert key.startswith(KEY_PREFIX) and len(key) == len(KEY_PREFIX) + 43 and key != file.make("bob", None)
    text = file.path.read_text()
    assert key not in text and key[len(KEY_PREFIX) :] not in text and hashed(key) in text
    ring = KeyRing(file, Limits(rate=7), is_local=True)
    alice = ring.client(f"Bearer {key}")
    assert (alice.name, alice.limits.budget, alice.limits.rate, alice.repeats) == ("alice", 5, 7, True)
    for wrong in (None, "", "Bearer", f"Basic {key}", f"Bearer {key[:-1]}", f"Bearer {hashed(key)}"):
        with pytest.raises(RefusedError) as refused:
            ring.client(wrong)
        assert refused.value.status == 401 and "alice" not in refused.value.reason


def test_a_key_ends(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key, other = file.make("alice", None), file.make("bob", 1)
    ring = KeyRing(file, Limits(), is_local=True)
    file.change("alice", revoked=True)
    assert ring.client(f"Bearer {key}").name == "alice", "until the keys are reread"
    ring.reread()
    with pytest.raises(RefusedError, match="valid key"):
        ring.client(f"Bearer {key}")
    file.change("bob", expires=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    ring.reread()
    with pytest.raises(RefusedError, match="valid key"):
        ring.client(f"Bearer {other}")
    file.change("bob", expires=None)
    ring.reread()
    ring.suspend("bob")
    with pytest.raises(RefusedError, match="suspended") as refused:
        ring.client(f"Bearer {other}")
    assert refused.value.status == 403 and file.read()["bob"].state == "suspended"


def test_a_lost_file_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    open_to_all = KeyRing(file, Limits(), is_local=True)
    assert open_to_all.client(None).name == "loopback"
    file.make("alice", None)
    open_to_all.reread()
    file.path.unlink()
    open_to_all.reread()
    for ring in (open_to_all, KeyRing(file, Limits(), is_local=False)):
        with pytest.raises(RefusedError, match="valid key"):
            ring.client(None)
    file.path.write_text('{"keys": [{"name": 1}]}')
    with pytest.raises(ValueError, match="is no list of keys"):
        open_to_all.reread()


def test_a_file_edited_by_hand_hides_no_revoked_key(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.make("alice", 5)
    content = json.loads(file.path.read_text())
    (entry,) = content["keys"]
    file.path.write_text(json.dumps({"keys": [{**entry, "revoked": True}, entry]}))
    with pytest.raises(ValueError, match="names an owner twice"):
        file.read()
    file.path.write_text(json.dumps({"keys": [{**entry, "expires": "2999-01-01T00:00:00"}]}))
    with pytest.raises(ValueError, match="is no list of keys"):
        file.read()


def test_a_key_is_suspended_even_if_the_file_has_lost_it(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key = file.make("alice", None)
    ring = KeyRing(file, Limits(), is_local=False)
    file.path.write_text('{"keys": []}')
    with pytest.raises(ValueError, match="expected a key that is there"):
        ring.suspend("alice")
    with pytest.raises(RefusedError, match="suspended"):
        ring.client(f"Bearer {key}")


def test_the_commands(tmp_path: Path) -> None:
    def ran(*words: str) -> str:
        done = command(*words, folder=tmp_path)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "card.json").write_text("{}")
    key = ran("keys=make", "key.name=alice", "key.days=90", "key.budget=100").strip()
    assert key.startswith(KEY_PREFIX)
    path = tmp_path / "private" / "released" / "keys.json"
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0
    (entry,) = json.loads(path.read_text())["keys"]
    assert (entry["sha256"], entry["budget"]) == (hashed(key), 100)
    assert "valid" in ran("keys=list") and key not in ran("keys=list") and hashed(key) not in ran("keys=list")
    assert "alice: expired" in ran("keys=expire", "key.name=alice", "key.days=0")
    assert "alice: revoked" in ran("keys=revoke", "key.name=alice")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys=make"], "key.name=null: expected 1 to 64 letters"),
        (["keys=make", "key.name=a b"], "key.name=a b: expected 1 to 64 letters"),
        (["keys=make", "key.name=a"], "release=released holds no card.json"),
        (["key.name=a"], "key.name=a: expected keys= beside it"),
        (["keys=revoke", "key.name=bob", "key.budget=5"], "key.budget=5: expected nothing such with keys=revoke"),
        (["keys=revoke", "key.name=bob"], "key.name=bob: expected a key that is there"),
        (["keys=expire", "key.name=bob"], "key.days=null: expected a number of days with keys=expire"),
        (["keys=burn"], "keys=burn: expected one of make, list, revoke, expire, restore"),
        (["limits.rate=0"], "limits.rate=0: expected a number > 0"),
        (["limits.rote=1"], "limits.rote is no setting"),
        (["workers=2"], "workers=2: expected 1 with store=memory"),
        (["store=redis", "store.url=redis://:secret@localhost/0"], "store.url: expected no password in it"),
        (["store=redis", "store.url='redis://h/0?password=secret'"], "store.url: expected no password in it"),
        (["store=redis", "store.url=nonsense"], "store.url: expected redis://host:port/number"),
        (["store=redis", "store.url=redis://h:99999/0"], "store.url: expected redis://host:port/number"),
        (["private=a", "other"], "released other: expected one release"),
        ([], "released holds no card.json"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = command(*words, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert "secret" not in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["key.days=-1"], "key.days=-1: expected a number of days"),
        (["key.budget=0"], "key.budget=0: expected an integer >= 1"),
    ],
)
def test_what_is_wrong_with_a_key_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "card.json").write_text("{}")
    done = command("keys=make", "key.name=a", *words, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "private" / "released" / "keys.json").exists()


def test_a_server_without_keys_stays_on_this_machine(digits_release, tmp_path: Path) -> None:
    folder = digits_release("none")
    done = command("host=0.0.0.0", f"private={tmp_path}", folder=folder)
    assert done.returncode == 2 and "host=0.0.0.0: expected an address of loopback" in done.stderr


def test_addresses_and_names_are_checked_first(digits_release, tmp_path: Path) -> None:
    folder, port = digits_release("none"), free_port()
    for words, message in (
        ([f"port={port}", f"metrics_port={port}"], f"metrics_port={port}: expected {port} to be free at 127.0.0.1"),
        (["host=nowhere.invalid", f"port={port}"], "host=nowhere.invalid: expected an address of this machine"),
        (["host=192.0.2.1", f"port={port}"], "host=192.0.2.1: expected an address of this machine"),
    ):
        done = command(*words, f"private={tmp_path}", folder=folder)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    shutil.copytree(folder / "released", tmp_path / "é")
    done = commands.call("serve.py", "é", folder=tmp_path, timeout=60)
    assert done.returncode == 2 and "release=é: expected a folder named by" in done.stderr, done.stderr
    assert not (tmp_path / "private").exists()


def test_a_key_that_is_revoked_under_load_gets_no_answer_after_that(digits_release, tmp_path: Path) -> None:
    folder, private = digits_release("none"), f"private={tmp_path}"
    keys = {
        name: command("keys=make", f"key.name={name}", private, folder=folder).stdout.strip() for name in ("a", "b")
    }
    with running(folder, private, "limits.rate=null") as server, ThreadPoolExecutor(4) as pool:
        seen: dict[str, list[int]] = {"a": [], "b": []}
        ended = threading.Event()

        def ask(name: str) -> None:
            while not ended.is_set():
                seen[name].append(server.predict(DIGIT_IMAGES[:5], keys[name]).status_code)

        asking = [pool.submit(ask, name) for name in ("a", "b", "a", "b")]
        try:
            for _ in range(20):  # reloads that change nothing
                server.signal(signal.SIGHUP)
                time.sleep(0.01)
            assert command("keys=revoke", "key.name=a", private, folder=folder).returncode == 0
            server.signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while 401 not in seen["a"] and time.monotonic() < end:
                time.sleep(0.05)
            marks = {name: len(statuses) for name, statuses in seen.items()}
            time.sleep(0.5)
        finally:
            ended.set()
        for each in asking:
            each.result()
    assert set(seen["a"][: marks["a"]]) == {200, 401} and set(seen["a"][marks["a"] + 2 :]) == {401}
    assert set(seen["b"]) == {200} and len(seen["b"]) > marks["b"]


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")
def test_a_reload_while_it_starts_waits(digits_release, tmp_path: Path) -> None:
    """A process that does not hear SIGHUP yet is killed by it."""

    def reload(server: RunningServer) -> None:
        status = Path(f"/proc/{server.process.pid}/status")
        until(lambda: int(re.findall(r"^SigBlk:\s*(\w+)$", status.read_text(), re.MULTILINE)[0], 16) & 1 == 1)
        server.signal(signal.SIGHUP)

    with running(digits_release("none"), f"private={tmp_path}", at_start=reload) as server:
        assert server.predict(DIGIT_IMAGES[:1]).status_code == 200
        until(lambda: "keys reread: 0" in server.printed())


def test_a_running_server_rereads_its_keys(digits_release, tmp_path: Path) -> None:
    private = f"private={tmp_path}"
    folder = digits_release("none")
    key = command("keys=make", "key.name=alice", private, folder=folder).stdout.strip()
    with running(folder, private) as server:
        assert server.predict(DIGIT_IMAGES[:1]).status_code == 401
        assert server.predict(DIGIT_IMAGES[:1], key).status_code == 200
        assert requests.get(f"{server.url}/card", timeout=5).status_code == 200, "the card is public"
        command("keys=revoke", "key.name=alice", private, folder=folder)
        other = command("keys=make", "key.name=bob", private, folder=folder).stdout.strip()
        server.signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while server.predict(DIGIT_IMAGES[:1], other).status_code != 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert server.predict(DIGIT_IMAGES[:1], key).status_code == 401
        assert server.predict(DIGIT_IMAGES[:1], other).status_code == 200
