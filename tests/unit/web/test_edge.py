"""The outermost layer: errors become answers, early answers are followed by a bounded drain, each request is told."""

import asyncio
import json
from typing import Any

import pytest

from mediagate.core.errors import EmptyFile, FileTooLarge, InternalError
from mediagate.core.events import Event, RequestEnded, RequestFailed
from mediagate.core.scopes import Principal
from mediagate.core.scopes import Scope as CallerScope
from mediagate.observe.request import CurrentRequest, current_request
from mediagate.web.asgi import (
    LINGERS,
    ASGIApp,
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    header_values,
)
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
        self.events: list[Event] = []

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
        edge = Edge(app, observer=self.events.append)
        await edge(base | scope, self.receive, self.send)

    @property
    def ended(self) -> list[RequestEnded]:
        return [event for event in self.events if isinstance(event, RequestEnded)]

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
    assert [ended.status for ended in connection.ended] == [499]


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

    assert len(connection.ended) == 1


async def test_connection_is_kept_when_the_body_was_read() -> None:
    connection = Connection(b"ab", b"cd", headers=LENGTH)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in OK:
            await send(message)

    await connection.run(app)

    assert not connection.closes
    (ended,) = connection.ended
    assert (ended.received_bytes, ended.sent_bytes, ended.status) == (4, 5, 200)
    assert (ended.method, ended.raw_path) == ("POST", "/v1/files")
    assert 0 <= ended.elapsed_s < 5


async def test_request_is_told_whatever_happens() -> None:
    for app in (answering(), raising(EmptyFile("x")), raising(RuntimeError("x"))):
        connection = Connection()
        await connection.run(app)
        assert len(connection.ended) == 1


async def test_other_protocols_pass_through() -> None:
    connection = Connection()
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await connection.run(app, type="websocket")

    assert seen == ["websocket"]
    assert connection.events == []


# request ids, and what observers are told --------------------------------------------------------------


def upstream_that_names_requests(seen: list[list[bytes]]) -> ASGIApp:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(header_values(scope["headers"], b"x-request-id"))
        headers = [(b"x-request-id", b"theirs"), (b"X-Request-Id", b"theirs too")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    return app


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [
        ([(b"x-request-id", b"abc")], True),
        ([(b"X-Request-ID", b"abc")], True),
        ([], False),
        ([(b"x-request-id", b"a b")], False),
        ([(b"x-request-id", b"abc"), (b"x-request-id", b"def")], False),
    ],
)
async def test_request_has_one_id_on_both_sides_and_for_observers(
    sent: list[tuple[bytes, bytes]], is_kept: bool
) -> None:
    """H97: carried to the upstream and back, once, the upstream's own word not beside it."""
    connection = Connection(headers=sent)
    seen: list[list[bytes]] = []

    await connection.run(upstream_that_names_requests(seen))

    answered = header_values(connection.sent[0]["headers"], b"x-request-id")
    (ended,) = connection.ended
    assert seen == [answered] == [[ended.request_id.encode()]]
    assert (answered == [b"abc"]) == is_kept


async def test_clients_own_header_stays_where_it_is() -> None:
    """Header lines are passed in their order."""
    sent = [(b"a", b"1"), (b"x-request-id", b"abc"), (b"b", b"2")]
    connection = Connection(headers=sent)
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering()(scope, _receive, send)

    await connection.run(app)

    assert seen[0]["headers"] == sent


async def test_errors_carry_the_request_id_too() -> None:
    """H97."""
    connection = Connection(headers=[(b"x-request-id", b"abc")])

    await connection.run(raising(EmptyFile("x")))

    assert header_values(connection.sent[0]["headers"], b"x-request-id") == [b"abc"]


async def test_observers_know_whose_request_it_is_while_it_runs_and_not_after() -> None:
    """H97."""
    connection = Connection(headers=[(b"x-request-id", b"abc")])
    known: list[CurrentRequest | None] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        known.append(current_request())
        await answering()(_scope, _receive, send)

    await connection.run(app, client=("192.0.2.1", 1234))
    await connection.run(app, client=None)

    assert known == [CurrentRequest("abc", "192.0.2.1"), CurrentRequest("abc", None)]
    assert current_request() is None


async def test_refusal_is_told_once_with_the_scope_of_whoever_was_known() -> None:
    """H97, D9."""
    error = EmptyFile("x")

    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        scope["principal"] = Principal(CallerScope("tenant"))
        raise error

    known, unknown = Connection(), Connection()
    await known.run(refuse)
    await unknown.run(raising(error))

    assert known.events[:-1] == [RequestFailed(scope=CallerScope("tenant"), error=error)]
    assert unknown.events[:-1] == [RequestFailed(scope=None, error=error)]


async def test_error_of_others_is_told_as_what_the_client_is_told() -> None:
    connection = Connection()

    await connection.run(raising(RuntimeError("x")))

    failed = connection.events[0]
    assert isinstance(failed, RequestFailed)
    assert isinstance(failed.error, InternalError)


async def test_answer_that_broke_off_is_no_refusal() -> None:
    connection = Connection()

    with pytest.raises(ResponseBroken):
        await connection.run(raising(EmptyFile("x"), after=1))

    assert connection.events == connection.ended
