"""A real Redis in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

DURABLE_OPTIONS = ("--appendonly", "yes", "--appendfsync", "always")


def redis_server(port: int, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """`redis-server` at a port, as soon as it answers."""
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options],
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.02)
    raise AssertionError("redis-server does not answer")
