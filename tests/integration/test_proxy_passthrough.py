"""What goes through the proxy, byte for byte: our server, the proxy, a recording upstream, raw sockets."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import servers
from mediagate.core.errors import MediagateError
from mediagate.gateway.proxy import REPLAY_BYTES, Proxy
from mediagate.testing.upstream import SSE_HEAD, Received, RecordingUpstream
from mediagate.web.asgi import ASGIApp, Receive, Scope, Send
from mediagate.web.errors import render
from serving import PATIENCE_S, Address, RawClient, connected, serving


def behind_error_layer(proxy: Proxy) -> ASGIApp:
    """The proxy behind what the gateway has in front of it: a layer that renders errors, if it still can."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def note(message: dict[str, object]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await proxy(scope, receive, note)  # type: ignore[arg-type]
        except MediagateError as error:
            if started:
                raise
            status, headers, body = render(error)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return app


@contextlib.asynccontextmanager
async def proxied(upstream_url: str, **options: object) -> AsyncIterator[Address]:
    proxy = Proxy(upstream=upstream_url, **options)  # type: ignore[arg-type]
    await proxy.start()
    async with serving(behind_error_layer(proxy)) as address:
        yield address
    await proxy.close()


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream() as running:
        yield running


@pytest.fixture
async def client(upstream: RecordingUpstream) -> AsyncIterator[RawClient]:
    async with proxied(upstream.url) as address, connected(address) as raw:
        yield raw


def post(path: str, body: bytes, *, headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: gate\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        headers,
        len(body),
        body,
    )


