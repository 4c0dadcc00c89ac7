"""The gateway: bodies that may name media are read and resolved, everything else passes through unread.

Around an engine that guards itself (`Judge.ENGINE`) a request that names none of our files gets the answer that it
gets without us. So it may be as long and as odd as the engine lets it be: encoded, in another charset, no JSON at all.
"""

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial

from mediagate.core.errors import RouteNotFound
from mediagate.dialects.fields import Dialect, Judge
from mediagate.dialects.parts import ANYTHING, Accepted
from mediagate.gateway.cache_salts import CacheSalts
from mediagate.gateway.media_endpoints import (
    body_too_large,
    check_encoding,
    is_files_api,
    media_dialect,
)
from mediagate.operations.deliver import OpenBlob, stream
from mediagate.operations.resolve import Resolved, Resolver
from mediagate.operations.rewrite import CacheNames
from mediagate.web.asgi import ASGIApp, Headers, Message, Receive, Scope, Send, unless_gone
from mediagate.web.body import Body, Patience

ENDLESS = Patience(idle_timeout_s=math.inf, min_bytes_per_s=0.0, deadline_s=math.inf)
"""With the clients of an engine that waits for its bodies as long as they take."""


async def _anything(_dialect: Dialect) -> Accepted:
    return ANYTHING


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Gateway:
    """Stands in front of an upstream, itself an ASGI app: the proxy or the inspector.

    Args:
        upstream: Answers.
        resolver: Turns references into what the upstream accepts.
        open_blob: Opens the bytes of a file that the resolver leased.
        max_json_bytes: Largest body that is read; None: whatever the upstream would read. A body that is not read can
            be neither refused nor salted, so there is no third way.
        patience: With clients that send one.
        salts: Keeps tenants apart in the upstream's caches; None: nothing is done about that.
        judge: Who judges what is named in bodies and is no file of ours.
        accepts: Tells what the upstream takes in requests of a dialect.
    """

    def __init__(
        self,
        *,
        upstream: ASGIApp,
        resolver: Resolver,
        open_blob: OpenBlob,
        max_json_bytes: int | None,
        patience: Patience,
        salts: CacheSalts | None = None,
        judge: Judge = Judge.WALL,
        accepts: Callable[[Dialect], Awaitable[Accepted]] = _anything,
    ) -> None:
        self._upstream = upstream
        self._resolver = resolver
        self._open_blob = open_blob
        self._max_json_bytes = sys.maxsize if max_json_bytes is None else max_json_bytes
        self._patience = patience
        self._salts = salts
        self._judge = judge
        self._accepts = accepts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if is_files_api(scope["raw_path"]):
            # The upstream may have files of its own, and those know no tenants.
            raise RouteNotFound("There is nothing here. Files are at /v1/files, spelt like that.")
        dialect = media_dialect(scope["method"], scope["raw_path"])
        if dialect is None:
            await self._upstream(scope, receive, send)
            return
        headers = scope["headers"]
        if self._judge is Judge.WALL:
            check_encoding(headers)
        raw = await Body(headers, receive, patience=self._patience).read(
            max_bytes=self._max_json_bytes, too_large=body_too_large(self._max_json_bytes)
        )
        if raw:
            resolved = await self._resolver.resolve(
                raw,
                dialect=dialect,
                principal=scope["principal"],
                names=await self._cache_names(scope),
                came_in_at=_came_in_at(scope),
                judge=self._judge,
                accepts=partial(self._accepts, dialect),
            )
        else:  # such as POST /v1/responses/{id}/cancel
            resolved = Resolved(())
        del raw
        try:
            framed = {**scope, "headers": _framed(headers, resolved.content_length)}
            source = _Source(resolved, self._open_blob, receive)
            try:
                answering = self._upstream(framed, source.receive, send)
                if resolved.files and self._judge is Judge.WALL:
                    # An upstream that takes its time with a long body must not hide that the client has left. An
                    # engine in this process listens itself, and what it does behind an answer must not be cut off.
                    await unless_gone(answering, receive)
                else:
                    await answering
            finally:
                await source.close()
        finally:
            await resolved.close()

    async def _cache_names(self, scope: Scope) -> CacheNames | None:
        if self._salts is None:
            return None
        return await self._salts.names_for(scope["method"], scope["raw_path"], scope["principal"])


class _Source:
    """The resolved body as ASGI messages; behind its end, the client's own (that it left)."""

    def __init__(self, resolved: Resolved, open_blob: OpenBlob, receive: Receive) -> None:
        self._chunks: AsyncGenerator[bytes, None] = stream(resolved.pieces, open_blob=open_blob)
        self._receive = receive
        self._left = resolved.content_length
        self._is_over = False
        resolved.pieces = ()  # what was sent need not live as long as the answer to it
        self._reading = asyncio.Lock()

    async def receive(self) -> Message:
        if self._is_over:
            return await self._receive()
        async with self._reading:
            chunk = await anext(self._chunks, b"")
        self._left -= len(chunk)
        self._is_over = self._left <= 0
        return {"type": "http.request", "body": chunk, "more_body": not self._is_over}

    async def close(self) -> None:
        # An upstream that answered early, or broke, may leave a read behind that was cancelled and is not yet over.
        async with self._reading:
            await self._chunks.aclose()


def _came_in_at(scope: Scope) -> str | None:
    """Where the request reached this server; None: not by an address."""
    host, port = scope.get("server") or (None, None)
    if host is None or port is None:
        return None
    return f"{scope.get('scheme', 'http')}://{f'[{host}]' if ':' in host else host}:{port}"


def _framed(headers: Headers, length: int) -> Headers:
    """The headers with the resolved body's length; all others, and their order, stay."""
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    return [*kept, (b"content-length", b"%d" % length)]
