"""A real server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import commands
import numpy as np
import requests
from sklearn.datasets import load_digits

DIGIT_IMAGES = load_digits().images[:, None]
STARTUP_SECONDS = 60


@dataclass
class RunningServer:
    """A server with its process, its address and what it printed."""

    process: BaseProcess
    url: str
    metrics_url: str
    log: Path
    folder: Path

    def predict(self, rows: Any, key: str | None = None, **how: Any) -> requests.Response:
        """Asks about rows by the v1 form."""
        instances = rows.tolist() if isinstance(rows, np.ndarray) else rows
        return self.post(":predict", {"instances": instances}, key, **how)

    def post(self, action: str, content: Any, key: str | None = None, **how: Any) -> requests.Response:
        """Posts JSON, or bytes, to the model."""
        version = "v1" if action == ":predict" else "v2"
        body = {"data": content} if isinstance(content, bytes) else {"json": content}
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return requests.post(
            f"{self.url}/{version}/models/released{action}", **body, headers=headers, timeout=20, **how
        )

    def signal(self, number: int) -> None:
        """Sends a signal to the server."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int | None:
        """Stops it as a service manager does; returns its exit code."""
        self.signal(signal.SIGTERM)
        self.process.join(20)
        return self.process.exitcode

    def printed(self) -> str:
        """All that it printed."""
        return "".join(path.read_text() for path in self.log.iterdir())


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*words: str, folder: Path) -> commands.Ended:
    """Runs `serve.py released …` to its end."""
    return commands.call("serve.py", "released", *words, folder=folder, timeout=60)


@contextmanager
def running(
    folder: Path, *words: str, at_start: Callable[[RunningServer], object] = lambda _: None
) -> Iterator[RunningServer]:
    """`python serve.py released words` in a folder, until the block ends.

    Args:
        folder: that holds the release.
        words: settings.
        at_start: called while the server starts.
    """
    port, metrics_port = free_port(), free_port()
    log = folder / f"log-{port}"
    log.mkdir()
    named = ("released", f"port={port}", f"metrics_port={metrics_port}", *words)
    streams = [str(log / name) for name in ("stdout", "stderr")]
    script = str(commands.REPOSITORY_ROOT / "serve.py")
    process = commands.fork(commands._main, script, named, str(folder), None, streams, False)
    url = f"http://127.0.0.1:{port}"
    server = RunningServer(process, url, f"http://127.0.0.1:{metrics_port}/metrics", log, folder)
    try:
        at_start(server)
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        process.join(20)
        if process.exitcode is None:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    end = time.monotonic() + STARTUP_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_until_ready(server: RunningServer) -> None:
    """Waits for the first answer of a server's health."""
    end = time.monotonic() + STARTUP_SECONDS
    while True:
        try:
            if requests.get(f"{server.url}/v2/health/ready", timeout=1).ok:
                return
        except requests.ConnectionError:
            pass
        if server.process.exitcode is not None or time.monotonic() > end:
            raise AssertionError(server.printed())
        time.sleep(0.05)
