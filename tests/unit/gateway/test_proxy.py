import pytest

from mediagate.core.errors import MalformedBody, MediagateError, NotSupported
from mediagate.gateway.proxy import Proxy
from mediagate.gateway.upstream import Target
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


@pytest.mark.parametrize(
    ("url", "authority", "port", "prefix"),
    [
        ("http://gpu:8000", b"gpu:8000", 8000, b""),
        ("http://gpu:8000/", b"gpu:8000", 8000, b""),
        ("http://gpu:8000/v1", b"gpu:8000", 8000, b""),
        ("http://gpu:8000/v1/", b"gpu:8000", 8000, b""),
        ("http://gpu", b"gpu", 80, b""),
        ("https://api.example.com/v1", b"api.example.com", 443, b""),
        ("http://host/prefix/v1", b"host", 80, b"/prefix"),
        ("http://host/prefix/", b"host", 80, b"/prefix"),
        ("http://host/v1/openai", b"host", 80, b"/v1/openai"),
        ("http://host/xv1", b"host", 80, b"/xv1"),
        ("http://[::1]:8000/v1", b"[::1]:8000", 8000, b""),
    ],
)
def test_base_url_says_where_paths_go(url: str, authority: bytes, port: int, prefix: bytes) -> None:
    target = Target.parse(url)

    assert (target.authority, target.port, target.prefix) == (authority, port, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "gpu:8000",
        "ftp://gpu",
        "http://",
        "http://user:secret@gpu",
        "http://gpu?x=1",
        "http://gpu#x",
        "http://gpu/a b",
        "http://gpu:99999",
        "http://gpü",
    ],
)
def test_bad_base_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is checked below
        Proxy(upstream=url)

    assert "secret" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("extensions", "first"),
    [
        ({"websocket.http.response": {}}, "websocket.http.response.start"),
        ({}, "websocket.close"),
    ],
)
async def test_websocket_is_declined_before_the_handshake(
    extensions: dict[str, object], first: str
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Proxy(upstream="http://127.0.0.1:9")(
        {"type": "websocket", "extensions": extensions}, never, send
    )

    assert sent[0]["type"] == first
    assert sent[0].get("status", 501) == 501


@pytest.mark.parametrize(
    "values", [[b"1", b"2"], [b"-1"], [b"+1"], [b"1, 1"], [b""], [b"1 "], [b"\xd9\xa1"]]
)
async def test_doubtful_content_length_is_malformed(values: list[bytes]) -> None:
    proxy = Proxy(upstream="http://127.0.0.1:9")
    headers = [(b"content-length", value) for value in values]

    with pytest.raises(MalformedBody):
        await proxy(scope("POST", headers=headers), never, nowhere)


@pytest.mark.parametrize("raw_path", [b"*", b"http://evil/", b"/a b", b"/a\r\nx: y", b"/\xff"])
async def test_target_that_would_change_the_request_line_is_malformed(raw_path: bytes) -> None:
    proxy = Proxy(upstream="http://127.0.0.1:9")

    with pytest.raises(MediagateError):
        await proxy({**scope(), "raw_path": raw_path}, never, nowhere)
