"""The connection without a network: bytes go in by hand, at any split, and come out of a transport in memory."""

import asyncio
import json
import random
import re
from typing import Any

import pytest

from mediagate.web.asgi import Message, Receive, Scope, Send
from mediagate.web.protocol import MAX_WAITING_REQUESTS, EdgeLimits, HttpProtocol


class State:
    """What uvicorn's server shares with its connections."""

    def __init__(self) -> None:
        self.total_requests = 0
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.default_headers = [(b"date", b"today")]


class MemoryTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.2", 5)})
        self.written = b""
        self.has_eof = False
        self.is_closed = False
        self.is_reading_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.has_eof
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class Recorder:
    """An application that reads each request whole, notes it and answers with its body."""

    def __init__(self) -> None:
        self.seen: list[tuple[Scope, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.seen.append((scope, body))
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


class Wire:
    """One connection."""

    def __init__(self, app: Any, *, limits: EdgeLimits | None = None) -> None:
        self.transport = MemoryTransport()
        self.state = State()
        self.protocol = HttpProtocol(
            app=app,
            state=self.state,
            app_state={"from": "lifespan"},
            loop=asyncio.get_running_loop(),
            limits=limits or EdgeLimits(),
        )
        self.protocol.connection_made(self.transport)

    async def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.transport.is_closed:
                self.protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)

    def close(self) -> None:
        self.protocol.connection_lost(None)

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/1.1 (\d+) ", self.transport.written)]

    @property
    def last_code(self) -> str:
        return str(json.loads(self.transport.written.rpartition(b"\r\n\r\n")[2])["error"]["code"])


REQUESTS = (
    b"POST /a%20b?x=%20 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 11\r\n\r\nhello world"
    b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
    b"PUT /chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    b"POST /offer HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
)


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    cuts = sorted(rng.sample(range(1, len(data)), rng.randrange(0, 40)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(60))
async def test_every_split_of_the_bytes_gives_the_same_requests(seed: int) -> None:
    rng = random.Random(seed)
    app = Recorder()
    wire = Wire(app)

    await wire.feed(*pieces(REQUESTS, rng))
    wire.close()

    assert [
        (scope["method"], scope["path"], scope["raw_path"], body) for scope, body in app.seen
    ] == [
        ("POST", "/a b", b"/a%20b", b"hello world"),
        ("GET", "/nothing", b"/nothing", b""),
        ("PUT", "/chunks", b"/chunks", b"hello world"),
        ("POST", "/offer", b"/offer", b"hello"),
    ]
    assert wire.statuses == [200] * 4


async def test_scope_says_what_came_and_from_where() -> None:
    app = Recorder()
    wire = Wire(app)

    await wire.feed(REQUESTS[:110])
    wire.close()

    scope, _ = app.seen[0]
    assert scope["headers"] == [
        (b"host", b"h"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"content-length", b"11"),
    ]
    assert scope["query_string"] == b"x=%20"
    assert (scope["client"], scope["server"]) == (("127.0.0.2", 5), ("127.0.0.1", 80))
    assert (scope["http_version"], scope["scheme"], scope["root_path"]) == ("1.1", "http", "")
    assert scope["state"] == {"from": "lifespan"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/3.1\r\nHost: h\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_bad_framing_is_answered_in_json_and_the_connection_ends(
    request_bytes: bytes,
) -> None:
    app = Recorder()
    wire = Wire(app)

    await wire.feed(request_bytes, REQUESTS)
    wire.close()

    assert wire.statuses == [400]
    assert wire.last_code == "malformed_body"
    assert b"\r\nconnection: close\r\n" in wire.transport.written
    assert wire.transport.has_eof
    assert app.seen == []


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"xchunked", b"identity"])
async def test_other_transfer_codings_are_not_supported(coding: bytes) -> None:
    app = Recorder()
    wire = Wire(app)

    await wire.feed(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
    )
    wire.close()

    assert wire.statuses in ([501], [400])
    assert app.seen == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 200_000,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A" * 1_000_000,
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
        + b"a" * 1_000_000,
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: a\r\n" * 200_000,
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000,
    ],
    ids=["target", "one line", "many lines", "name", "trailer", "trailers", "chunk extension"],
)
@pytest.mark.parametrize("piece_bytes", [1000, 65_536, 2_000_000])
async def test_head_above_the_limit_is_431(head: bytes, piece_bytes: int) -> None:
    app = Recorder()
    wire = Wire(app)
    fed = 0

    for at in range(0, len(head), piece_bytes):
        if wire.transport.has_eof:
            break
        await wire.feed(head[at : at + piece_bytes])
        fed += piece_bytes
    if piece_bytes > len(head):
        await wire.feed(b"x" * 100_000)  # a line that began in a piece is counted from the next one
    wire.close()

    assert wire.statuses == [431]
    assert wire.last_code == "headers_too_large"
    assert fed <= 65_536 + 2 * piece_bytes
    assert app.seen == []


