"""The outermost layer: errors become answers, early answers are followed by a bounded drain, each request is told."""

import asyncio
import json
from typing import Any

import pytest

from mediagate.core.errors import EmptyFile, FileTooLarge
from mediagate.observe.logs import Access
from mediagate.web.asgi import LINGERS, ASGIApp, ClientGone, Message, Receive, Scope, Send
from mediagate.web.edge import DRAIN_BYTES, Edge, ResponseBroken

OK: list[Message] = [
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"hello"},
]


class Connection:
    """A client that has sent `chunks`, after which it sends nothing more, or leaves."""

    def __init__(self, *chunks: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.chunks = list(chunks)
        self.headers = headers or []
        self.sent: list[Message] = []
        self.received = 0
        self.accesses: list[Access] = []

    async def receive(self) -> Message:
        if not self.chunks:
            return {"type": "http.disconnect"}
        self.received += 1
        chunk = self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: ASGIApp, *, method: str = "POST", **scope: Any) -> None:
        base = {
            "type": "http",
            "method": method,
            "raw_path": b"/v1/files",
            "headers": self.headers,
        }
        edge = Edge(app, on_access=self.accesses.append)
        await edge(base | scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.sent[0]["headers"]


def answering(messages: list[Message] | None = None) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages or OK:
            await send(message)

    return app


def raising(error: Exception, *, after: int = 0) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in OK[:after]:
            await send(message)
        raise error

    return app


LENGTH = [(b"content-length", b"100")]


async def test_error_of_ours_becomes_its_answer() -> None:
    """H92."""
    connection = Connection()

    await connection.run(raising(FileTooLarge("too large", param="file")))

    assert connection.status == 413
    assert json.loads(connection.body) == {
        "error": {
            "message": "too large",
            "type": "invalid_request_error",
            "param": "file",
            "code": "file_too_large",
        }
    }


async def test_error_of_others_is_a_500_that_quotes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = Connection()

    await connection.run(raising(RuntimeError("secret of a library")))

    assert connection.status == 500
    assert b"secret" not in connection.body
    assert "secret of a library" in caplog.text


async def test_error_after_half_an_answer_breaks_the_connection() -> None:
    """H52: never a second status line, never a 200 that looks complete."""
    connection = Connection()

    with pytest.raises(ResponseBroken):
        await connection.run(raising(EmptyFile("x"), after=1))

    assert len(connection.sent) == 1


async def test_answer_to_head_has_no_body_even_when_it_is_an_error() -> None:
    """H46."""
    connection = Connection()

    await connection.run(raising(EmptyFile("x")), method="HEAD")

    assert connection.status == 400
    assert connection.body == b""


async def test_client_that_left_gets_no_answer_and_is_told_as_499() -> None:
    connection = Connection()

    await connection.run(raising(ClientGone()))

    assert connection.sent == []
    assert [access.status for access in connection.accesses] == [499]


async def test_early_answer_is_whole_before_the_rest_is_drained() -> None:
    """H8, H12: the answer first, then the body, then the end of the connection."""
    connection = Connection(b"a", b"b", b"c", headers=LENGTH)
    whole_after: list[int] = []
    send = connection.send

    async def watch(message: Message) -> None:
        await send(message)
        if connection.body == b"hello" and not whole_after:
            whole_after.append(connection.received)

    connection.send = watch  # type: ignore[method-assign]  # to look at the order

    await connection.run(answering())

    assert whole_after == [0]
    assert connection.received == 3
    assert connection.closes
    assert connection.sent[-1].get("more_body", False) is False


async def test_drain_is_bounded_in_bytes() -> None:
    piece = bytes(1024 * 1024)
    connection = Connection(*[piece] * 20, headers=LENGTH)

    await connection.run(answering())

    assert connection.received == DRAIN_BYTES // len(piece)


async def test_drain_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediagate.web.edge.DRAIN_S", 0.02)
    connection = Connection(headers=LENGTH)

    async def stall() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    connection.receive = stall  # type: ignore[method-assign]  # a client that sends nothing

    await asyncio.wait_for(connection.run(answering()), 5)

    assert connection.body == b"hello"


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"0")], [*LENGTH, (b"expect", b"100-Continue")]]
)
async def test_nothing_is_drained_where_nothing_comes(headers: list[tuple[bytes, bytes]]) -> None:
    """H10: a client that waits for `100 Continue` sends nothing."""
    connection = Connection(b"a", headers=headers)

    await connection.run(answering())

    assert connection.received == 0


async def test_nothing_is_drained_where_the_server_does_it() -> None:
    connection = Connection(b"a", headers=LENGTH)

    await connection.run(answering(), extensions={LINGERS: {}})

    assert connection.received == 0
    assert connection.closes


async def test_send_that_fails_is_a_client_that_left() -> None:
    """ASGI HTTP 2.4: servers raise an `OSError` then; it is no fault of ours to be logged."""
    connection = Connection()

    async def fail(message: Message) -> None:
        raise OSError

    connection.send = fail  # type: ignore[method-assign]  # the client is gone

    await connection.run(answering())

    assert len(connection.accesses) == 1


async def test_connection_is_kept_when_the_body_was_read() -> None:
    connection = Connection(b"ab", b"cd", headers=LENGTH)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in OK:
            await send(message)

    await connection.run(app)

    assert not connection.closes
    (access,) = connection.accesses
    assert (access.received_bytes, access.sent_bytes, access.status) == (4, 5, 200)
    assert (access.method, access.raw_path) == ("POST", "/v1/files")
    assert 0 <= access.elapsed_s < 5


async def test_request_is_told_whatever_happens() -> None:
    for app in (answering(), raising(EmptyFile("x")), raising(RuntimeError("x"))):
        connection = Connection()
        await connection.run(app)
        assert len(connection.accesses) == 1


async def test_other_protocols_pass_through() -> None:
    connection = Connection()
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await connection.run(app, type="websocket")

    assert seen == ["websocket"]
    assert connection.accesses == []
