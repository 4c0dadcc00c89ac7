"""Whom uvicorn takes for the client, and who it is that connects."""

from collections.abc import Sequence

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mediagate.vllm_plugin.peers import note_peers, peer_of
from mediagate.web.asgi import Message, Receive, Scope, Send

PROXY, CLIENT = ("192.0.2.1", 1234), "203.0.113.5"
Seen = Sequence[tuple[object, object]]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards uvicorn is its own again."""
    monkeypatch.setattr(ProxyHeadersMiddleware, "__call__", ProxyHeadersMiddleware.__call__)


async def seen_from(peer: object, *, believed: str, says: bytes = CLIENT.encode()) -> Seen:
    """The client, and the peer, of a request as the app behind uvicorn finds them."""
    found: list[tuple[object, object]] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        found.append((scope.get("client"), peer_of(scope)))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    uvicorn = ProxyHeadersMiddleware(app, believed)  # type: ignore[arg-type]
    headers = [(b"x-forwarded-for", says)] if says else []
    scope = {"type": "http", "scheme": "http", "client": peer, "headers": headers}
    await uvicorn(scope, receive, send)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("times", [1, 2])
async def test_who_connects_is_known_whatever_is_said_of_the_client(times: int) -> None:
    """H72: what uvicorn makes of it stays as it was, for vLLM's log."""
    for _ in range(times):
        note_peers()

    assert await seen_from(PROXY, believed="*") == [((CLIENT, 0), PROXY)]
    assert await seen_from(PROXY, believed="192.0.2.1") == [((CLIENT, 0), PROXY)]
    assert await seen_from(PROXY, believed="127.0.0.1") == [(PROXY, PROXY)]
    assert await seen_from(PROXY, believed="*", says=b"") == [(PROXY, PROXY)]
    assert await seen_from(None, believed="*") == [((CLIENT, 0), None)]


async def test_without_it_the_client_is_all_there_is() -> None:
    assert await seen_from(PROXY, believed="*") == [((CLIENT, 0), (CLIENT, 0))]
    assert peer_of({"client": PROXY}) == PROXY
    assert peer_of({}) is None