async def test_head_within_the_limit_passes_at_any_size_of_piece() -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"a" * 30_000, b"b" * 30_000)
    app = Recorder()
    wire = Wire(app)

    await wire.feed(head, *(head[at : at + 100] for at in range(0, len(head), 100)))
    wire.close()

    assert wire.statuses == [200, 200]


async def test_body_bytes_do_not_count_as_head() -> None:
    app = Recorder()
    wire = Wire(app)
    body = b"x" * 500_000
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    await wire.feed(request + request[:60], request[60:])
    wire.close()

    assert wire.statuses == [200, 200]


async def test_second_request_that_is_bad_is_refused_after_the_first_answer() -> None:
    go_on = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first"})

    wire = Wire(wait)

    await wire.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nBAD\r\n\r\n")
    before = wire.statuses
    go_on.set()
    await wire.feed()
    wire.close()

    assert before == []
    assert wire.statuses == [200, 400]


async def test_flood_of_pipelined_requests_is_cut_off_after_the_first_ones() -> None:
    app = Recorder()
    wire = Wire(app)

    await wire.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 9000)
    for _ in range(5 * MAX_WAITING_REQUESTS):
        await asyncio.sleep(0)
    wire.close()

    assert wire.statuses == [200] * (MAX_WAITING_REQUESTS + 1) + [400]
    assert len(app.seen) == MAX_WAITING_REQUESTS + 1


async def test_broken_body_is_a_disconnect_for_the_application_and_a_400_for_the_client() -> None:
    messages: list[Message] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                return

    wire = Wire(note)

    await wire.feed(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"zz\r\n"
    )
    wire.close()

    assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]
    assert wire.statuses == [400]


async def test_response_is_framed_as_the_request_allows() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": int(scope["path"][1:]), "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    seen = {}
    for request in (
        b"GET /200 HTTP/1.1",
        b"GET /200 HTTP/1.0",
        b"HEAD /200 HTTP/1.1",
        b"GET /204 HTTP/1.1",
        b"GET /304 HTTP/1.1",
    ):
        wire = Wire(stream)
        await wire.feed(request + b"\r\nHost: h\r\n\r\n")
        seen[request] = (
            b"transfer-encoding: chunked" in wire.transport.written,
            wire.transport.is_closed,
        )
        wire.close()

    assert seen == {
        b"GET /200 HTTP/1.1": (True, False),
        b"GET /200 HTTP/1.0": (False, True),
        b"HEAD /200 HTTP/1.1": (False, False),
        b"GET /204 HTTP/1.1": (False, False),
        b"GET /304 HTTP/1.1": (False, False),
    }


@pytest.mark.parametrize(
    "header", [(b"x y", b"1"), (b"x", b"a\r\nset-cookie: b"), (b"x", b"a\x00")]
)
async def test_header_that_would_split_the_response_is_a_500(header: tuple[bytes, bytes]) -> None:
    async def split(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    wire = Wire(split)

    await wire.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    wire.close()

    assert wire.statuses == [500]
    assert b"set-cookie" not in wire.transport.written


@pytest.mark.parametrize("body", [b"four", b"toolong"])
async def test_body_that_breaks_its_declared_length_breaks_the_connection(body: bytes) -> None:
    async def misdeclare(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    wire = Wire(misdeclare)

    await wire.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    wire.close()

    assert wire.transport.is_closed
    assert len(wire.transport.written.partition(b"\r\n\r\n")[2]) < 5


async def test_failed_application_is_a_500_that_quotes_nothing() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    wire = Wire(fail)

    await wire.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    wire.close()

    assert wire.statuses == [500]
    assert wire.last_code == "internal_error"
    assert b"secret" not in wire.transport.written


async def test_reading_stops_while_nobody_takes_the_body() -> None:
    go_on = asyncio.Event()
    sizes = []

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        sizes.append(len((await receive())["body"]))
        await receive()  # the rest, which never comes

    wire = Wire(wait)

    await wire.feed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 60_000)
    paused_below = wire.transport.is_reading_paused
    await wire.feed(b"x" * 60_000)
    paused_above = wire.transport.is_reading_paused
    go_on.set()
    await wire.feed()
    paused_after = wire.transport.is_reading_paused
    wire.close()

    assert (paused_below, paused_above, paused_after) == (False, True, False)
    assert sizes == [120_000]


async def test_blanks_around_a_header_value_are_none_of_it() -> None:
    """RFC 9112 §5.1: a client library that writes values on refuses what ends in one."""
    app = Recorder()
    wire = Wire(app)

    await wire.feed(b"POST / HTTP/1.1\r\nHost:\t x \t\r\nContent-Length: 2 \r\n\r\nab")

    ((scope, body),) = app.seen
    assert scope["headers"] == [(b"host", b"x"), (b"content-length", b"2")]
    assert body == b"ab"
