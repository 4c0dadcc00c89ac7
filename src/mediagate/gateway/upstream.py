"""Connections to the upstream: HTTP/1.1, parsed by httptools, kept for reuse.

A proxy must know two things that client libraries keep to themselves: whether a connection was used before, and whether
a byte of the answer has come. Together they decide if a request may be sent again. So the connection is ours; what it
sends is exactly what it is given.
"""

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from mediagate.core.errors import UpstreamTimeout, UpstreamUnreachable

Headers = list[tuple[bytes, bytes]]

IDLE_S = 15.0
"""How long an unused connection is kept."""

MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER_BYTES = 64 * 1024


_PRINTABLE = re.compile(r"[!-~]+")


class ConnectionBroken(Exception):
    """The upstream closed or reset the connection, or sent what is no HTTP response."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and header lines of a response: names in lower case, order and duplicates kept."""

    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Target:
    """Where the upstream is.

    Attributes:
        scheme: http or https.
        host: Name or address, without brackets.
        port: TCP port.
        authority: What the Host header says.
        prefix: Path before the paths of the API, without `/v1` and without a final slash.
    """

    scheme: str
    host: str
    port: int
    authority: bytes
    prefix: bytes

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Read a base URL: http(s), with or without a path, with or without a final `/v1`.

        Raises:
            ValueError: It is no such URL, or holds credentials, a query or a fragment.
        """
        parts = urlsplit(url.strip())
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the upstream is an http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "the upstream URL holds no credentials: there is a setting for its API key"
            )
        if parts.query or parts.fragment:
            raise ValueError("the upstream URL holds no query and no fragment")
        if not _PRINTABLE.fullmatch(parts.netloc + parts.path):
            raise ValueError("the upstream URL is written in printable ASCII")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=parts.port or (443 if parts.scheme == "https" else 80),
            authority=parts.netloc.encode(),
            prefix=parts.path.rstrip("/").removesuffix("/v1").rstrip("/").encode(),
        )


class Upstream:
    """The inference server behind, and the connections to it.

    Args:
        url: As `Target.parse` takes it.
        connect_timeout_s: For name lookup, TCP and TLS together.
        idle_s: How long an unused connection is kept.
    """

    def __init__(
        self, *, url: str, connect_timeout_s: float = 10.0, idle_s: float = IDLE_S
    ) -> None:
        self.target = Target.parse(url)
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._idle: list[Connection] = []  # the last one used comes first: the others may lapse
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    def open(self) -> None:
        """Load the trusted certificates, if the upstream speaks TLS. Reads from disk."""
        if self.target.scheme == "https":
            self._tls = ssl.create_default_context()

    def take(self) -> "Connection | None":
        """A connection that was used before, if one is idle."""
        while self._idle:
            connection = self._idle.pop()
            if connection.wake():
                return connection
        return None

    async def connect(self) -> "Connection":
        """A connection that nobody has used.

        Raises:
            UpstreamTimeout: It took longer than `connect_timeout_s`.
            UpstreamUnreachable: Refused, unknown host, or no TLS.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop),
                    self.target.host,
                    self.target.port,
                    ssl=self._tls,
                    server_hostname=self.target.host if self._tls else None,
                )
        except TimeoutError as error:
            raise UpstreamTimeout(
                "The inference server could not be connected to in time."
            ) from error
        except OSError as error:  # ssl.SSLError and gaierror are among them
            raise UpstreamUnreachable("The inference server cannot be reached.") from error
        return connection

    def keep(self, connection: "Connection") -> None:
        """Take back a connection that is between two requests."""
        if self._is_closed:
            connection.abort()
        else:
            connection.sleep(self._idle_s)
            self._idle.append(connection)

    def drop(self, connection: "Connection") -> None:
        """An idle connection ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close the idle connections; those in use close when they are given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()


class Connection(asyncio.Protocol):
    """One connection, for one request at a time: `begin`, `write`…, `read_head`, `read`… until it is empty, `release`.

    Attributes:
        has_heard: A byte of the answer to the present request has come.
        is_complete: The whole answer has come, and was read.
        wants_no_more: The answer has begun and says that the connection closes: the rest of the body is unwanted.
    """

    _transport: asyncio.Transport
    _parser: httptools.HttpResponseParser | None
    _head: ResponseHead | None
    _headers: Headers
    _chunks: list[bytes]
    _waiting_bytes: int
    _is_paused: bool
    _is_until_close: bool
    _reader: asyncio.Future[None] | None

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream = upstream
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._is_idle = False
        self._writable: asyncio.Future[None] | None = None
        self._reset(is_head_request=False)
        self._parser = None  # what comes before a request answers none

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The upstream closed (no `exc`) or broke it, or we closed."""
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._is_idle:
            self._upstream.drop(self)
        if exc is None and self._head is not None and self._is_until_close:
            self._has_ended = True
        self._wake_reader()
        self.resume_writing()

    def pause_writing(self) -> None:
        """The upstream does not read as fast as we send."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The upstream caught up."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        self.has_heard = True
        if self._parser is None:
            self._break()  # nobody asked
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break()
            return
        if self._head is None and self._head_bytes > MAX_HEAD_BYTES:
            self._break()
        elif self._waiting_bytes > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    # httptools

    def on_message_begin(self) -> None:
        """The first byte of a response, interim ones included."""
        if self._has_ended:
            raise ConnectionBroken  # bytes after the end
        self._headers = []
        self._lines_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or a trailer line: those are dropped."""
        self._lines_bytes += len(name) + len(value) + 4
        if self._lines_bytes > MAX_HEAD_BYTES:
            raise ConnectionBroken
        if self._head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head is complete, interim ones included."""
        parser = self._parser
        if parser is None:
            raise ConnectionBroken
        status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        codings = [value for name, value in self._headers if name == b"transfer-encoding"]
        is_chunked = bool(codings)
        if not 200 <= status <= 999 or any(
            value.strip().lower() != b"chunked" for value in codings
        ):
            raise ConnectionBroken
        self._head = ResponseHead(status, self._headers)
        self._keep_alive = parser.should_keep_alive()
        has_length = any(name == b"content-length" for name, _ in self._headers)
        if self._is_head_request or status in {204, 304}:
            # llhttp knows nothing of HEAD and would wait for a body.
            self._has_ended = True
            self._parser = None
        else:
            self._is_until_close = not is_chunked and not has_length

    def on_body(self, body: bytes) -> None:
        """A piece of the body, already a copy of its own."""
        if self._has_ended:
            raise ConnectionBroken
        self._chunks.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """A response is complete, interim ones included."""
        if self._head is not None:
            self._has_ended = True
            self._parser = None

    # the request

    def begin(self, *, is_head_request: bool) -> None:
        """Make ready for a request."""
        self._reset(is_head_request=is_head_request)

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the upstream does not read.

        Raises:
            ConnectionBroken: It is gone.
        """
        if self._is_lost:
            raise ConnectionBroken
        self._transport.write(data)
        if self._writable is not None:
            await self._writable
            if self._is_lost:
                raise ConnectionBroken

    @property
    def wants_no_more(self) -> bool:
        """See the class."""
        return self._head is not None and not self._keep_alive

    @property
    def is_complete(self) -> bool:
        """See the class."""
        return self._has_ended and not self._chunks

    # the response

    async def read_head(self) -> ResponseHead:
        """Wait for the final response's head.

        Raises:
            ConnectionBroken: It will not come.
        """
        while self._head is None:
            if self._is_lost:
                raise ConnectionBroken
            await self._wait()
        return self._head

    async def read(self) -> bytes:
        """What has come of the body, in one piece; empty at its end.

        Raises:
            ConnectionBroken: The end will not come.
        """
        while not self._chunks:
            if self._has_ended:
                return b""
            if self._is_lost:
                raise ConnectionBroken
            await self._wait()
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._waiting_bytes = 0
        if self._is_paused and not self._is_lost:
            self._is_paused = False
            self._transport.resume_reading()
        return body

    def release(self, *, request_complete: bool) -> None:
        """The exchange is over: keep the connection if it can carry another, close it otherwise."""
        if request_complete and self.is_complete and self._keep_alive and not self._is_lost:
            self._upstream.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # idle

    def sleep(self, idle_s: float) -> None:
        """Wait for the next request, for so long."""
        self._is_idle = True
        self._parser = None
        self._timer = self._loop.call_later(idle_s, self._transport.abort)

    def wake(self) -> bool:
        """Be used again; False: it is gone."""
        self._is_idle = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return not self._is_lost and not self._transport.is_closing()

    # inside

    def _reset(self, *, is_head_request: bool) -> None:
        self._is_head_request = is_head_request
        self._parser = httptools.HttpResponseParser(self)
        self._head = None
        self._head_bytes = 0
        self._chunks = []
        self._waiting_bytes = 0
        self._has_ended = False
        self._is_until_close = False
        self._keep_alive = False
        self._is_paused = False
        self._reader = None
        self.has_heard = False

    def _break(self) -> None:
        """What came is no answer: never use it again, never take it for complete."""
        self._is_lost = True
        self._transport.abort()
        self._wake_reader()

    async def _wait(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
