"""The process of a server: its socket, its signals, and its end without a broken answer."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from palisade.data.settings import import_object, validated
from palisade.serving.app import Service
from palisade.serving.completions import Writer
from palisade.serving.domain import Domain, DomainSettings, domain_of
from palisade.serving.inbox import Inbox
from palisade.serving.keys import KeyFile, KeyRing
from palisade.serving.limits import Store
from palisade.serving.listener import ListeningServer, bound
from palisade.serving.memory_store import MemoryStore
from palisade.serving.metrics import Metrics, say
from palisade.serving.monitor import Monitor, MonitorSettings
from palisade.serving.redis_store import RedisStore, check_durable
from palisade.serving.reference import reference_rows
from palisade.serving.served import Queue, Served
from palisade.serving.settings import ServingSettings
from palisade.serving.workers import hear_reloads, supervise
from palisade.targets.card import read_card
from palisade.targets.files import file_lock, replacing
from palisade.targets.release import Release

HASH_KEY_BYTES = 32
RELEASE_FILES = ("model.safetensors", "guard.safetensors", "card.json")
CLASS_SETTING = "network._target_"
MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def serve(settings: ServingSettings) -> None:
    """Serves a release until SIGTERM or Ctrl-C; requests that have begun are answered before it ends.

    Raises:
        ValueError: if the release cannot be read, the address is taken or open to others without a key, or counts would
            not be those of all workers.
    """
    read_card(settings.release_folder)  # a folder without one leaves nothing behind
    if not MODEL_NAME_PATTERN.fullmatch(settings.name):
        raise ValueError(
            f"release={settings.release}: expected a folder named by 1 to 64 letters from a to z, digits and _ . -, as"
            " it is a part of addresses; rename it"
        )
    listener = bound(settings)
    if not len(KeyFile(settings.private_folder).read()) and not settings.is_local:
        raise ValueError(
            f"host={settings.host}: expected an address of loopback, as there are no keys; make one with keys=make"
            " key.name=<owner>"
        )
    if settings.redis is not None and (note := check_durable(settings.redis)) is not None:
        say(note)
    shared_hash_key(settings.private_folder)
    if settings.workers == 1:
        work(settings, listener, 0, lambda: None)
    else:
        prepared(settings)  # what is wrong is said once, before any worker starts
        supervise(partial(work, settings, listener), settings.workers, listener)


def work(settings: ServingSettings, listener: socket.socket, number: int, ready: Callable[[], None]) -> None:
    """Serves in this process, one of several.

    Args:
        settings: of the server.
        listener: at its address, of all processes.
        number: of the process, from 0.
        ready: called when the process listens.
    """
    torch.set_num_threads(settings.threads)
    asyncio.run(_serve(settings, listener, number, prepared(settings), ready))


class Prepared(NamedTuple):
    """All that a server reads from files before it listens."""

    model: Served
    domain: Domain | None
    monitor: Monitor | None


def prepared(settings: ServingSettings) -> Prepared:
    """The release, the values that its rows can have, and the watch.

    Raises:
        ValueError: if a file is not what it should be.
        FileNotFoundError: if one is absent.
    """
    model = served(settings)
    domain = domain_of(validated(DomainSettings, "domain", settings.domain), model.rows)
    if settings.monitor.get("name") == "none":
        return Prepared(model, domain, None)
    checked = validated(MonitorSettings, "monitor", settings.monitor)
    rows = reference_rows("monitor.reference", checked.reference, model.rows)
    return Prepared(model, domain, Monitor(checked, model.release.encode(rows)[0], model.hash_key))


def served(settings: ServingSettings) -> Served:
    """The release that is served."""
    own = (settings.network or {}).get("_target_")
    network = import_object(own, setting=CLASS_SETTING) if own else None
    release = Release.load(settings.release_folder, network=network)
    hash_key = own_hash_key(shared_hash_key(settings.private_folder), settings.release_folder)
    return Served(name=settings.name, release=release, hash_key=hash_key, most=settings.records)


def own_hash_key(shared: bytes, folder: Path) -> bytes:
    """The key by which a release hashes: another release in the same folder has other answers, so that its are new."""
    own = hashlib.blake2b(key=shared, digest_size=HASH_KEY_BYTES)
    for name in RELEASE_FILES:
        if (path := folder / name).exists():
            with path.open("rb") as file:
                own.update(hashlib.file_digest(file, "sha256").digest())
    return own.digest()


def shared_hash_key(folder: Path) -> bytes:
    """The secret behind all hashes, the same for all workers and after every restart; drawn once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "hash_key"
    with file_lock(folder / "hash_key.lock", wait=True):  # another machine may begin at the same moment
        if not path.exists():
            with replacing(path) as temporary:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(HASH_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != HASH_KEY_BYTES:
        raise ValueError(f"{path} is damaged; restore it, or remove the folder {folder} with all counts")
    return key


async def _serve(
    settings: ServingSettings, listener: socket.socket, number: int, own: Prepared, ready: Callable[[], None]
) -> None:
    folder, model = settings.private_folder, own.model
    keys = KeyRing(KeyFile(folder), settings.default_limits, is_local=settings.is_local)
    store: Store = MemoryStore(folder) if settings.redis is None else RedisStore(settings.redis, settings.name)
    metrics = Metrics()
    if settings.metrics_port is not None:
        metrics.listen(settings.metrics_port + number)
    service = Service(
        served=model, queue=(Writer if model.is_language_model else Queue)(model.release), keys=keys, store=store,
        metrics=metrics, inbox=Inbox(settings.body), domain=own.domain, monitor=own.monitor,
    )  # fmt: skip
    server = ListeningServer(service.app(), listener)
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, server.stop)
    loop.add_signal_handler(signal.SIGHUP, _reread, keys)
    hear_reloads()
    if (parent := multiprocessing.parent_process()) is not None:
        loop.add_reader(parent.sentinel, server.stop)  # no worker outlives it
    server.on_startup(ready)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"serving {settings.name} at http://{host}:{settings.port}")
    try:
        await server.serve()
    finally:
        await store.close()


def _reread(keys: KeyRing) -> None:
    try:
        keys.reread()
    except (ValueError, OSError) as error:
        say(f"the keys stay what they were: {error}")
        return
    say(f"keys reread: {len(keys)}")
