"""The gateway: bodies that may name media are read and resolved, everything else passes through unread."""

import asyncio
from collections.abc import AsyncGenerator

from mediagate.gateway.media_endpoints import body_too_large, check_encoding, media_dialect
from mediagate.operations.deliver import OpenBlob, stream
from mediagate.operations.resolve import Resolved, Resolver
from mediagate.web.asgi import ASGIApp, Headers, Message, Receive, Scope, Send, unless_gone
from mediagate.web.body import Body, Patience

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Gateway:
    """Stands in front of an upstream, itself an ASGI app: the proxy or the inspector.

    Args:
        upstream: Answers.
        resolver: Turns references into what the upstream accepts.
        open_blob: Opens the bytes of a file that the resolver leased.
        max_json_bytes: Largest body that is read.
        patience: With clients that send one.
    """

    def __init__(
        self,
        *,
        upstream: ASGIApp,
        resolver: Resolver,
        open_blob: OpenBlob,
        max_json_bytes: int,
        patience: Patience,
    ) -> None:
        self._upstream = upstream
        self._resolver = resolver
        self._open_blob = open_blob
        self._max_json_bytes = max_json_bytes
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        dialect = media_dialect(scope["method"], scope["raw_path"])
        if dialect is None:
            await self._upstream(scope, receive, send)
            return
        headers = scope["headers"]
        check_encoding(headers)
        raw = await Body(headers, receive, patience=self._patience).read(
            max_bytes=self._max_json_bytes, too_large=body_too_large(self._max_json_bytes)
        )
        resolved = await self._resolver.resolve(raw, dialect=dialect, principal=scope["principal"])
        del raw
        try:
            framed = {**scope, "headers": _framed(headers, resolved.content_length)}
            source = _Source(resolved, self._open_blob, receive)
            try:
                answering = self._upstream(framed, source.receive, send)
                if resolved.files:
                    # An upstream that takes its time with a long body must not hide that the client has left.
                    await unless_gone(answering, receive)
                else:
                    await answering
            finally:
                await source.close()
        finally:
            await resolved.close()


class _Source:
    """The resolved body as ASGI messages; behind its end, the client's own (that it left)."""

    def __init__(self, resolved: Resolved, open_blob: OpenBlob, receive: Receive) -> None:
        self._chunks: AsyncGenerator[bytes, None] = stream(resolved.pieces, open_blob=open_blob)
        self._receive = receive
        self._left = resolved.content_length
        resolved.pieces = ()  # what was sent need not live as long as the answer to it
        self._reading = asyncio.Lock()

    async def receive(self) -> Message:
        if self._left <= 0:
            return await self._receive()
        async with self._reading:
            chunk = await anext(self._chunks)
        self._left -= len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": self._left > 0}

    async def close(self) -> None:
        # An upstream that answered early, or broke, may leave a read behind that was cancelled and is not yet over.
        async with self._reading:
            await self._chunks.aclose()


def _framed(headers: Headers, length: int) -> Headers:
    """The headers with the resolved body's length; all others, and their order, stay."""
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    return [*kept, (b"content-length", b"%d" % length)]
