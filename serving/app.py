"""Routes of a served release, and the way of one request: who asks, what, whether it may, and the answer."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from palisade.serving.bodies import RefusedError, parsed
from palisade.serving.completions import completion, completion_request
from palisade.serving.domain import Domain
from palisade.serving.hosts import ELSEWHERE_REASON, is_from_elsewhere
from palisade.serving.inbox import Inbox
from palisade.serving.keys import Client, KeyRing
from palisade.serving.limits import Charge, Store, StoreError, check_size
from palisade.serving.metrics import UNKNOWN_NAME, Metrics, say
from palisade.serving.monitor import Monitor
from palisade.serving.openapi import COMPLETIONS_PATH, model_metadata, openapi
from palisade.serving.served import Answering, EncodedRows, Served
from palisade.serving.workers import tell_others
from palisade.targets.card_page import card_page

JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
SERVER_NAME, MODEL_VERSION = "palisade", "1"
BINARY_HEADER = "inference-header-content-length"
"""Header of a body whose tensors stand behind its JSON, an extension of Open Inference v2."""
UNREAD_STATUSES = (401, 403, 404, 405, 408, 413, 415, 421, 503)
"""Refusals that may leave a part of the body unread: the connection ends with them."""
Handler = Callable[[Request], Awaitable[Response]]
Action = Callable[[Request, Client], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """All that a request meets.

    Args:
        served: the release.
        queue: before it.
        keys: of those who may ask.
        store: of the counts.
        metrics: of this process.
        domain: of the rows, or None.
        monitor: of the queries, or None.
        inbox: of their bodies.
    """

    served: Served
    queue: Answering
    keys: KeyRing
    store: Store
    metrics: Metrics
    inbox: Inbox
    domain: Domain | None = None
    monitor: Monitor | None = None

    async def predict(self, request: Request, client: Client) -> Response:
        """`POST /v1/models/<name>:predict`: `{"instances": […]}` gets `{"predictions": […]}`."""
        content = parsed(await self.inbox.body(request), self.served.rows.room)
        answers = await self._answers(client, self.served.rows.of_instances(content))
        return _json({"counts" if self.served.release.form == "counts" else "predictions": answers})

    async def infer(self, request: Request, client: Client) -> Response:
        """`POST /v2/models/<name>/infer`: tensors get a tensor."""
        if BINARY_HEADER in request.headers:
            raise RefusedError(415, "expected JSON alone; send tensors as data, without binary parts")
        content = parsed(await self.inbox.body(request), self.served.rows.room)
        form = self.served.release.form
        wanted = content.get("outputs", [])
        if not isinstance(wanted, list) or any(not isinstance(o, dict) or o.get("name") != form for o in wanted):
            raise RefusedError(400, f"outputs: expected {form} alone, as this model has no other; leave it out")
        answers = await self._answers(client, self.served.rows.of_tensors(content))
        shape = [len(answers)] if form != "probabilities" else list(answers.shape)
        datatype = {"label": "BYTES", "probabilities": "FP32", "counts": "FP64"}[form]
        data = answers if form == "label" else answers.reshape(-1)
        output = {"name": form, "shape": shape, "datatype": datatype, "data": data}
        identity = {"id": content["id"]} if isinstance(content.get("id"), str) else {}
        return _json({"model_name": self.served.name, "model_version": MODEL_VERSION, **identity, "outputs": [output]})

    async def complete(self, request: Request, client: Client) -> Response:
        """`POST /v1/completions`: prompts go on, or get log-probabilities."""
        asked = completion_request(parsed(await self.inbox.body(request), self.served.rows.room), self.served)
        started = time.perf_counter()
        different = await self._count(client, asked.pieces, asked.digests(self.served))
        choices = await self.queue.answers(asked)
        self.metrics.answer(client.name, len(asked.prompts), different, time.perf_counter() - started)
        return _json(completion(self.served.name, choices))

    async def _count(self, client: Client, records: int, digests: Sequence[bytes]) -> int:
        """Counts records, known by their digests; returns how many different ones the client has asked about."""
        charge = Charge(client, records, list(dict.fromkeys(digests)))
        check_size(charge)
        self.queue.check_room()
        try:
            return await self.store.take(charge)
        except StoreError:
            raise RefusedError(503, "the counts cannot be kept now; come back", 1.0) from None

    async def _answers(self, client: Client, rows: Any) -> Any:
        """Answers about rows, as JSON takes them."""
        started = time.perf_counter()
        if self.domain is not None:
            self.domain.check(rows)
        encoded = self.served.encoded(rows)
        different = await self._count(client, len(encoded.digests), encoded.digests)
        self._watch(client, encoded)
        answers = await self.queue.answers(encoded.inputs)
        self.metrics.answer(client.name, len(rows), different, time.perf_counter() - started)
        # All digits: the shortest decimals of float32, read as others, would break the ties of rounded answers.
        return answers.astype(np.float64) if self.served.release.form == "probabilities" else answers

    def _watch(self, client: Client, encoded: EncodedRows) -> None:
        """Shows the monitor a request that will be answered; what follows concerns the next ones."""
        if self.monitor is None or client.repeats:
            return
        seen = self.monitor.observe(client.name, encoded.inputs, encoded.digests)
        self.metrics.watch(client.name, seen.near, seen.is_alarm)
        if seen.is_alarm:
            say(f"alarm: {client.name} asks about many records that lie closer together than records do")
            if self.monitor.settings.action == "suspend" and len(self.keys):
                self._suspend(client.name)

    def _suspend(self, name: str) -> None:
        try:
            self.keys.suspend(name)
        except (ValueError, OSError) as error:
            say(f"suspended: {name}, in this process until it ends, as the file of keys stays as it is: {error}")
            return
        say(f"suspended: {name}, until keys=restore key.name={name}")
        tell_others()

    def _handler(self, action: Action) -> Handler:
        """A handler that knows its client, and whose errors are one line: for the log the place of unforeseen ones."""

        async def handle(request: Request) -> Response:
            name = UNKNOWN_NAME
            try:
                client = self.keys.client(request.headers.get("authorization"))
                name = client.name
                response = await action(request, client)
            except RefusedError as refused:
                response = _refusal(refused)
            except ClientDisconnect:  # or chunks that are none
                response = _refusal(RefusedError(408, "expected a whole body; send it again"))
            except Exception as error:  # its message may hold a value of a record
                place = traceback.extract_tb(error.__traceback__)[-1]
                say(f"error: {type(error).__name__} in {place.filename}:{place.lineno}")
                response = _refusal(RefusedError(500, "the server failed; its log says where"))
            self.metrics.request(name, response.status_code)
            return response

        return handle

    def app(self) -> ASGIApp:
        """The routes, for this machine alone while there are no keys."""
        release, name = self.served.release, self.served.name
        page, metadata = card_page(release.card), model_metadata(self.served)
        description = openapi(self.served)

        async def card(request: Request) -> Response:
            wants_page = "text/html" in request.headers.get("accept", "")
            return HTMLResponse(page) if wants_page else _json(release.card)

        async def ready(request: Request) -> Response:
            try:
                await self.store.check()
            except StoreError:
                return _json({"name": name, "ready": False}, 503)
            return _json({"name": name, "ready": True})

        actions: dict[str, Action] = {COMPLETIONS_PATH: self.complete}
        if not self.served.is_language_model:
            tensors = (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{MODEL_VERSION}/infer")
            actions = {f"/v1/models/{name}:predict": self.predict, **dict.fromkeys(tensors, self.infer)}
        server = {"name": SERVER_NAME, "version": "2", "extensions": []}
        routes = [
            *(Route(path, self._handler(action), methods=["POST"]) for path, action in actions.items()),
            Route("/card", card),
            *(Route(path, ready) for path in ("/v2/health/ready", f"/v2/models/{name}/ready")),
            *(Route(path, _always(content)) for path, content in (
                ("/v2", server), (f"/v2/models/{name}", metadata), ("/openapi.json", description),
                ("/v2/health/live", {"live": True}), (f"/v1/models/{name}", {"name": name, "ready": True}),
            )),
        ]  # fmt: skip
        app = Starlette(routes=routes, exception_handlers={404: _absent, 405: _absent})
        app.router.redirect_slashes = False  # it would send clients to whatever host they name

        async def entered(scope: Scope, receive: Receive, send: Send) -> None:
            if self.keys.is_open and is_from_elsewhere(scope["method"], Headers(scope=scope)):
                self.metrics.request(UNKNOWN_NAME, 421)
                await _refusal(RefusedError(421, ELSEWHERE_REASON))(scope, receive, send)
                return
            await app(scope, receive, send)

        return entered


def _refusal(refused: RefusedError) -> Response:
    headers = {} if refused.wait is None else {"retry-after": str(math.ceil(refused.wait))}
    if refused.status in UNREAD_STATUSES:
        headers["connection"] = "close"
    return _json({"error": refused.reason}, refused.status, headers)


async def _absent(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _refusal(RefusedError(error.status_code, "no such address, or not this way; see /openapi.json"))
    response.headers.update(error.headers or {})
    return response


def _always(content: Mapping[str, Any]) -> Handler:
    body = orjson.dumps(content)

    async def handle(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return handle


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(content, option=JSON_OPTIONS)
    return Response(body, status, headers, media_type="application/json")
