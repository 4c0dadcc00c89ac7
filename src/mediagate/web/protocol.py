"""One HTTP/1.1 connection: httptools parses, ASGI events come out. It takes the place of uvicorn's protocol class.

Why our own: uvicorn's copies every body byte twice more (five times the CPU per GiB, measured), knows no limit on the
time and size of a request's head, answers bad framing with plain text, and closes while the client still sends, so
that the client reads a reset instead of the answer. Two rules hold it together:

1. **Framing is judged before the application runs**: see `framing`.
2. **Memory per connection is bounded**: reading stops at `HIGH_WATER_BYTES` of body that nobody has taken, and while
   a pipelined request waits, of which there are few; `send` waits while the client does not read.

A client that half-closes its connection (FIN) has left: the application sees `http.disconnect`.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import urllib.parse
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httptools

from mediagate.core.errors import (
    HeadersTooLarge,
    MalformedBody,
    MediagateError,
    ReceiveTimeout,
)
from mediagate.observe.request import REQUEST_ID, new_request_id
from mediagate.web.asgi import LINGERS, ASGIApp, Headers, header_values
from mediagate.web.edge import DRAIN_BYTES, DRAIN_S
from mediagate.web.errors import render
from mediagate.web.exchange import Exchange, serialise_head
from mediagate.web.framing import Refused, body_parser, check_framing, has_body, split_target

logger = logging.getLogger(__name__)

HIGH_WATER_BYTES = 64 * 1024
"""One read of a fast client exceeds it, so that one chunk waits while another is worked on; more was no faster."""

MAX_WAITING_REQUESTS = 64
"""Pipelined requests per connection: one read may hold thousands."""

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one connection may cost before an application sees a request.

    Attributes:
        max_head_bytes: Of the request line and the header lines together, and again of the trailers.
        head_timeout_s: From the first byte of a request (or from the connection's start) to the end of its head.
        keep_alive_s: Longest silence between two requests.
        linger_bytes: How much of an unread body is taken after an early answer, before the connection closes.
        linger_s: For how long.
        linger_pause_s: How long none of it is taken before that. nginx looks for an answer only when it finds no room
            to send: kept busy until we close, it would answer 502 in our place.
        unread_s: How long a client may leave what we send unread; some hundred KiB wait for it by then.
    """

    max_head_bytes: int = 64 * 1024
    head_timeout_s: float = 15.0
    keep_alive_s: float = 75.0
    linger_bytes: int = DRAIN_BYTES
    linger_s: float = DRAIN_S
    linger_pause_s: float = 0.1
    unread_s: float = 60.0


class ServerState(Protocol):
    """What uvicorn's server shares with its connections."""

    total_requests: int
    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    default_headers: Headers


