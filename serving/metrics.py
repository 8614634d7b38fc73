"""The view of the operator: lines, and metrics for Prometheus by the names of clients. No key, no hash, no record."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from palisade.serving.hosts import names_loopback
from palisade.serving.settings import SECONDS_TO_SEND

METRICS_HOST = "127.0.0.1"
UNKNOWN_NAME = "unknown"
"""Client of a request without a valid key."""
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def say(line: str) -> None:
    """Prints a line to the operator."""
    print(line, file=sys.stderr, flush=True)


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = SECONDS_TO_SEND

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "palisade_requests", "Requests by their HTTP status.", ["client", "status"], registry=self._registry
        )
        self._records = Counter("palisade_records", "Records answered.", ["client"], registry=self._registry)
        self._different = Gauge(
            "palisade_different_records", "Different records counted against the budget.", ["client"],
            registry=self._registry,
        )  # fmt: skip
        self._near = Counter(
            "palisade_near_duplicates", "Queries close to an earlier different one.", ["client"],
            registry=self._registry,
        )  # fmt: skip
        self._alarms = Counter("palisade_alarms", "Alarms of the monitor.", ["client"], registry=self._registry)
        self._seconds = Histogram(
            "palisade_seconds", "Time to answer.", buckets=SECONDS_BUCKETS, registry=self._registry
        )

    def listen(self, port: int) -> None:
        """Answers Prometheus on loopback, in a thread of its own."""
        pages = make_wsgi_app(self._registry)

        def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            if not names_loopback(request.get("HTTP_HOST", "")):  # a web page whose name means 127.0.0.1
                start("421 Misdirected Request", [("Content-Type", "text/plain")])
                return [b"expected a request to localhost or 127.0.0.1\n"]
            return pages(request, start)

        server = make_server(METRICS_HOST, port, answer, _ThreadingServer, _QuietHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def request(self, client: str, status: int) -> None:
        """Counts a request."""
        self._requests.labels(client, str(status)).inc()

    def answer(self, client: str, records: int, different: int, seconds: float) -> None:
        """Counts the records of an answer."""
        self._records.labels(client).inc(records)
        self._different.labels(client).set(different)
        self._seconds.observe(seconds)

    def watch(self, client: str, near: int, is_alarm: bool) -> None:
        """Counts what the monitor saw in a request."""
        self._near.labels(client).inc(near)
        if is_alarm:
            self._alarms.labels(client).inc()
