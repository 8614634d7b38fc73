"""The process of a server: its socket, its signals, and its end without a broken answer."""

from __future__ import annotations

import asyncio
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
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from palisade.data.settings import import_object, validated
from palisade.serving.app import Service
from palisade.serving.completions import Writer
from palisade.serving.domain import Domain, DomainSettings, domain_of
from palisade.serving.inbox import Inbox
from palisade.serving.keys import KeyFile, KeyRing
from palisade.serving.limits import Store
from palisade.serving.memory_store import MemoryStore
from palisade.serving.metrics import METRICS_HOST, Metrics, say
from palisade.serving.monitor import Monitor, MonitorSettings
from palisade.serving.redis_store import RedisStore, check_durable
from palisade.serving.reference import reference_rows
from palisade.serving.served import Queue, Served
from palisade.serving.settings import SECONDS_TO_SEND_HEAD, ServingSettings
from palisade.serving.workers import hear_reloads, supervise
from palisade.targets.card import read_card
from palisade.targets.files import replacing
from palisade.targets.release import Release

CONNECTIONS_AT_ONCE = 1024
HASH_KEY_BYTES = 32
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
    check_address(settings)
    if not len(KeyFile(settings.private_folder).read()) and not settings.is_local:
        raise ValueError(
            f"host={settings.host}: expected an address of loopback, as there are no keys; make one with keys=make"
            " key.name=<owner>"
        )
    shared_hash_key(settings.private_folder)
    if settings.redis is not None and (note := check_durable(settings.redis)) is not None:
        say(note)
    if settings.workers == 1:
        work(settings, 0, lambda: None)
    else:
        prepared(settings)  # what is wrong is said once, before any worker starts
        supervise(partial(work, settings), settings.workers)


def work(settings: ServingSettings, number: int, ready: Callable[[], None]) -> None:
    """Serves in this process, one of several.

    Args:
        settings: of the server.
        number: of the process, from 0.
        ready: called when the process listens.
    """
    torch.set_num_threads(settings.threads)
    asyncio.run(_serve(settings, number, prepared(settings), ready))


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
    hash_key = shared_hash_key(settings.private_folder)
    return Served(name=settings.name, release=release, hash_key=hash_key, most=settings.records)


def shared_hash_key(folder: Path) -> bytes:
    """The key of record hashes, the same for all workers and after every restart; drawn once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "hash_key"
    if not path.exists():
        with replacing(path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(HASH_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != HASH_KEY_BYTES:
        raise ValueError(f"{path} is damaged; restore it, or remove the folder {folder} with all counts")
    return key


def check_address(settings: ServingSettings) -> None:
    """Raises ValueError if somebody listens at an address; several of the system's listeners would share it."""
    wanted = [("port", settings.host, settings.port)]
    if (first := settings.metrics_port) is not None:
        wanted += [("metrics_port", METRICS_HOST, first + number) for number in range(settings.workers)]
    for place, (name, host, port) in enumerate(wanted):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if port in [other for _, _, other in wanted[:place]]:
                    raise OverflowError("wanted twice")
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                raise ValueError(
                    f"{name}={getattr(settings, name)}: expected {port} to be free at {host}"
                    f" ({getattr(error, 'strerror', None) or error}); choose another"
                ) from None


async def _serve(settings: ServingSettings, number: int, own: Prepared, ready: Callable[[], None]) -> None:
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
    server = Server(
        service.app(), settings.host, settings.port, interface=Interfaces.ASGINL, http=HTTPModes.http1,
        websockets=False, backlog=CONNECTIONS_AT_ONCE, backpressure=CONNECTIONS_AT_ONCE, log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=1000 * SECONDS_TO_SEND_HEAD),
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, server.stop)
    loop.add_signal_handler(signal.SIGHUP, _reread, keys)
    hear_reloads()
    if (parent := multiprocessing.parent_process()) is not None:
        loop.add_reader(parent.sentinel, server.stop)  # no worker outlives it
    server.on_startup(ready)
    say(f"serving {settings.name} at http://{settings.host}:{settings.port}")
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
