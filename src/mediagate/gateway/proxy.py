"""The pass-through: every request goes to the upstream as it came, every answer comes back as it was given.

**Paths.** The upstream's base URL may end in `/v1`; the rest of its path is a prefix. A client's `/v1/x` becomes
`<prefix>/v1/x`, its `/health` becomes `<prefix>/health`. The raw path and the raw query are sent byte for byte.

    base                    /v1/models           /health
    http://gpu:8000         /v1/models           /health
    http://gpu:8000/v1      /v1/models           /health
    http://h/llm/v1         /llm/v1/models       /llm/health

**Headers.** Lines keep their order and their duplicates in both directions. Dropped: the hop-by-hop headers of RFC
9110 §7.6.1 and those that `Connection` names; `Expect`, which our server answers; trailers. `Host` is the upstream's.
None is added, but for three that tell the upstream about the client: `X-Forwarded-For` gets the peer appended, as
nginx's `$proxy_add_x_forwarded_for` does; `X-Forwarded-Proto` and `X-Forwarded-Host` are set where no proxy has yet.

**Bodies** are streamed both ways with back-pressure; nothing is decompressed. Only connecting has a time limit.

**Sent again** is a request only if the connection had been used before and broke before any byte of the answer: the
upstream closed it while it was idle. It is then sent once more, over a new connection. A body of up to
`RESEND_BYTES` is kept for that; a larger one goes over a new connection from the start.
"""

import asyncio
import contextlib
import re
import urllib.parse
from dataclasses import dataclass

from mediagate.core.errors import MalformedBody, NotSupported, UpstreamUnreachable
from mediagate.gateway.upstream import Connection, ConnectionBroken, Headers, Upstream
from mediagate.web.asgi import Message, Receive, Scope, Send, header_values

RESEND_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OURS_TO_SAY = frozenset({b"content-length", b"expect", b"host"})
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_WRONG_LENGTH = "The body is not as long as its Content-Length says."


