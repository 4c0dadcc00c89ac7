"""One request and its response, as an ASGI application sees them."""

import asyncio
import http
import logging
import re
from typing import Protocol

from mediagate.core.errors import MediagateError
from mediagate.web.asgi import (
    BAD_IN_HEADER_VALUE,
    ASGIApp,
    ClientGone,
    HeaderList,
    Headers,
    Message,
    Scope,
)
from mediagate.web.edge import ResponseBroken
from mediagate.web.errors import render, translate

_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_WORTH_JOINING_BYTES = 16 * 1024
_NO_BODY = frozenset({204, 304})

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What an exchange needs of the connection that carries it.

    Attributes:
        writable: Set while the client keeps up with reading.
    """

    writable: asyncio.Event

    @property
    def is_open(self) -> bool:
        """Whether there is somebody to write to."""

    @property
    def default_headers(self) -> Headers:
        """Those that a response gets unless it has its own: the date."""

    def write(self, data: bytes) -> None:
        """Queue bytes for the client; never waits."""

    def adjust_reading(self) -> None:
        """The application took bytes: resume reading if there is room."""

    def response_done(self, exchange: "Exchange") -> None:
        """The whole response was written."""

    def break_off(self, *, is_delimited: bool) -> None:
        """The response cannot be completed: show the client that it is not."""

    def abort(self) -> None:
        """Drop the connection."""


class Exchange:
    """One request and its response, as ASGI sees them.

    Attributes:
        request_complete: The whole request has arrived.
        response_started: The head of the response was written.
        response_complete: All of it was written.
        keep_alive: The connection may carry another request.
        waiting_bytes: Body that has arrived and was not yet received by the application.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_expects_continue",
        "_head",
        "_is_chunked",
        "_is_gone",
        "_left",
        "_news",
        "keep_alive",
        "request_complete",
        "response_complete",
        "response_started",
        "scope",
        "waiting_bytes",
    )

    def __init__(
        self, *, scope: Scope, connection: Connection, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.request_complete = False
        self.response_started = False
        self.response_complete = False
        self.waiting_bytes = 0
        self._connection = connection
        self._expects_continue = expects_continue
        self._chunks: list[bytes] = []
        self._news = asyncio.Event()
        self._is_gone = False
        self._is_chunked = False
        # Held back for one turn of the loop: mostly its body follows, and one write carries both.
        self._head = b""
        # Of the declared length; None: the end is told by chunks or by the close.
        self._left: int | None = None

    async def run(self, app: ASGIApp) -> None:
        """Run the application to its end, whatever end that is."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.response_complete:
                self._connection.abort()
            raise
        except ClientGone:
            if not self._is_gone:
                self._connection.abort()
        except Exception as error:
            await self._fail(error)
        else:
            if not self._is_gone and not self.response_complete:
                await self._fail(
                    RuntimeError("The application returned before its response was complete.")
                )

    async def receive(self) -> Message:
        """ASGI `receive`: what has arrived, in one piece; `http.disconnect` once there is nobody left to answer."""
        if self._expects_continue and not self.response_started and self._connection.is_open:
            self._expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._is_gone and not self.response_complete:
            await self._news.wait()
            self._news.clear()
        if self._is_gone or self.response_complete:
            self._news.set()
            return {"type": "http.disconnect"}
        chunks = self._chunks
        # One chunk is handed on as it is, without a copy; many small ones are worth joining.
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self.waiting_bytes = 0
        self._connection.adjust_reading()
        return {"type": "http.request", "body": body, "more_body": not self.request_complete}

    async def send(self, message: Message) -> None:
        """ASGI `send`; waits while the client does not read.

        Raises:
            ClientGone: It left: whatever the application is about to read or compute for it is in vain.
            RuntimeError: The message does not follow the ASGI protocol, or the declared length.
        """
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        if self._is_gone:
            raise ClientGone
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._send_head(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} does not follow from what was sent before.")

    def feed(self, body: bytes) -> None:
        """A piece of the request's body arrived."""
        if not self.request_complete and not self.response_complete and not self._is_gone:
            self._chunks.append(body)
            self.waiting_bytes += len(body)
            self._news.set()

    def feed_eof(self) -> None:
        """The request is complete."""
        self.request_complete = True
        self._news.set()

    def lose_client(self) -> None:
        """There is nobody left to answer."""
        self._is_gone = True
        self._chunks.clear()
        self._news.set()

    def _send_head(self, status: int, headers: HeaderList) -> None:
        lines: Headers = []
        length: int | None = None
        has_date = False
        for name, value in headers:
            key = name.lower()
            if key == b"content-length":
                length = int(value)
                if status == 204:
                    continue  # RFC 9110 §8.6
            elif key == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif key == b"transfer-encoding":
                continue  # the framing is ours
            has_date = has_date or key == b"date"
            lines.append((key, value))
        if not has_date:
            lines += self._connection.default_headers
        self._choose_framing(status, length)
        if self._is_chunked:
            lines.append((b"transfer-encoding", b"chunked"))
        # A body that is still coming would have to be read to its end before the next request.
        self.keep_alive = self.keep_alive and self.request_complete
        if not self.keep_alive:
            lines.append((b"connection", b"close"))
        self._head = serialise_head(status, lines)
        self.response_started = True
        asyncio.get_running_loop().call_soon(self._flush_head)

    def _choose_framing(self, status: int, length: int | None) -> None:
        """How the client learns where the body ends: RFC 9112 §6.3."""
        self._is_chunked = False
        if self.scope["method"] == "HEAD" or status in _NO_BODY:
            self._left = 0
        elif length is not None:
            self._left = length
        elif self.scope["http_version"] == "1.1":
            self._is_chunked = True
        else:
            self.keep_alive = False

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._is_chunked:
            self._write_chunk(body, more=more)
        elif self.scope["method"] != "HEAD":
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left > 0 and not more):
                    raise RuntimeError(
                        "The response's body is not as long as its Content-Length says."
                    )
            self._write(body)
        if not more:
            self._flush_head()
            self.response_complete = True
            self._news.set()
            self._connection.response_done(self)

    def _write_chunk(self, body: bytes, *, more: bool) -> None:
        if body:
            end = b"\r\n" if more else b"\r\n0\r\n\r\n"
            self._write(b"%x\r\n%b%b" % (len(body), body, end))
        elif not more:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._head and len(data) <= _WORTH_JOINING_BYTES:
            data, self._head = self._head + data, b""
        self._flush_head()
        if data:
            self._connection.write(data)

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._is_gone:
            self._connection.write(head)

    async def _fail(self, error: Exception) -> None:
        if not isinstance(error, MediagateError | ResponseBroken):
            logger.error("A request failed", exc_info=error)
        if self._is_gone or self.response_complete:
            return
        if self.response_started:
            self._flush_head()
            self._connection.break_off(is_delimited=self._is_chunked or self._left is not None)
            return
        status, headers, body = render(translate(error))
        self._send_head(status, headers)
        self._send_body(body, more=False)


def serialise_head(status: int, headers: Headers) -> bytes:
    """The status line and the header lines.

    Raises:
        RuntimeError: A header would split the response.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or BAD_IN_HEADER_VALUE.search(value):
            raise RuntimeError("A response header holds characters that no header may hold.")
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in http.HTTPStatus
}
