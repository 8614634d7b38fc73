"""Keys of those who may ask: 256 random bits that are shown once and kept as SHA-256, in a file of the operator's."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from palisade.data.settings import validated
from palisade.fields import CheckedFields, Count, Positive, as_written, nearest
from palisade.serving.bodies import RefusedError
from palisade.serving.settings import Limits, ServingSettings
from palisade.targets.files import file_lock, write_json

KEY_PREFIX, KEY_BYTES = "palisade_", 32
NAME_PATTERN = re.compile(r"[\w.@-]{1,64}")
KEYS_FILE_NAME, CARD_NAME = "keys.json", "card.json"
LOOPBACK_NAME = "loopback"
"""Name of the one client where there are no keys."""
MAX_DAYS = 36_500


@dataclass(frozen=True, kw_only=True)
class KeyEntry(CheckedFields):
    """One key in the file, without the key.

    Args:
        name: of its owner; counts go by it.
        sha256: of the key, in hexadecimal.
        created: when it was made (UTC, ISO 8601).
        expires: when it ends; None: never.
        revoked: it was taken back, for good.
        suspended: the monitor stopped it, until `keys=restore`.
        rate: limits of its own; None: those of the server.
        day: likewise.
        budget: likewise.
        repeats: its owner asks about one record again and again: the monitor looks away.
    """

    name: str
    sha256: str
    created: str
    expires: str | None = None
    revoked: bool = False
    suspended: bool = False
    rate: Positive | None = None
    day: Count | None = None
    budget: Count | None = None
    repeats: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expires is not None and datetime.fromisoformat(self.expires).tzinfo is None:
            raise ValueError(f"expires={self.expires}: expected a moment with its time zone; add +00:00")

    @property
    def is_expired(self) -> bool:
        """True from the moment that it expires."""
        return self.expires is not None and datetime.now(UTC) >= datetime.fromisoformat(self.expires)

    @property
    def state(self) -> str:
        """Its state in one word."""
        if self.revoked:
            return "revoked"
        return "expired" if self.is_expired else "suspended" if self.suspended else "valid"

    def limits(self, default: Limits) -> Limits:
        """Its limits, where it has none of its own those of the server."""
        own = {name: getattr(self, name) for name in ("rate", "day", "budget")}
        return replace(default, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class KeyFile:
    """The file of keys, readable by its owner alone; written whole or not at all.

    Args:
        folder: in which it lies.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """Place of the file."""
        return self.folder / KEYS_FILE_NAME

    def read(self) -> dict[str, KeyEntry]:
        """The keys by their owners' names; none where there is no file.

        Raises:
            ValueError: if the file is damaged.
        """
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))["keys"]
            entries = [KeyEntry(**entry) for entry in content]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no list of keys ({type(error).__name__}); restore it") from None
        if len({entry.name for entry in entries}) < len(entries):  # a revoked key must not hide behind another one
            raise ValueError(f"{self.path} names an owner twice; restore it")
        return {entry.name: entry for entry in entries}

    def make(self, name: Any, days: Any, **own: Any) -> str:
        """Adds a key for a new name; returns it, as nothing else will show it.

        Args:
            name: of its owner.
            days: until it expires; None: never.
            own: its limits, and whether its owner repeats records.
        """
        check_name(name)
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        now = datetime.now(UTC)
        settings = {"name": name, "sha256": hashed(key), "created": _written(now), "expires": _after(now, days), **own}
        entry = validated(KeyEntry, "key", settings)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._changed() as entries:
            if name in entries:
                raise ValueError(f"key.name={name}: expected a new name, as counts go by it; choose another")
            entries[name] = entry
        return key

    def change(self, name: Any, **changes: Any) -> None:
        """Changes what the file says of a key.

        Raises:
            ValueError: if there is none of this name.
        """
        self._check_there(name, self.read())  # where there is none no folder is left behind
        with self._changed() as entries:
            self._check_there(name, entries)
            entries[name] = replace(entries[name], **changes)

    @staticmethod
    def _check_there(name: Any, entries: Mapping[str, KeyEntry]) -> None:
        if name not in entries:
            near = nearest(str(name), entries)
            raise ValueError(f"key.name={as_written(name)}: expected a key that is there; {near}")

    @contextmanager
    def _changed(self) -> Iterator[dict[str, KeyEntry]]:
        """The keys, to be changed by one process at a time and written when the block ends well."""
        with file_lock(self.folder / "keys.lock", wait=True):
            entries = self.read()
            yield entries
            write_json(self.path, {"keys": [asdict(entry) for entry in entries.values()]})


