"""Answers, as ASGI callables: a callable is all that a route has to return."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from mediagate.web.asgi import Receive, Scope, Send

Reply = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class JsonReply:
    """A JSON body, sent at once."""

    def __init__(self, content: Any, *, status: int = 200) -> None:
        # Lone surrogates cannot come out of the store, but JSON of ours must never fail to encode.
        self._body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
            errors="replace"
        )
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
        ]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else self._body
        await send({"type": "http.response.body", "body": body})


class EmptyReply:
    """Headers alone."""

    def __init__(self, *, status: int = 204, headers: Headers | None = None) -> None:
        self._status = status
        self._headers = headers or []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send(
            {"type": "http.response.start", "status": self._status, "headers": self._headers}
        )
        await send({"type": "http.response.body"})


class StreamReply:
    """A body of known length in chunks; `close` is awaited whatever happens.

    A failure after the first byte breaks the connection, so that the client sees that something is missing.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        status: int,
        headers: Headers,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._chunks = chunks
        self._status = status
        self._headers = headers
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send(
                {"type": "http.response.start", "status": self._status, "headers": self._headers}
            )
            if scope["method"] != "HEAD":
                async for chunk in self._chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            await self._close()
