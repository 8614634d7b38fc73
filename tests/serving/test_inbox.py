"""A process holds no more half read bodies than it has room for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request

from palisade.serving import inbox as module
from palisade.serving.bodies import RefusedError
from palisade.serving.inbox import Inbox


def request(pieces: Iterable[bytes], **headers: str) -> Request:
    """A request whose body comes in pieces, each after a moment."""
    waiting = list(pieces)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": named}, receive)


def status(error: pytest.ExceptionInfo[RefusedError]) -> int:
    return error.value.status


def test_a_body_is_read_to_its_length_and_no_further() -> None:
    inbox = Inbox(10)
    assert asyncio.run(inbox.body(request([b"01234", b"56789"]))) == b"0123456789"
    for wrong, code in (
        (request([b"01234", b"56789", b"0"]), 413),
        (request([b""], content_length="11"), 413),
        (request([b"0"], content_encoding="gzip"), 415),
    ):
        with pytest.raises(RefusedError) as error:
            asyncio.run(inbox.body(wrong))
        assert status(error) == code


def test_all_bodies_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 100)
    inbox = Inbox(50)

    async def together(count: int) -> list[bytes | BaseException]:
        bodies = (inbox.body(request([b"0" * 10] * 5)) for _ in range(count))
        return await asyncio.gather(*bodies, return_exceptions=True)

    assert asyncio.run(together(2)) == [b"0" * 50] * 2
    refused = [each for each in asyncio.run(together(10)) if isinstance(each, RefusedError)]
    assert refused and {(each.status, each.wait) for each in refused} == {(503, 1.0)}
    assert asyncio.run(together(2)) == [b"0" * 50] * 2, "what was refused holds nothing"


def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 0.01)
    with pytest.raises(RefusedError) as error:
        asyncio.run(Inbox(10_000).body(request([b"0"] * 1000)))
    assert status(error) == 408