def get(path: str, *, headers: bytes = b"", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: gate\r\n%b\r\n" % (method, path.encode(), headers)


def code(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


# Requests


@pytest.mark.parametrize(
    "target",
    [
        "/v1/a%2Fb/../c//d;p=1?x=%20y&x=+z&empty=&q=a/b?c",
        "/v1/%E2%82%AC%00?%ff",
        "//double",
        "/v1/{braces}|pipe",
        "/",
    ],
)
async def test_raw_path_and_query_are_sent_as_they_came(
    upstream: RecordingUpstream, client: RawClient, target: str
) -> None:
    await client.send(get(target))
    await client.answer()

    assert upstream.received[0].target == target


@pytest.mark.parametrize(("suffix", "expected"), [("", ""), ("/", ""), ("/llm", "/llm")])
async def test_client_path_is_put_behind_the_base_url(
    upstream: RecordingUpstream, suffix: str, expected: str
) -> None:
    async with proxied(upstream.url + suffix) as address, connected(address) as client:
        for path in ("/v1/models", "/health"):
            await client.send(get(path))
            await client.answer()

    assert [request.target for request in upstream.received] == [
        f"{expected}/v1/models",
        f"{expected}/health",
    ]


async def test_header_lines_keep_order_and_duplicates_and_none_is_invented(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    await client.send(get("/x", headers=b"X-A: 1\r\nX-B: 2\r\nx-a: 3\r\nCookie: s=1\r\n"))
    await client.answer()

    lines = upstream.received[0].header_lines
    host = upstream.url.removeprefix("http://")
    assert lines == [
        ("Host", host),
        ("x-a", "1"),
        ("x-b", "2"),
        ("x-a", "3"),
        ("cookie", "s=1"),
    ]
    assert upstream.received[0].raw_body == b""


async def test_hop_by_hop_headers_and_expect_are_dropped(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    hop = (
        b"Connection: keep-alive, X-Private\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Private: 1\r\n"
        b"Proxy-Authorization: x\r\nProxy-Connection: x\r\nTrailer: x\r\nExpect: 100-continue\r\nX-End: 1\r\n"
    )

    await client.send(post("/echo", b"hello", headers=hop))
    interim = await client.read_head()
    answer = await client.answer()

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.body == b"hello"
    names = [name for name, _ in upstream.received[0].header_lines]
    assert sorted(name.lower() for name in names) == ["content-length", "host", "x-end"]


async def test_forwarding_headers_of_a_proxy_before_us_are_passed_as_they_came(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    before = (
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n"
    )
    await client.send(get("/x", headers=before))
    await client.answer()

    request = upstream.received[0]
    assert request.values("x-forwarded-for") == ["10.0.0.1", "10.0.0.2"]
    assert request.values("x-forwarded-proto") == ["https"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Bearer client"]),
        ({"drop_authorization": True}, []),
        ({"authorization": "Bearer upstream"}, ["Bearer upstream"]),
    ],
)
async def test_authorization_is_passed_dropped_or_replaced(
    upstream: RecordingUpstream, options: dict[str, object], expected: list[str]
) -> None:
    async with proxied(upstream.url, **options) as address, connected(address) as client:
        await client.send(get("/x", headers=b"Authorization: Bearer client\r\n"))
        await client.answer()

    assert upstream.received[0].values("authorization") == expected


@pytest.mark.parametrize("size", [0, 1, REPLAY_BYTES, REPLAY_BYTES + 1, 3_000_000])
async def test_body_with_a_length_arrives_with_that_length(
    upstream: RecordingUpstream, client: RawClient, size: int
) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    await client.send(post("/echo", body))
    answer = await client.answer()

    assert answer.body == body
    assert upstream.received[0].values("content-length") == [str(size)]
    assert upstream.received[0].values("transfer-encoding") == []


@pytest.mark.parametrize("pieces", [[b"abc", b"d" * 70_000, b"e" * 70_000]])
async def test_long_chunked_body_arrives_chunked_without_its_trailers(
    upstream: RecordingUpstream, client: RawClient, pieces: list[bytes]
) -> None:
    framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    await client.send(
        get("/echo", method=b"POST", headers=b"Transfer-Encoding: chunked\r\n")
        + framed
        + b"0\r\nX-Trailer: 1\r\n\r\n"
    )
    answer = await client.answer()

    request = upstream.received[0]
    assert answer.body == b"".join(pieces)
    assert request.values("transfer-encoding") == ["chunked"]
    assert request.values("content-length") == []
    assert request.raw_body.endswith(b"0\r\n\r\n")
    assert b"railer" not in request.raw_body + request.head


@pytest.mark.parametrize("pieces", [[], [b"a"]])
async def test_short_chunked_body_arrives_with_a_length(
    upstream: RecordingUpstream, client: RawClient, pieces: list[bytes]
) -> None:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    chunked = get("/echo", method=b"POST", headers=b"Transfer-Encoding: chunked\r\n")

    await client.send(chunked + framed + b"0\r\n\r\n")
    answer = await client.answer()

    assert answer.body == b"".join(pieces)
    assert upstream.received[0].values("content-length") == [str(len(answer.body))]


async def test_large_body_flows_while_it_is_still_being_sent(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    half = b"x" * 100_000
    arrived = asyncio.Event()

    async def read_half(request: Received) -> None:
        await request.read_body(up_to=len(half))
        arrived.set()
        await request.read_body()
        await request.answer(str(len(request.body)).encode())

    upstream.handlers["/slow"] = read_half
    await client.send(get("/slow", method=b"POST", headers=b"Content-Length: 200000\r\n") + half)
    await asyncio.wait_for(arrived.wait(), PATIENCE_S)
    await client.send(half)
    answer = await client.answer()

    assert answer.body == b"200000"


async def test_upstream_that_does_not_read_stops_the_client(upstream: RecordingUpstream) -> None:
    go_on = asyncio.Event()

    async def wait(request: Received) -> None:
        await go_on.wait()
        await request.read_body()
        await request.answer(str(len(request.body)).encode())

    upstream.handlers["/wait"] = wait
    size = 64 * 1024 * 1024
    async with proxied(upstream.url) as address, connected(address) as client:
        client.writer.transport.set_write_buffer_limits(high=0)
        tracemalloc.start()
        await client.send(get("/wait", method=b"POST", headers=b"Content-Length: %d\r\n" % size))
        block = b"x" * 1024 * 1024
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                async with asyncio.timeout(0.5):
                    client.writer.write(block)
                    sent += len(block)
                    await client.writer.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stopped_at = sent
        go_on.set()
        while sent < size:
            await client.send(block)
            sent += len(block)
        answer = await client.answer()

    assert stopped_at < size / 2
    assert peak < 16 * 1024 * 1024
    assert answer.body == str(size).encode()


# Responses


async def test_response_header_lines_keep_order_and_duplicates_without_hop_by_hop(
    client: RawClient,
) -> None:
    await client.send(get("/duplicates"))
    answer = await client.answer()

    names = [(name, value) for name, value in answer.lines if name != "date"]
    assert names == [
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-twice", "1"),
        ("x-other", "2"),
        ("x-twice", "3"),
        ("content-length", "2"),
    ]


async def test_compressed_body_is_not_touched(client: RawClient) -> None:
    await client.send(get("/gzip"))
    answer = await client.answer()

    assert answer.values("content-encoding") == ["gzip"]
    assert gzip.decompress(answer.body) == b"packed"


async def test_redirect_is_passed_on_not_followed(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    await client.send(post("/redirect", b"x"))
    answer = await client.answer()

    assert (answer.status, answer.values("location")) == (307, ["/echo"])
    assert len(upstream.received) == 1


async def test_cookies_are_not_remembered(upstream: RecordingUpstream, client: RawClient) -> None:
    await client.send(get("/duplicates"))
    await client.answer()
    await client.send(get("/x"))
    await client.answer()

    assert upstream.received[1].values("cookie") == []


async def test_responses_without_a_body_do_not_stall_the_connection(client: RawClient) -> None:
    await client.send(get("/no-content"))
    no_content = await client.answer(has_body=False)
    await client.send(get("/not-modified"))
    not_modified = await client.answer(has_body=False)
    await client.send(get("/echo", method=b"HEAD"))
    head = await client.answer(has_body=False)
    await client.send(post("/echo", b"after"))
    after = await client.answer()

    assert (no_content.status, no_content.values("x-kind")) == (204, ["empty"])
    assert no_content.values("content-length") == no_content.values("transfer-encoding") == []
    assert (not_modified.status, not_modified.values("content-length")) == (304, ["1234"])
    assert (head.status, head.values("content-length")) == (200, ["0"])
    assert after.body == b"after"


async def test_length_that_a_head_response_declares_is_passed_on(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def answer(request: Received) -> None:
        await request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n")

    upstream.handlers["/big"] = answer
    await client.send(get("/big", method=b"HEAD"))
    head = await client.answer(has_body=False)
    await client.send(get("/x"))
    after = await client.answer()

    assert head.values("content-length") == ["77"]
    assert after.status == 404
    assert upstream.connections == 1


async def test_body_that_ends_with_the_connection_is_passed_on_whole(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def answer(request: Received) -> None:
        await request.write(b"HTTP/1.0 200 OK\r\n\r\nold ")
        await request.write(b"school")
        request.close()

    upstream.handlers["/old"] = answer
    await client.send(get("/old"))
    answered = await client.answer()

    assert answered.body == b"old school"


async def test_interim_responses_and_trailers_are_dropped(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def answer(request: Received) -> None:
        await request.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await request.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await request.write(b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")

    upstream.handlers["/hints"] = answer
    await client.send(get("/hints"))
    answered = await client.answer()

    assert (answered.status, answered.body) == (200, b"ok")
    assert answered.values("link") == answered.values("x-trailer") == []


async def test_upstream_that_stops_taking_the_body_is_504(upstream: RecordingUpstream) -> None:
    enough = asyncio.Event()

    async def take_nothing(_request: Received) -> None:
        await enough.wait()

    upstream.handlers["/stuck"] = take_nothing
    async with proxied(upstream.url, stall_timeout_s=0.3) as address, connected(address) as client:
        sending = asyncio.create_task(client.send(post("/stuck", bytes(40_000_000))))
        answer = await client.answer()
        enough.set()
        sending.cancel()

    assert (answer.status, code(answer.body)) == (504, "upstream_timeout")


async def test_each_event_of_a_stream_is_there_before_the_next_is_made(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    seen: asyncio.Queue[None] = asyncio.Queue()

    async def stream(request: Received) -> None:
        await request.write(SSE_HEAD)
        for number in range(5):
            await seen.get()
            await request.write_event(str(number))
        await request.write(b"0\r\n\r\n")

    upstream.handlers["/paced"] = stream
    await client.send(get("/paced"))
    await client.read_head()
    events = []
    for _ in range(5):
        seen.put_nowait(None)
        size = int(await client.read_until(b"\r\n"), 16)
        events.append(await client.read_exactly(size))
        await client.read_exactly(2)

    assert events == [f"data: {number}\n\n".encode() for number in range(5)]
    assert await client.read_exactly(5) == b"0\r\n\r\n"


async def test_slow_reader_of_a_stream_stops_the_upstream_and_gets_everything(
    upstream: RecordingUpstream,
) -> None:
    block = b"y" * 1024 * 1024
    blocks = 48
    written = 0

    async def flood(request: Received) -> None:
        nonlocal written
        await request.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (blocks * len(block))
        )
        for _ in range(blocks):
            await request.write(block)
            written += 1

    upstream.handlers["/flood"] = flood
    async with proxied(upstream.url) as address, connected(address, buffer_bytes=4096) as client:
        tracemalloc.start()
        await client.send(get("/flood"))
        await client.read_head()
        before = -1
        while written != before:  # until it stands still
            before = written
            await asyncio.sleep(0.2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stood_still_at = written
        received = 0
        while received < blocks * len(block):
            received += len(await asyncio.wait_for(client.reader.read(1024 * 1024), PATIENCE_S))

    assert stood_still_at < blocks / 2
    assert peak < 16 * 1024 * 1024
    assert received == blocks * len(block)


async def test_early_answer_reaches_a_client_that_is_still_sending(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    await client.send(
        get("/early", method=b"POST", headers=b"Content-Length: 50000000\r\n") + b"x" * 300_000
    )
    answer = await client.answer()

    assert (answer.status, answer.body) == (413, b"too large")
    assert answer.values("connection") == ["close"]
    await asyncio.wait_for(upstream.received[0].gone.wait(), PATIENCE_S)


async def test_early_answer_survives_a_client_that_sends_on(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    """The rest of the body is taken, not reset, for a while: so the answer can be read after it."""
    body = b"x" * 5_000_000

    await client.send(post("/early", body))
    answer = await client.answer()

    assert answer.status == 413
    assert await client.read_to_end() == b""


# The client leaves


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_client_that_leaves_while_waiting_cancels_the_upstream(
    upstream: RecordingUpstream, client: RawClient, how: str
) -> None:
    await client.send(post("/hang", b"{}"))
    request = await upstream.next_received()
    client.reset() if how == "RST" else client.finish()

    await asyncio.wait_for(request.gone.wait(), PATIENCE_S)


async def test_client_that_leaves_mid_stream_cancels_the_upstream(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def stream(request: Received) -> None:
        await request.write(SSE_HEAD)
        await request.write_event("0")
        await request.until_gone()

    upstream.handlers["/endless"] = stream
    await client.send(get("/endless"))
    await client.read_until(b"data: 0\n\n")
    client.finish()

    await asyncio.wait_for(upstream.received[0].gone.wait(), PATIENCE_S)


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_client_that_leaves_mid_body_cancels_the_upstream(
    upstream: RecordingUpstream, client: RawClient, how: str
) -> None:
    await client.send(
        get("/echo", method=b"POST", headers=b"Content-Length: 900000\r\n") + b"x" * 100_000
    )
    request = await upstream.next_received()
    client.reset() if how == "RST" else client.finish()

    await asyncio.wait_for(request.gone.wait(), PATIENCE_S)
    assert len(request.body) < 900_000


async def test_client_that_leaves_mid_small_body_never_reaches_the_upstream(
    upstream: RecordingUpstream,
) -> None:
    async with proxied(upstream.url) as address:
        async with connected(address) as client:
            await client.send(
                get("/echo", method=b"POST", headers=b"Content-Length: 9\r\n") + b"half"
            )
        async with connected(address) as client:
            await client.send(get("/x"))
            await client.answer()

    assert [request.path for request in upstream.received] == ["/x"]


# The upstream fails


async def test_refused_connection_is_502_and_the_client_may_go_on() -> None:
    with servers.reserved_port() as port:
        async with proxied(f"http://127.0.0.1:{port}") as address, connected(address) as client:
            await client.send(post("/v1/chat/completions", b"{}"))
            first = await client.answer()
            await client.send(get("/v1/models"))
            second = await client.answer()

    assert [first.status, second.status] == [502, 502]
    assert code(first.body) == "upstream_unreachable"
    assert b"127.0.0.1" not in first.body


async def test_unknown_host_is_502() -> None:
    async with proxied("http://nowhere.invalid") as address, connected(address) as client:
        await client.send(get("/v1/models"))
        answer = await client.answer()

    assert (answer.status, code(answer.body)) == (502, "upstream_unreachable")


async def test_connection_that_is_not_accepted_in_time_is_504() -> None:
    # A listener with a full backlog lets a SYN go unanswered.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
            fillers.append(filler)
        async with (
            proxied(f"http://127.0.0.1:{port}", connect_timeout_s=0.3) as address,
            connected(address) as client,
        ):
            await client.send(get("/v1/models"))
            answer = await client.answer()
        for filler in fillers:
            filler.close()

    assert (answer.status, code(answer.body)) == (504, "upstream_timeout")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nx: 1",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nbad header: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x01b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_answer_that_is_no_response_is_502(
    upstream: RecordingUpstream, client: RawClient, answer: bytes
) -> None:
    async def misbehave(request: Received) -> None:
        await request.write(answer)
        request.close()

    upstream.handlers["/odd"] = misbehave
    await client.send(get("/odd"))
    answered = await client.answer()

    assert (answered.status, code(answered.body)) == (502, "upstream_unreachable")


@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize(
    "head",
    [SSE_HEAD, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"],
    ids=["chunked", "length"],
)
async def test_answer_that_breaks_off_is_seen_to_be_broken(
    upstream: RecordingUpstream, client: RawClient, head: bytes, end: str
) -> None:
    go_on = asyncio.Event()

    async def break_off(request: Received) -> None:
        await request.write(head + (b"5\r\nstart\r\n" if head is SSE_HEAD else b"start"))
        await go_on.wait()
        request.reset() if end == "RST" else request.close()

    upstream.handlers["/broken"] = break_off
    await client.send(get("/broken"))
    head_seen = await client.read_head()
    await client.read_until(b"start")
    go_on.set()
    rest = await client.read_to_end()

    assert b" 200 " in head_seen
    assert not rest.endswith(b"0\r\n\r\n")
    assert len(rest) < 900


async def test_answer_without_framing_that_breaks_off_resets_an_old_client(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    """HTTP/1.0 has no other sign of an incomplete body."""
    go_on = asyncio.Event()

    async def break_off(request: Received) -> None:
        await request.write(SSE_HEAD + b"5\r\nstart\r\n")
        await go_on.wait()
        request.close()

    upstream.handlers["/broken"] = break_off
    await client.send(b"GET /broken HTTP/1.0\r\n\r\n")
    await client.read_until(b"start")
    go_on.set()

    with pytest.raises(ConnectionResetError):
        await client.read_to_end()


@pytest.mark.services
@pytest.mark.parametrize(("is_trusted", "status"), [(True, 200), (False, 502)])
async def test_https_upstream_is_believed_only_with_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_trusted: bool, status: int
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    openssl = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await openssl.wait() == 0
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with (
        server,
        proxied(f"https://localhost:{port}") as address,
        connected(address) as client,
    ):
        await client.send(get("/v1/models"))
        answer = await client.answer()

    assert answer.status == status


# Reuse


async def test_connection_is_reused(upstream: RecordingUpstream, client: RawClient) -> None:
    for _ in range(3):
        await client.send(post("/echo", b"x"))
        await client.answer()

    assert upstream.connections == 1


async def test_request_is_sent_again_when_a_reused_connection_dies_before_any_byte(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    bodies = []
    for number in range(2):
        await client.send(post("/die-when-reused", b"body %d" % number))
        bodies.append((await client.answer()).body)

    assert bodies == [b"first", b"first"]
    assert [(r.connection, r.nth, r.body) for r in upstream.received] == [
        (0, 0, b"body 0"),
        (0, 1, b"body 1"),
        (1, 0, b"body 1"),
    ]


async def test_request_is_not_sent_again_on_a_new_connection(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def die(request: Received) -> None:
        await request.read_body()
        request.close()

    upstream.handlers["/die"] = die
    await client.send(post("/die", b"x"))
    answer = await client.answer()

    assert answer.status == 502
    assert len(upstream.received) == 1


async def test_request_is_not_sent_again_once_a_byte_of_the_answer_has_come(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def begin_and_die(request: Received) -> None:
        await request.read_body()
        if request.nth:
            await request.write(b"H")
            request.close()
        else:
            await request.answer(b"ok")

    upstream.handlers["/begin"] = begin_and_die
    statuses = []
    for _ in range(2):
        await client.send(post("/begin", b"x"))
        statuses.append((await client.answer()).status)

    assert statuses == [200, 502]
    assert len(upstream.received) == 2


async def test_large_body_goes_over_a_new_connection(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    for size in (1, REPLAY_BYTES, REPLAY_BYTES + 1):
        await client.send(post("/echo", b"x" * size))
        await client.answer()

    assert [request.connection for request in upstream.received] == [0, 0, 1]


async def test_bytes_after_an_answer_poison_the_connection_not_the_next_answer(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    async def answer_twice(request: Received) -> None:
        await request.read_body()
        forged = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
        await request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + forged)

    upstream.handlers["/twice"] = answer_twice
    await client.send(get("/twice"))
    first = await client.answer()
    await client.send(post("/echo", b"mine"))
    second = await client.answer()

    assert (first.body, second.body) == (b"ok", b"mine")
    assert upstream.connections == 2


# WebSocket


async def test_websocket_upgrade_is_a_clear_501(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    await client.send(get("/v1/realtime", headers=upgrade))
    answer = await client.answer()

    assert (answer.status, code(answer.body)) == (501, "not_supported")
    assert upstream.received == []


async def test_offer_of_http2_is_ignored_and_the_request_answered(
    upstream: RecordingUpstream, client: RawClient
) -> None:
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    )
    await client.send(post("/echo", b"hello", headers=offer))
    answer = await client.answer()

    assert answer.body == b"hello"
    assert (
        upstream.received[0].values("upgrade")
        == upstream.received[0].values("http2-settings")
        == []
    )


async def test_curl_sees_what_the_upstream_sent(upstream: RecordingUpstream) -> None:
    async with proxied(upstream.url) as address:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-N", "--data-binary", "hello", address.url + "/echo",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(curl.communicate(), PATIENCE_S)

    assert output == b"hello"
    assert upstream.received[0].values("user-agent")[0].startswith("curl/")
