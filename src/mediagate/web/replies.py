"""Answers, as ASGI callables: a callable is all that a route has to return."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from mediagate.web.asgi import Headers, Receive, Scope, Send

Reply = Callable[[Scope, Receive, Send], Awaitable[None]]


def json_body(content: Any) -> tuple[Headers, bytes]:
    """`content` as JSON, and the headers that tell of it."""
    # Lone surrogates cannot come out of the store, but JSON of ours must never fail to encode.
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ], body


class BodyReply:
    """A body in one piece.

    Args:
        body: The bytes.
        headers: Those that tell of it.
        status: Of the answer.
    """

    def __init__(self, body: bytes, *, headers: Headers, status: int = 200) -> None:
        self._status = status
        self._headers = headers
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": self._status, "headers": self._headers}
        await send(start)
        body = b"" if scope["method"] == "HEAD" else self._body
        await send({"type": "http.response.body", "body": body})


class JsonReply(BodyReply):
    """A JSON body."""

    def __init__(self, content: Any, *, status: int = 200) -> None:
        headers, body = json_body(content)
        super().__init__(body, headers=headers, status=status)


class EmptyReply:
    """Headers alone: 204."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 204, "headers": self._headers})
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
