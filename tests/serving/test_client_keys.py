"""Keys are shown once, kept as hashes, and end when they are revoked, expire, or are suspended."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from running_server import DIGIT_IMAGES, command, running

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


def test_the_commands(tmp_path: Path) -> None:
    def ran(*words: str) -> str:
        done = command(*words, folder=tmp_path)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

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
        (["keys=make", "key.name=a", "key.days=-1"], "key.days=-1: expected a number of days"),
        (["keys=make", "key.name=a", "key.budget=0"], "key.budget=0: expected an integer >= 1"),
        (["keys=revoke", "key.name=bob"], "key.name=bob: expected a key that is there"),
        (["keys=expire", "key.name=bob"], "key.days=null: expected a number of days with keys=expire"),
        (["keys=burn"], "keys=burn: expected one of make, list, revoke, expire, restore"),
        (["limits.rate=0"], "limits.rate=0: expected a number > 0"),
        (["limits.rote=1"], "limits.rote is no setting"),
        (["workers=2"], "workers=2: expected 1 with store=memory"),
        (["store=redis", "store.url=redis://:secret@localhost/0"], "store.url: expected no password in it"),
        (["private=a", "other"], "released other: expected one release"),
        ([], "released holds no card.json"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = command(*words, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert "secret" not in done.stderr and not (tmp_path / "released").exists()


def test_a_server_without_keys_stays_on_this_machine(digits_release, tmp_path: Path) -> None:
    folder = digits_release("none")
    done = command("host=0.0.0.0", f"private={tmp_path}", folder=folder)
    assert done.returncode == 2 and "host=0.0.0.0: expected an address of loopback" in done.stderr


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
