"""Bodies of requests as they come in: none too long, too slow or packed, and never too many at a time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from palisade.serving.bodies import RefusedError
from palisade.serving.settings import SECONDS_TO_SEND

BYTES_AT_ONCE = 2**26
"""Bytes of all bodies that may lie in memory, half read."""


class Inbox:
    """Reader of the bodies of one process.

    Args:
        most: bytes of one body at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    async def body(self, request: Request) -> bytes:
        """The body of a request, of which no more is read than may come.

        Raises:
            RefusedError: if it is too long, packed, or too slow, or too many others are half read.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, "expected a body that is not packed; send it without Content-Encoding")
        if int(request.headers.get("content-length", "0")) > self._most:
            raise self._too_long()
        content = bytearray()
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                async for piece in request.stream():
                    content += piece
                    self._held += len(piece)
                    if len(content) > self._most:
                        raise self._too_long()
                    if self._held > BYTES_AT_ONCE:
                        raise RefusedError(503, "too many requests are being read; come back", 1.0)
        except TimeoutError:
            raise RefusedError(408, f"expected the body in {SECONDS_TO_SEND} s; send it faster") from None
        finally:
            self._held -= len(content)
        return bytes(content)

    def _too_long(self) -> RefusedError:
        return RefusedError(413, f"expected at most {self._most} bytes in one request; send fewer rows")
