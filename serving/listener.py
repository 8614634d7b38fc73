"""Socket at which a server listens: taken before anything is loaded, and never shared with a stranger."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from granian import net
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.types import ASGIApp

from palisade.serving.metrics import METRICS_HOST
from palisade.serving.settings import SECONDS_TO_READ, SECONDS_TO_SEND_HEAD, ServingSettings

CONNECTIONS_AT_ONCE = 1024


class ListeningServer(Server):
    """A server at a socket that is bound already.

    Args:
        app: that answers.
        listener: bound; it begins to listen here.

    Raises:
        ValueError: if somebody else listens at its address by now.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__(
            app, host, port, interface=Interfaces.ASGINL, http=HTTPModes.http1, websockets=False,
            backlog=CONNECTIONS_AT_ONCE, backpressure=CONNECTIONS_AT_ONCE, log_enabled=False,
            http1_settings=HTTP1Settings(header_read_timeout=1000 * SECONDS_TO_SEND_HEAD),
        )  # fmt: skip
        try:
            listener.listen(CONNECTIONS_AT_ONCE)
        except OSError as error:
            raise _taken(f"port={port}", port, host, error) from None
        holder: Any = net  # its types lack it
        self._holder = holder.SocketHolder(os.dup(listener.fileno()), False, CONNECTIONS_AT_ONCE)
        listener.close()  # what is left ends with the server

    def _init_shared_socket(self) -> None:
        self._ssp: Any = None
        self._shd: Any = self._holder


def bound(settings: ServingSettings) -> socket.socket:
    """The socket of a server, which does not listen yet; those of its metrics are tried.

    Raises:
        ValueError: if the host is no address of this machine, or somebody listens at one of the ports.
    """
    listener = _bound(f"port={settings.port}", settings.host, settings.port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of connections too: who does not read holds one no longer
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SECONDS_TO_READ)
    if (first := settings.metrics_port) is not None:
        for port in range(first, first + settings.workers):
            if port == settings.port:
                raise _taken(f"metrics_port={first}", port, METRICS_HOST, "wanted twice")
            _bound(f"metrics_port={first}", METRICS_HOST, port).close()
    return listener


def _bound(setting: str, host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"host={host}: expected an address of this machine; choose e.g. 127.0.0.1, or 0.0.0.0 for all"
            ) from None
        raise _taken(setting, port, host, error) from None
    return listener


def _taken(setting: str, port: int, host: str, reason: Any) -> ValueError:
    why = getattr(reason, "strerror", None) or reason
    return ValueError(f"{setting}: expected {port} to be free at {host} ({why}); choose another")
