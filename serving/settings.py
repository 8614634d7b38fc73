"""Settings of a server, parsed once where they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from palisade.data.settings import place, validated
from palisade.fields import CheckedFields, Count, Positive, as_written, remedy
from palisade.serving.hosts import is_loopback

Port = Annotated[int, Field(ge=1, le=65_535)]
KeyCommand = Literal["make", "list", "revoke", "expire", "restore"]
REDIS_SCHEMES = ("redis", "rediss", "unix")
PASSWORD_VARIABLE = "PALISADE_REDIS_PASSWORD"
SETTINGS_OF_KEY_COMMANDS: Mapping[KeyCommand | None, Sequence[str]] = {
    None: (), "list": (), "revoke": ("name",), "restore": ("name",), "expire": ("name", "days"),
}  # fmt: skip
"""Settings of `key` that are read, where these are not all."""
SECONDS_TO_SEND = 8
"""Seconds in which a request must have arrived, head and body each."""
SECONDS_TO_SEND_HEAD = 6
SECONDS_TO_READ = 6
"""Seconds in which a client must take up more of its answers, where the system can tell."""


@dataclass(frozen=True, kw_only=True)
class Limits(CheckedFields):
    """Limits of one client, counted in records.

    Args:
        rate: records a second; as many may come at once. None: no limit.
        day: records a day (UTC). None: no limit.
        budget: different records, ever; a repeated one is free, as its answer is the same. None: no limit.
    """

    rate: Positive | None = 100.0
    day: Count | None = 100_000
    budget: Count | None = 10_000

    @property
    def burst(self) -> float:
        """Records that may come at once."""
        return float("inf") if self.rate is None else max(1.0, self.rate)


@dataclass(frozen=True, kw_only=True)
class RedisSettings(CheckedFields):
    """Settings of a Redis store.

    Args:
        name: of the store.
        url: such as redis://127.0.0.1:6379/0, without a password.
        prefix: of its keys.
        durable: refuse a Redis that may lose what it confirmed.

    Raises:
        ValueError: if the URL holds a password, which everybody would see in the list of processes.
    """

    name: Literal["redis"] = "redis"
    url: str = "redis://127.0.0.1:6379/0"
    prefix: Annotated[str, Field(min_length=1)] = "palisade"
    durable: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            address = urlsplit(self.url)
            is_address = address.scheme in REDIS_SCHEMES and (address.port or 1) > 0
        except ValueError:  # a port that is none, or brackets
            address, is_address = urlsplit(""), False
        if address.password is not None or "password" in parse_qs(address.query):
            raise ValueError(
                f"url: expected no password in it; give it in the environment variable {PASSWORD_VARIABLE}"
            )
        if not is_address:
            raise ValueError("url: expected redis://host:port/number, rediss:// or unix://; correct the address")


@dataclass(frozen=True, kw_only=True)
class ServingSettings(CheckedFields):
    """Settings of a server.

    Args:
        release: folder of the release.
        host: address to listen at.
        port: to listen at, 1 to 65,535.
        metrics_port: on loopback, for Prometheus; of several workers the first. None: none.
        workers: processes.
        threads: that the network has in each process.
        private: folder of keys, counts and the key of record hashes.
        network: `_target_` names the class of an own network.
        records: in one request at most.
        body: bytes of one request at most.
        limits: of a client whose key names no others.
        store: where counts lie.
        domain: values that columns can have.
        monitor: watch on near-duplicates.
        keys: what to do about keys instead of serving.
        key: the key that is meant.

    Raises:
        ValueError: if a setting is out of range.
    """

    release: Annotated[str, remedy("give the folder that ship=<run> printed")]
    host: str = "127.0.0.1"
    port: Port = 8080
    metrics_port: Port | None = 9090
    workers: Count = 1
    threads: Count = 1
    private: str = "private"
    network: Mapping[str, Any] | None = None
    records: Count = 256
    body: Annotated[int, Field(ge=1024)] = 2**20
    limits: Mapping[str, Any]
    store: Mapping[str, Any]
    domain: Mapping[str, Any]
    monitor: Mapping[str, Any]
    keys: KeyCommand | None = None
    key: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("release", "private"):
            place(name, getattr(self, name))
        validated(Limits, "limits", self.limits)
        taken = SETTINGS_OF_KEY_COMMANDS.get(self.keys)
        unread = [name for name, value in self.key.items() if value is not None and value is not False]
        if taken is not None and (unread := [name for name in unread if name not in taken]):
            setting = f"key.{unread[0]}={as_written(self.key[unread[0]])}"
            if self.keys is None:
                raise ValueError(f"{setting}: expected keys= beside it; add e.g. keys=make")
            raise ValueError(f"{setting}: expected nothing such with keys={self.keys}; leave it out")
        store = self.redis
        if self.workers > 1 and store is None:
            rule = "expected 1 with store=memory, which they cannot share"
            raise ValueError(f"workers={self.workers}: {rule}; choose it, or store=redis")

    @property
    def name(self) -> str:
        """Name of the model: that of the release's folder."""
        return self.release_folder.resolve().name

    @property
    def release_folder(self) -> Path:
        """Folder of the release."""
        return place("release", self.release)

    @property
    def private_folder(self) -> Path:
        """Folder of what nobody else may read, one for each release."""
        return place("private", self.private) / self.name

    @property
    def default_limits(self) -> Limits:
        """Limits of a client whose key names no others."""
        return validated(Limits, "limits", self.limits)

    @property
    def redis(self) -> RedisSettings | None:
        """Settings of Redis; None for counts in memory."""
        if self.store.get("name") != "memory":
            return validated(RedisSettings, "store", self.store)
        if other := [name for name in self.store if name != "name"]:
            raise ValueError(f"store.{other[0]}: no such setting with store=memory, which has none; choose store=redis")
        return None

    @property
    def is_local(self) -> bool:
        """True if only processes of this machine can reach the server."""
        return is_loopback(self.host)
