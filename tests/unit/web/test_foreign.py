"""Clients of other vendors' Files APIs are told so in their own words."""

import json
from typing import Any

import pytest

from mediagate.web.asgi import Message, Receive, Scope, Send
from mediagate.web.foreign import ForeignDialects

VERSION = (b"anthropic-version", b"2023-06-01")


async def ask(path: bytes, *headers: tuple[bytes, bytes], method: str = "GET") -> tuple[int, bytes]:
    """The status and the body of the answer; 200 comes from behind."""
    sent: list[Message] = []

    async def behind(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"OpenAI's"})

    async def receive() -> Message:
        raise AssertionError("the body is not asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "raw_path": path,
        "headers": [(b"accept", b"*/*"), *headers],
    }
    await ForeignDialects(behind)(scope, receive, send)
    return sent[0]["status"], sent[1].get("body", b"")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    "path", [b"/v1/files", b"/v1/files/", b"/v1/files/x/content", b"/v1/uploads", b"/v1/uploads/u"]
)
async def test_anthropics_clients_get_anthropics_error(path: bytes, method: str) -> None:
    """H87: what its client would not understand is not for it."""
    status, body = await ask(path, VERSION, method=method)

    error = json.loads(body)
    assert status == 404
    assert list(error) == ["type", "error", "request_id"]
    assert error["type"] == "error"
    assert error["error"]["type"] == "not_found_error"
    assert "Anthropic's" in error["error"]["message"]


@pytest.mark.parametrize("name", [b"x-goog-api-key", b"X-Goog-Upload-Protocol", b"x-goog-"])
async def test_googles_clients_get_googles_error(name: bytes) -> None:
    """H87."""
    status, body = await ask(b"/v1/files", (name, b""), method="POST")

    error = json.loads(body)["error"]
    assert status == 404
    assert (error["code"], error["status"]) == (404, "NOT_FOUND")
    assert "Google's" in error["message"]


async def test_answer_to_head_has_no_body() -> None:
    assert await ask(b"/v1/files", VERSION, method="HEAD") == (404, b"")


@pytest.mark.parametrize(
    "path", [b"/v1/messages", b"/v1/filesystem", b"/v1/models", b"/", b"/health"]
)
async def test_other_paths_are_nobodys_dialect(path: bytes) -> None:
    assert await ask(path, VERSION, (b"x-goog-api-key", b"k")) == (200, b"OpenAI's")


@pytest.mark.parametrize("name", [b"x-google", b"anthropic-beta", b"openai-project"])
async def test_other_headers_are_nobodys_dialect(name: bytes) -> None:
    assert await ask(b"/v1/files", (name, b"x")) == (200, b"OpenAI's")
