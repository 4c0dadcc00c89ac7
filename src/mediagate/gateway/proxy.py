"""Everything that is not ours, passed through to the inference server behind.

What arrives is what is sent on: the raw path and query, header lines in their order and number, bodies as they come and
as they are encoded. Only what RFC 9110 §7.6.1 calls hop-by-hop stays behind. `X-Forwarded-*` lines are passed as they
came and none is added: an inference server has no use for them, and whoever stands in front of us has set them.

**Sending again.** A server may close an idle connection at the very moment we reuse it, and no byte of an answer then
tells whether it saw the request. A request whose body is at most `REPLAY_BYTES` is read whole before it is sent, and is
sent once more, over a new connection, when a reused one dies like that. A longer body cannot be sent twice: it goes
over a new connection in the first place.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from mediagate.core.errors import (
    MalformedBody,
    NotSupported,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from mediagate.core.events import Observer, UpstreamAnswered, UpstreamFailed, ignore
from mediagate.web.asgi import (
    BAD_IN_HEADER_VALUE,
    ClientGone,
    HeaderList,
    Headers,
    Receive,
    Scope,
    Send,
    header_values,
)

REPLAY_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset(
    {
        b"connection",
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
# The client library writes Host; Expect was answered by our own server.
_NOT_SENT = _HOP_BY_HOP | {b"host", b"expect"}
# The one shows headers of ours, the other is for another kind of proxy.
_NEVER_PASSED = frozenset({"TRACE", "CONNECT"})
_PATH = re.compile(rb"/[\x21-\x7e]*")
_OURS_TO_LEAVE_OUT = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Proxy:
    """An ASGI app that is the upstream, as seen from here.

    Args:
        upstream: Its base URL, without `/v1` at the end: `/v1/x` here is `<upstream>/v1/x` there.
        authorization: Replaces the client's `Authorization`; None: it does not.
        drop_authorization: Whether the client's is kept from the upstream.
        connect_timeout_s: How long a connection may take to come about.
        stall_timeout_s: How long the upstream may refuse to take the next piece of a body. Answers are not timed.
        observer: Told of what the upstream answers, and that it does not.
    """

    _pooled: aiohttp.ClientSession
    _fresh: aiohttp.ClientSession

    def __init__(
        self,
        *,
        upstream: str,
        authorization: str | None = None,
        drop_authorization: bool = False,
        connect_timeout_s: float = 10.0,
        stall_timeout_s: float = 60.0,
        observer: Observer = ignore,
    ) -> None:
        self._observer = observer
        self._root = upstream.rstrip("/")
        self._authorization = authorization
        self._drop_authorization = drop_authorization or authorization is not None
        self._connect_timeout_s = connect_timeout_s
        self._stall_timeout_s = stall_timeout_s

    async def start(self) -> None:
        """Make ready, on the event loop that will serve; nothing is connected before the first request."""
        self._pooled = self._session(reuses=True)
        self._fresh = self._session(reuses=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    def _session(self, *, reuses: bool) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not reuses, ssl=self._tls()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OURS_TO_LEAVE_OUT,
            trace_configs=[trace],
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    def _tls(self) -> ssl.SSLContext | bool:
        """What an https upstream must prove: read now, as aiohttp's own context dates from its import."""
        return ssl.create_default_context() if self._root.startswith("https:") else True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and its answer back."""
        if _asks_for_websocket(scope["headers"]):
            raise NotSupported("This server speaks plain HTTP; WebSocket is not passed on.")
        if scope["method"] in _NEVER_PASSED:
            raise NotSupported(f"{scope['method']} is not passed on.")
        if not _PATH.fullmatch(scope["raw_path"]):
            raise MalformedBody("The request target is no path.")
        request = _Request(scope, receive, stall_timeout_s=self._stall_timeout_s)
        await request.begin()
        relay = asyncio.create_task(self._relay(request, send))
        given_up = asyncio.create_task(request.given_up())
        try:
            done, _ = await asyncio.wait((relay, given_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Cancelling the relay closes its connection: the upstream stops working for nobody.
            relay.cancel()
            given_up.cancel()
            await asyncio.wait((relay, given_up))
        if relay in done:
            try:
                relay.result()
            except (UpstreamUnreachable, UpstreamTimeout, aiohttp.ClientError):
                self._observer(UpstreamFailed())
                raise
        elif request.is_stalled:
            self._observer(UpstreamFailed())
            raise UpstreamTimeout("The inference server stopped taking the request.")
        else:
            raise ClientGone

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        """What the upstream answers to a GET of our own; None: no 200 of at most `max_bytes` in time."""
        url = URL(self._root + path, encoded=True)
        own = {} if self._authorization is None else {"authorization": self._authorization}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._fresh.get(url, headers=own, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return None
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > max_bytes:
                        return None
                return bytes(body)
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None

    async def _relay(self, request: "_Request", send: Send) -> None:
        response = await self._ask(request)
        self._observer(UpstreamAnswered(status=response.status))
        try:
            headers = _response_headers(response)
            await send(
                {"type": "http.response.start", "status": response.status, "headers": headers}
            )
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            # Released where the answer was read to its end, closed where it was not.
            response.release() if response.content.at_eof() else response.close()

    async def _ask(self, request: "_Request") -> aiohttp.ClientResponse:
        """Send the request and read the head of the answer."""
        if request.replay is None:
            return await self._send(self._fresh, request, _Attempt())
        attempt = _Attempt()
        try:
            return await self._send(self._pooled, request, attempt)
        except UpstreamUnreachable:
            if not (attempt.is_reused and attempt.is_unanswered):
                raise
        return await self._send(self._fresh, request, _Attempt())

    async def _send(
        self, session: aiohttp.ClientSession, request: "_Request", attempt: "_Attempt"
    ) -> aiohttp.ClientResponse:
        try:
            return await session.request(
                request.method,
                URL(self._root + request.target, encoded=True),
                headers=self._request_headers(request),
                data=request.body(),
                allow_redirects=False,
                trace_request_ctx=attempt,
            )
        except aiohttp.ConnectionTimeoutError as exc:
            raise UpstreamTimeout("The inference server could not be reached in time.") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            if request.is_client_gone:
                raise ClientGone from exc
            if isinstance(exc, aiohttp.ClientConnectorError):
                raise UpstreamUnreachable("The inference server cannot be reached.") from exc
            message = "The inference server broke the connection before it answered."
            attempt.is_unanswered = _is_unanswered(exc)
            raise UpstreamUnreachable(message) from exc

    def _request_headers(self, request: "_Request") -> list[tuple[str, str]]:
        left_out = _NOT_SENT | _named_by_connection(request.headers)
        if self._drop_authorization:
            left_out |= {b"authorization"}
        headers = [
            (name.decode("latin-1"), _text(value))
            for name, value in request.headers
            if name.lower() not in left_out
        ]
        if self._authorization is not None:
            headers.append(("authorization", self._authorization))
        return headers


class _Attempt:
    """What one try learns of its connection.

    Attributes:
        is_reused: It had carried a request before.
        is_unanswered: It died without a byte of an answer.
    """

    def __init__(self) -> None:
        self.is_reused = False
        self.is_unanswered = False


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _: Any) -> None:
    context.trace_request_ctx.is_reused = True


class _Request:
    """The client's request.

    Attributes:
        replay: The whole body, if it is short enough to be sent twice.
        is_client_gone: The client left.
        is_stalled: The upstream did not take the body.
    """

    def __init__(self, scope: Scope, receive: Receive, *, stall_timeout_s: float) -> None:
        self.method: str = scope["method"]
        self.headers: Headers = scope["headers"]
        query: bytes = scope["query_string"]
        self.target: str = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        self.replay: bytes | None = None
        self.is_client_gone = False
        self.is_stalled = False
        self._stall_timeout_s = stall_timeout_s
        self._receive = receive
        self._first = b""
        self._more = True
        self._body_over = asyncio.Event()

    async def begin(self) -> None:
        """Read what decides how to send it: the whole body, if it is short."""
        first = bytearray()
        more = True
        while more and len(first) <= REPLAY_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            first += message.get("body", b"")
            more = message.get("more_body", False)
        self._more = more
        if more or len(first) > REPLAY_BYTES:
            self._first = bytes(first)
        else:
            self.replay = bytes(first)
        if not more:
            self._body_over.set()

    def body(self) -> bytes | AsyncIterator[bytes] | None:
        """What to send: the whole body, the rest of it as it comes, or nothing."""
        if self.replay is None:
            return self._stream()
        return self.replay or None

    async def _stream(self) -> AsyncIterator[bytes]:
        with self._impatience():
            yield self._first
        self._first = b""
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_client_gone = True
                self._body_over.set()
                raise ClientGone
            self._more = message.get("more_body", False)
            if message.get("body"):
                with self._impatience():
                    yield message["body"]
        self._body_over.set()

    @contextmanager
    def _impatience(self) -> Iterator[None]:
        """Give up unless the piece that is yielded inside is taken in time; nobody listens to the client meanwhile."""
        timer = asyncio.get_running_loop().call_later(self._stall_timeout_s, self._give_up)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.is_stalled = True
        self._body_over.set()

    async def given_up(self) -> None:
        """Return when the client has left or the upstream has stalled."""
        await self._body_over.wait()
        while not (self.is_client_gone or self.is_stalled):
            message = await self._receive()
            self.is_client_gone = message["type"] == "http.disconnect"


def _is_unanswered(error: Exception) -> bool:
    """Whether the connection died without a byte of an answer; aiohttp tells what it had parsed of one."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)
    return isinstance(error, aiohttp.ClientOSError)


