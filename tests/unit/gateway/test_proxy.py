import pytest

from mediagate.core.errors import MalformedBody, NotSupported
from mediagate.gateway.proxy import Proxy
from mediagate.web.asgi import Message, Scope


def scope(method: str = "GET", *, headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": "/v1/models",
        "raw_path": b"/v1/models",
        "query_string": b"",
        "headers": headers or [],
    }


async def never() -> Message:
    raise AssertionError("nothing is read of a refused request")


async def nowhere(message: Message) -> None:
    raise AssertionError("nothing is sent before the upstream answers")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_method_that_would_reveal_our_headers_is_not_supported(method: str) -> None:
    proxy = Proxy(upstream="http://127.0.0.1:9")

    with pytest.raises(NotSupported):
        await proxy(scope(method), never, nowhere)


async def test_websocket_upgrade_over_http_is_not_supported() -> None:
    proxy = Proxy(upstream="http://127.0.0.1:9")
    headers = [(b"connection", b"Upgrade"), (b"upgrade", b"WebSocket")]

    with pytest.raises(NotSupported):
        await proxy(scope(headers=headers), never, nowhere)


@pytest.mark.parametrize("raw_path", [b"*", b"http://evil/", b"/a b", b"/a\r\nx: y", b"/\xff"])
async def test_target_that_would_change_the_request_line_is_malformed(raw_path: bytes) -> None:
    proxy = Proxy(upstream="http://127.0.0.1:9")

    with pytest.raises(MalformedBody):
        await proxy({**scope(), "raw_path": raw_path}, never, nowhere)