class KeyRing:
    """The keys of a server, by their hashes: who asks is known by what only the owner has.

    Args:
        file: of the keys.
        default: limits of a key that has none of its own.
        is_local: without any keys everybody may ask, as one client; from the first key on nobody without one.
    """

    def __init__(self, file: KeyFile, default: Limits, *, is_local: bool) -> None:
        self._file, self._default, self.is_open = file, default, is_local
        self._by_hash: dict[str, KeyEntry] = {}
        self.reread()

    def __len__(self) -> int:
        return len(self._by_hash)

    def reread(self) -> None:
        """Takes what the file holds now.

        Raises:
            ValueError: if it is damaged; the keys stay what they were.
        """
        self._by_hash = {entry.sha256: entry for entry in self._file.read().values()}
        self.is_open = self.is_open and not self._by_hash  # a file that is lost opens nothing

    def client(self, authorization: str | None) -> Client:
        """The client behind a header `Authorization: Bearer <key>`.

        Raises:
            RefusedError: if the key is none, or not valid now.
        """
        if self.is_open:
            return Client(LOOPBACK_NAME, self._default, repeats=False)
        kind, _, key = (authorization or "").partition(" ")
        entry = self._by_hash.get(hashed(key.strip())) if kind.lower() == "bearer" else None
        if entry is None or entry.revoked or entry.is_expired:
            raise RefusedError(401, "expected a valid key; send it as Authorization: Bearer <key>")
        if entry.suspended:
            raise RefusedError(403, "this key is suspended; ask the operator")
        return Client(entry.name, entry.limits(self._default), entry.repeats)

    def suspend(self, name: str) -> None:
        """Suspends a key here and in the file, which other workers read.

        Raises:
            ValueError: if the file does not hold it any more; it is suspended here all the same.
            OSError: likewise, if the file cannot be written.
        """
        for digest, entry in self._by_hash.items():
            if entry.name == name:
                self._by_hash[digest] = replace(entry, suspended=True)
        self._file.change(name, suspended=True)


class Client(NamedTuple):
    """One who asks.

    Args:
        name: by which counts go.
        limits: of the records.
        repeats: whether it asks about one record again and again.
    """

    name: str
    limits: Limits
    repeats: bool


def manage(settings: ServingSettings) -> str:
    """Does what `keys=` asks for; returns what is to be printed.

    Raises:
        ValueError: if the key is unknown, or there already, or a setting is wrong.
    """
    file, wanted = KeyFile(settings.private_folder), dict(settings.key)
    name, days = wanted.pop("name"), wanted.pop("days")
    if settings.keys == "make":
        check_name(name)
        if not (settings.release_folder / CARD_NAME).is_file():  # a key for a folder that was mistyped opens nothing
            raise ValueError(
                f"release={settings.release} holds no {CARD_NAME}; give the folder that ship=<run> printed"
            )
        return file.make(name, days, **wanted)
    if settings.keys == "list":
        lines = [f"{'name':20} {'state':10} {'expires':26} rate day budget repeats"]
        for entry in file.read().values():
            own = [as_written(getattr(entry, field)) for field in ("rate", "day", "budget", "repeats")]
            lines.append(f"{entry.name:20} {entry.state:10} {entry.expires or 'never':26} {' '.join(own)}")
        return "\n".join(lines)
    if settings.keys == "expire" and days is None:
        raise ValueError("key.days=null: expected a number of days with keys=expire; choose e.g. 0, which is now")
    changes: dict[str, Any] = {"revoke": {"revoked": True}, "restore": {"suspended": False}}.get(
        settings.keys or "", {"expires": _after(datetime.now(UTC), days)}
    )
    file.change(name, **changes)
    return f"{name}: {file.read()[name].state}; a running server rereads its keys on SIGHUP"


def check_name(name: Any) -> None:
    """Raises ValueError for what is no name of a key's owner."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"key.name={as_written(name)}: expected 1 to 64 letters, digits and _ . @ -; name whose key it is"
        )


def hashed(key: str) -> str:
    """SHA-256 of a key; no slow hash is needed, as nobody guesses 256 bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def _after(now: datetime, days: Any) -> str | None:
    """The moment so many days later; 0 days: now."""
    if days is None:
        return None
    if isinstance(days, bool) or not isinstance(days, int | float) or not 0 <= days <= MAX_DAYS:
        raise ValueError(f"key.days={as_written(days)}: expected a number of days from 0 to {MAX_DAYS}; choose e.g. 90")
    return _written(now + timedelta(days=days))


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