def _response_headers(response: aiohttp.ClientResponse) -> Headers:
    """The header lines that are for the client.

    Raises:
        UpstreamUnreachable: The answer is none that could be passed on: another protocol, another framing, or header
            values that would break ours.
    """
    lines = response.raw_headers
    codings = header_values(lines, b"transfer-encoding")
    is_sound = 200 <= response.status <= 999 and not any(
        BAD_IN_HEADER_VALUE.search(value) for _, value in lines
    )
    if not is_sound or any(coding.strip().lower() != b"chunked" for coding in codings):
        raise UpstreamUnreachable(
            "The inference server's answer is no HTTP response that can be passed on."
        )
    left_out = _HOP_BY_HOP | _named_by_connection(lines)
    if codings:
        left_out |= {b"content-length"}  # RFC 9112 §6.3: the length does not count then
    return [(name.lower(), value) for name, value in lines if name.lower() not in left_out]


def _named_by_connection(headers: HeaderList) -> frozenset[bytes]:
    named = b",".join(header_values(headers, b"connection"))
    return frozenset(token.strip().lower() for token in named.split(b","))


def _asks_for_websocket(headers: HeaderList) -> bool:
    return any(
        value.strip().lower() == b"websocket" for value in header_values(headers, b"upgrade")
    )


def _text(value: bytes) -> str:
    """A header value for the client library, which writes UTF-8: so it is read as that where it is."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