class HttpProtocol(asyncio.Protocol):
    """A connection. Parses heads and bodies, runs the requests one after the other, and ends in an orderly way."""

    _transport: asyncio.Transport

    def __init__(
        self,
        *,
        app: ASGIApp,
        state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        limits: EdgeLimits,
    ) -> None:
        self._app = app
        self._app_state = app_state
        self._loop = loop
        self._limits = limits
        self._state = state
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._is_reading = True
        # The request whose head is being parsed.
        self._in_head = False
        self._url = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._has_progress = False
        self._unfinished_bytes = 0  # since the last progress
        # The requests: one is answered, the last may still be arriving, pipelined ones wait.
        self._answering: Exchange | None = None
        self._arriving: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        # The end: nothing more is parsed, an error is still to be told, bytes are only counted.
        self._is_deaf = False
        self._is_body_passed_over = False
        self._refusal: MediagateError | None = None
        self._linger_left: int | None = None
        self._is_pausing = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        self._server = _address(transport.get_extra_info("sockname"))
        self._client = _address(transport.get_extra_info("peername"))
        self._set_timer(self._limits.head_timeout_s, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed."""
        self._forget_unread()
        self._state.connections.discard(self)
        self._cancel_timer()
        self._is_deaf = True
        self._waiting.clear()
        if self._answering is not None:
            self._answering.lose_client()
        self.writable.set()

    def pause_writing(self) -> None:
        """The client does not read as fast as we send."""
        self.writable.clear()
        self._unread_timer = self._loop.call_later(self._limits.unread_s, self.abort)

    def resume_writing(self) -> None:
        """The client caught up."""
        self.writable.set()
        self._forget_unread()

    def _forget_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_deaf:
            self._discard(len(data))
            return
        self._has_progress = False
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._on_bad_request(error)
        else:
            if not self._has_progress:
                # The parser keeps an unfinished line to itself, of the head or the trailers: it may not grow for ever.
                self._unfinished_bytes += len(data)
                if self._unfinished_bytes > self._limits.max_head_bytes:
                    self._refuse(_head_too_large(self._limits))

    # httptools

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head = True
        self._url = b""
        self._headers = []
        self._head_bytes = 0
        self._note_progress()
        if self._answering is None:
            self._set_timer(self._limits.head_timeout_s, self._on_head_timeout)

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or a trailer line: those are dropped."""
        self._count_head(len(name) + len(value) + 4)
        if self._in_head:
            # The parser leaves blanks at the end, which are none of the value (RFC 9112 §5.1).
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is complete: a request begins."""
        if len(self._waiting) >= MAX_WAITING_REQUESTS:
            raise Refused(MalformedBody("Too many requests were sent before an answer was read."))
        self._in_head = False
        self._head_bytes = 0  # from here on it counts trailers
        self._cancel_timer()
        version = self._parser.get_http_version()
        raw_path, query = split_target(self._url)
        check_framing(self._headers, version=version)
        expects = [value.strip().lower() for value in header_values(self._headers, b"expect")]
        self._is_body_passed_over = self._parser.should_upgrade() and has_body(self._headers)
        path = raw_path.decode("ascii")
        exchange = Exchange(
            scope={
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": version,
                "method": self._parser.get_method().decode("ascii"),
                "scheme": "http",
                "path": urllib.parse.unquote(path) if "%" in path else path,
                "raw_path": raw_path,
                "query_string": query,
                "root_path": "",
                "headers": self._headers,
                "server": self._server,
                "client": self._client,
                "state": self._app_state.copy(),
                "extensions": {LINGERS: {}},
            },
            connection=self,
            keep_alive=version == "1.1" and self._parser.should_keep_alive(),
            expects_continue=expects[-1:] == [b"100-continue"] and version == "1.1",
        )
        self._arriving = exchange
        if self._answering is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, already a copy of its own."""
        self._note_progress()
        if self._arriving is not None:
            self._arriving.feed(body)
        self.adjust_reading()

    def on_message_complete(self) -> None:
        """The request is complete; not so if its body was passed over, see `_parse`."""
        self._note_progress()
        if self._arriving is not None and not self._is_body_passed_over:
            self._arriving.feed_eof()
        self.adjust_reading()

    # uvicorn

    def shutdown(self) -> None:
        """Take no further request; close as soon as the one in progress is answered."""
        self._is_deaf = self._is_deaf or self._arriving is None or self._arriving.request_complete
        self._waiting.clear()
        if self._answering is None:
            self._transport.close()
        else:
            self._answering.keep_alive = False

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    # mediagate.web.exchange.Connection

    @property
    def is_open(self) -> bool:
        """Whether there is somebody to write to."""
        return not self._transport.is_closing()

    @property
    def default_headers(self) -> Headers:
        """Those that a response gets unless it has its own: the date."""
        return self._state.default_headers

    def write(self, data: bytes) -> None:
        """Queue bytes for the client; never waits."""
        self._transport.write(data)

    def adjust_reading(self) -> None:
        """Stop or resume reading: the one rule for it."""
        answering = self._answering
        wants = not self._waiting and self._refusal is None and not self._is_pausing
        if wants and answering is not None and not answering.response_complete:
            wants = answering.waiting_bytes <= HIGH_WATER_BYTES
        if self._is_reading != wants and not self._transport.is_closing():
            self._is_reading = wants
            if wants:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def response_done(self, exchange: "Exchange") -> None:
        """The whole response was written: close, linger, or go on with the next request."""
        self._state.total_requests += 1
        self._answering = None
        if self._transport.is_closing():
            return
        if not exchange.keep_alive:
            if exchange.request_complete:
                self._transport.close()
            else:
                self._linger()
        elif self._waiting:
            self._start(self._waiting.popleft())
            self.adjust_reading()
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        else:
            if self._in_head:
                self._set_timer(self._limits.head_timeout_s, self._on_head_timeout)
            else:
                self._set_timer(self._limits.keep_alive_s, self._transport.close)
            self.adjust_reading()

    def break_off(self, *, is_delimited: bool) -> None:
        """End a response that cannot be completed, so that the client does not take it for complete.

        Args:
            is_delimited: The client knows by Content-Length or chunks that something is missing. If it does not, only a
                reset tells it.
        """
        if is_delimited:
            self._transport.close()
            return
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # inside

    def _parse(self, data: bytes) -> None:
        """Feed the parser; an offer to change the protocol is ignored (RFC 9110 §7.8).

        httptools passes over the body of a request that makes such an offer (`Upgrade: h2c`, which Java's client adds
        to every request). It is parsed by a second parser, which is told of the framing only.
        """
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                if self._is_body_passed_over and self._arriving is not None:
                    self._is_body_passed_over = False
                    self._arriving.keep_alive = False  # what follows the body is nobody's
                    self._parser = body_parser(
                        self._arriving.scope["headers"],
                        on_body=self.on_body,
                        on_message_complete=self.on_message_complete,
                    )
            else:
                return

    def _note_progress(self) -> None:
        self._has_progress = True
        self._unfinished_bytes = 0

    def _start(self, exchange: "Exchange") -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_head_bytes:
            raise Refused(_head_too_large(self._limits))

    def _on_bad_request(self, error: httptools.HttpParserError) -> None:
        """The parser refused, or one of our callbacks did: then its exception is the context of the parser's."""
        answering = self._arriving
        if answering is not None and answering.request_complete and not answering.keep_alive:
            self._stop_after_this()  # bytes after the last request: nobody reads them
            return
        cause = error.__context__
        if isinstance(cause, Refused):
            self._refuse(cause.error)
        else:
            self._refuse(MalformedBody("This is no valid HTTP request."))

    def _stop_after_this(self) -> None:
        self._is_deaf = True
        if self._arriving is not None:
            self._arriving.keep_alive = False

    def _refuse(self, error: MediagateError) -> None:
        """Answer what came last with `error`, after what came before it, and close."""
        self._is_deaf = True
        self._cancel_timer()
        answering = self._answering
        if answering is None:
            self._answer_refusal(error)
        elif answering is self._arriving and not answering.request_complete:
            # The body in flight is broken: its application reads a disconnect, its client the reason, if it still can.
            had_started = answering.response_started
            answering.lose_client()
            self._answering = None
            if had_started:
                self._transport.close()
            else:
                self._answer_refusal(error)
        else:
            if (
                self._waiting
                and self._waiting[-1] is self._arriving
                and not self._arriving.request_complete
            ):
                self._waiting.pop()
            self._refusal = error
            self.adjust_reading()

    def _answer_refusal(self, error: MediagateError) -> None:
        status, headers, body = render(error)
        request_id = new_request_id()
        logger.info("refused what is no request: %d %s id=%s", status, error.code, request_id)
        headers += [
            *self._state.default_headers,
            (REQUEST_ID, request_id.encode()),
            (b"connection", b"close"),
        ]
        head = serialise_head(status, headers)
        self._transport.write(head + body)
        self._refusal = None
        self._linger()

    def _linger(self) -> None:
        """Let the client read the answer: a close with unread bytes would be a reset that destroys it."""
        self._is_deaf = True
        self._is_pausing = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_timer(self._limits.linger_pause_s, self._take_the_rest)
        self.adjust_reading()

    def _take_the_rest(self) -> None:
        self._is_pausing = False
        self._linger_left = self._limits.linger_bytes
        self._set_timer(self._limits.linger_s, self._transport.close)
        self.adjust_reading()

    def _discard(self, size: int) -> None:
        if self._linger_left is not None:
            self._linger_left -= size
            if self._linger_left < 0:
                self._transport.close()

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(ReceiveTimeout("The request's head did not arrive in time."))
        else:
            self._transport.close()

    def _set_timer(self, delay_s: float, callback: Any) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(delay_s, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _head_too_large(limits: EdgeLimits) -> HeadersTooLarge:
    return HeadersTooLarge(
        f"The request line and the headers are larger than {limits.max_head_bytes} bytes."
    )


def _address(name: Any) -> tuple[str, int] | None:
    """ASGI's (host, port) of a socket name."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