class Proxy:
    """A raw ASGI application that forwards what it is given.

    `UpstreamUnreachable` and `UpstreamTimeout` are raised: before the response began an outer layer renders them, after
    that the server must break the client's connection, so that a cut answer does not look complete.

    Args:
        upstream: Its base URL, with or without `/v1`.
        authorization: Takes the place of the client's `Authorization`, e.g. `Bearer <the upstream's own key>`.
        drop_authorization: The client's is not forwarded: it was meant for us.
        connect_timeout_s: For name lookup, TCP and TLS together.

    Raises:
        ValueError: `upstream` is no such URL.
    """

    def __init__(
        self,
        *,
        upstream: str,
        authorization: str | None = None,
        drop_authorization: bool = False,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self._upstream = Upstream(url=upstream, connect_timeout_s=connect_timeout_s)
        self._authorization = authorization.encode("latin-1") if authorization is not None else None
        self._drops_authorization = drop_authorization or authorization is not None

    async def start(self) -> None:
        """Make ready; nothing is connected before the first request."""
        self._upstream.open()

    async def close(self) -> None:
        """Close the idle connections."""
        self._upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request.

        Raises:
            UpstreamUnreachable: The upstream refused or broke the connection, or sent no valid response.
            UpstreamTimeout: It could not be connected to in time.
            NotSupported: The request is a WebSocket's or a TRACE.
        """
        if scope["type"] == "websocket":
            await _decline_websocket(scope, send)
            return
        _refuse_upgrade(scope)
        request = self._translate(scope)
        # A timeout without an end, until the client leaves: then it ends at once, wherever the forwarding stands.
        try:
            async with asyncio.timeout(None) as patience:
                await self._forward(request, receive, send, patience)
        except TimeoutError:
            if not patience.expired():
                raise

    async def _forward(
        self, request: "_Request", receive: Receive, send: Send, patience: asyncio.Timeout
    ) -> None:
        if not await request.read_ahead(receive):
            return
        exchange = _Exchange(self._upstream, request)
        pump = asyncio.create_task(exchange.pump(receive, patience))
        try:
            await exchange.relay(send)
        finally:
            pump.cancel()
            exchange.end()
            await asyncio.wait((pump,))
            if not pump.cancelled() and (failure := pump.exception()):
                raise failure

    def _translate(self, scope: Scope) -> "_Request":
        """The request as the upstream gets it."""
        method = scope["method"].encode("ascii")
        raw_path: bytes = scope.get("raw_path") or urllib.parse.quote(scope["path"]).encode()
        query: bytes = scope.get("query_string", b"")
        target = self._upstream.target.prefix + raw_path + (b"?" + query if query else b"")
        if not _TARGET.fullmatch(target):
            raise MalformedBody("The request target is no path.")
        declared, is_chunked = _framing(scope["headers"])
        lines = [method + b" " + target + b" HTTP/1.1", b"host: " + self._upstream.target.authority]
        lines += [name + b": " + value for name, value in self._headers(scope)]
        if is_chunked:
            lines.append(b"transfer-encoding: chunked")
        elif declared is not None:
            lines.append(b"content-length: %d" % declared)
        return _Request(
            head=b"\r\n".join(lines) + b"\r\n\r\n",
            is_head=method == b"HEAD",
            declared=declared,
            is_chunked=is_chunked,
        )

    def _headers(self, scope: Scope) -> Headers:
        """End-to-end headers, the client's credentials exchanged, the client's address noted."""
        dropped = _named_by_connection(scope["headers"]) | _HOP_BY_HOP | _OURS_TO_SAY
        if self._drops_authorization:
            dropped |= {b"authorization"}
        passed: Headers = []
        forwarded_for = []
        seen = set()
        for name, value in scope["headers"]:
            key = name.lower()
            if key == b"x-forwarded-for":
                forwarded_for.append(value)
            elif key not in dropped:
                passed.append((key, value))
                seen.add(key)
        if self._authorization is not None:
            passed.append((b"authorization", self._authorization))
        if scope.get("client"):
            forwarded_for.append(str(scope["client"][0]).encode("ascii", "replace"))
        if forwarded_for:
            passed.append((b"x-forwarded-for", b", ".join(forwarded_for)))
        if b"x-forwarded-proto" not in seen:
            passed.append((b"x-forwarded-proto", scope.get("scheme", "http").encode("ascii")))
        host = header_values(scope["headers"], b"host")
        if b"x-forwarded-host" not in seen and host:
            passed.append((b"x-forwarded-host", host[0]))
        return passed


@dataclass(slots=True)
class _Request:
    """A request on its way.

    Attributes:
        head: Request line and header lines, as they are sent.
        is_head: The method is HEAD.
        declared: Content-Length, if the client sent one and no transfer coding.
        is_chunked: The client sent a body in chunks, and so do we.
        ahead: What was read of the body before anything was sent.
        has_more: More of it is to come.
    """

    head: bytes
    is_head: bool
    declared: int | None
    is_chunked: bool
    ahead: bytes = b""
    has_more: bool = False

    async def read_ahead(self, receive: Receive) -> bool:
        """Read a small body whole, a large one not at all or up to the limit; False: the client left."""
        if not self.is_chunked and not self.declared:
            return True
        self.has_more = True
        if self.declared is not None and self.declared > RESEND_BYTES:
            return True
        pieces: list[bytes] = []
        size = 0
        while self.has_more and size <= RESEND_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            self.has_more = message.get("more_body", False)
        self.ahead = b"".join(pieces)
        if not self.may_have(size, more=self.has_more):
            raise RuntimeError(_WRONG_LENGTH)
        return True

    def may_have(self, size: int, *, more: bool) -> bool:
        """Whether a body of which `size` bytes have come can still be as long as was declared."""
        return self.declared is None or (size <= self.declared if more else size == self.declared)

    def frame(self, body: bytes, *, more: bool) -> bytes:
        """A piece of the body as it is sent."""
        if not self.is_chunked:
            return body
        framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return framed if more else framed + b"0\r\n\r\n"


class _Exchange:
    """One request over one connection, or over a second one if the first was stale."""

    def __init__(self, upstream: Upstream, request: _Request) -> None:
        self._upstream = upstream
        self._request = request
        self._connection: Connection | None = None
        self._begun: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._is_sent = False
        self._is_answered = False

    async def relay(self, send: Send) -> None:
        """Send the head and a small body, then pass the answer on as it comes."""
        try:
            connection = await self._ask()
            head = await connection.read_head()
        except ConnectionBroken as error:
            message = "The inference server broke the connection before it answered."
            raise UpstreamUnreachable(message) from error
        await send(
            {
                "type": "http.response.start",
                "status": head.status,
                "headers": _response_headers(head.status, head.headers),
            }
        )
        while not self._is_answered:
            try:
                body = await connection.read()
            except ConnectionBroken as error:
                raise UpstreamUnreachable("The inference server broke off its answer.") from error
            self._is_answered = connection.is_complete
            more = not self._is_answered
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def pump(self, receive: Receive, patience: asyncio.Timeout) -> None:
        """Send the rest of a large body, then watch for the client's leaving; that, or a failure, ends `patience`."""
        try:
            if self._request.has_more:
                await self._send_rest(receive)
            while not self._is_answered and (await receive())["type"] != "http.disconnect":
                pass
        except _ClientLeft:
            pass
        except Exception:
            patience.reschedule(0)
            raise
        if not self._is_answered:
            patience.reschedule(0)

    def end(self) -> None:
        """Give the connection back, or close it if anything of the exchange is missing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(request_complete=self._is_sent)

    async def _ask(self) -> Connection:
        """A connection over which the request is sent (of a large one, the head) and an answer has come or may come."""
        stale = self._upstream.take() if not self._request.has_more else None
        if stale is not None:
            try:
                await self._begin(stale)
                await stale.read_head()
            except ConnectionBroken:
                if stale.has_heard:
                    raise
                stale.abort()
            else:
                return stale
        connection = await self._upstream.connect()
        await self._begin(connection)
        self._begun.set_result(connection)
        return connection

    async def _begin(self, connection: Connection) -> None:
        self._connection = connection
        request = self._request
        connection.begin(is_head_request=request.is_head)
        await connection.write(request.head + request.frame(request.ahead, more=request.has_more))
        self._is_sent = not request.has_more

    async def _send_rest(self, receive: Receive) -> None:
        """Send what the client sends, until it is complete.

        Once an answer has come that wants no more of it, the rest is taken and dropped: the answer says why.
        """
        request = self._request
        size = len(request.ahead)
        connection = await self._begun
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            body: bytes = message.get("body", b"")
            has_more = message.get("more_body", False)
            size += len(body)
            if not request.may_have(size, more=has_more):
                connection.abort()  # never let the upstream take the next bytes for another request
                raise RuntimeError(_WRONG_LENGTH)
            data = request.frame(body, more=has_more)
            if data and not connection.wants_no_more:
                with contextlib.suppress(ConnectionBroken):  # the reading side tells
                    await connection.write(data)
        self._is_sent = not connection.wants_no_more


class _ClientLeft(Exception):
    """The client closed its connection before its request was complete."""


def _framing(headers: Headers) -> tuple[int | None, bool]:
    """Content-Length and whether there is a transfer coding; RFC 9112 §6.3: the coding wins."""
    if header_values(headers, b"transfer-encoding"):
        return None, True
    values = set(header_values(headers, b"content-length"))
    if not values:
        return None, False
    text = values.pop()
    if values or not text.isdigit():
        raise MalformedBody("Content-Length must be one whole number.")
    return int(text), False


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    values = header_values(headers, b"connection")
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def _response_headers(status: int, headers: Headers) -> Headers:
    dropped = _named_by_connection(headers) | _HOP_BY_HOP
    if status == 204:
        dropped |= {b"content-length"}  # RFC 9110 §8.6
    return [(name, value) for name, value in headers if name not in dropped]


def _refuse_upgrade(scope: Scope) -> None:
    if b"websocket" in (
        value.strip().lower() for value in header_values(scope["headers"], b"upgrade")
    ):
        raise NotSupported(
            "WebSocket connections are not passed on. Use HTTP, with stream: true if need be."
        )
    if scope["method"] in {"TRACE", "CONNECT"}:
        # TRACE would show the client what we add, the upstream's key among it.
        raise NotSupported(f"{scope['method']} requests are not passed on.")


async def _decline_websocket(scope: Scope, send: Send) -> None:
    """501 where the server can say so before the handshake, else a close."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start: Message = {
        "type": "websocket.http.response.start",
        "status": 501,
        "headers": [(b"content-length", b"0"), (b"x-should-retry", b"false")],
    }
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b""})
