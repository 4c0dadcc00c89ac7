"""`mediagate serve --files-only`: files, and nothing that an engine would answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
from mediagate.config import Config
from mediagate.web.asgi import Headers, Message
from mediagate.web.openapi_operations import OPERATIONS
from mediagate.wiring import Application, create_app

PNG = corpus.png_pixel()
JSON = [(b"content-type", b"application/json")]
FORM = [(b"content-type", b"multipart/form-data; boundary=XX")]
CHAT = b'{"messages":[{"role":"user","content":"What?"}]}'
NAMING_NOBODY = CHAT.replace(
    b'"What?"', b'[{"type":"file","file":{"file_id":"file-%b"}}]' % (b"0" * 32)
)
CHAT_AND_FILE = (
    b'--XX\r\nContent-Disposition: form-data; name="payload"\r\n\r\n%b\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%b\r\n'
    b"--XX--\r\n"
) % (CHAT, PNG)

SOMEBODY_ELSES = {
    "chat": ("POST", "/v1/chat/completions", CHAT, JSON),
    "chat that names a file": ("POST", "/v1/chat/completions", NAMING_NOBODY, JSON),
    "chat with a file": ("POST", "/v1/chat/completions", CHAT_AND_FILE, FORM),
    "responses": ("POST", "/v1/responses", b'{"input":"What?"}', JSON),
    "responses with a file": ("POST", "/v1/responses", CHAT_AND_FILE, FORM),
    "messages": ("POST", "/v1/messages", CHAT, JSON),
    "models": ("GET", "/v1/models", b"", []),
    "media of an upstream": ("GET", "/v1/media/a.b.c", b"", []),
    "root": ("GET", "/", b"", []),
    "a longer name": ("GET", "/v1/files2", b"", []),
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Application, method: str, target: str, body: bytes = b"", headers: Headers | None = None
) -> Answer:
    incoming = [{"type": "http.request", "body": body}]
    sent: list[Message] = []

    async def receive() -> Message:
        if incoming:
            return incoming.pop(0)
        return await asyncio.Future()  # the client stays

    async def send(message: Message) -> None:
        sent.append(message)

    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*(headers or ()), (b"content-length", str(len(body)).encode())],
    }
    await app(scope, receive, send)
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent))


def side_car(directory: Path, **settings: object) -> Application:
    side_car = {"files_only": True, "file_upload_dir": directory, "audit_log": "off"}
    return create_app(Config.model_validate(side_car | settings))


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Application]:
    app = side_car(tmp_path / "store")
    async with app.running():
        yield app


async def names(app: Application) -> Sequence[str]:
    answer = await ask(app, "GET", "/v1/files")
    assert answer.status == 200
    return [file["filename"] for file in answer.json()["data"]]


@pytest.mark.parametrize(
    ("method", "target", "body", "headers"), SOMEBODY_ELSES.values(), ids=SOMEBODY_ELSES
)
async def test_what_is_not_about_files_is_somebody_elses(
    app: Application, method: str, target: str, body: bytes, headers: Headers
) -> None:
    """H92: a 404 that says what this is and where the request has to go; nothing is kept of its body."""
    answer = await ask(app, method, target, body, headers)

    error = answer.json()["error"]
    assert answer.status == 404
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == ("route_not_found", "invalid_request_error")
    assert "for files only" in error["message"]
    assert "inference server" in error["message"]
    assert await names(app) == []


async def test_files_and_uploads_are_whole(app: Application) -> None:
    stored = await ask(app, "PUT", "/v1/files?filename=a.png", PNG)
    target = f"/v1/files/{stored.json()['id']}"
    upload = await ask(app, "POST", "/v1/uploads", b'{"bytes":%d}' % len(PNG), JSON)
    begun = f"/v1/uploads/{upload.json()['id']}"

    assert (await ask(app, "GET", f"{target}/content")).body == PNG
    assert await names(app) == ["a.png"]
    assert (await ask(app, "GET", begun)).json()["status"] == "pending"
    assert (await ask(app, "POST", f"{begun}/cancel")).json()["status"] == "cancelled"
    assert (await ask(app, "DELETE", target)).json()["deleted"] is True
    assert (await ask(app, "GET", target)).json()["error"]["code"] == "file_not_found"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_it_can_be_watched(app: Application, path: str) -> None:
    assert (await ask(app, "GET", path)).status == 200


async def test_it_describes_what_it_has_and_nothing_else(app: Application) -> None:
    document = (await ask(app, "GET", "/openapi.json")).json()

    described = {
        (method.upper(), path.replace("{file_id}", "{}").replace("{upload_id}", "{}"))
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert described == set(OPERATIONS)


async def test_keys_and_tenants_come_first(tmp_path: Path) -> None:
    """H65: who is nobody here learns nothing, not even what is missing."""
    app = side_car(tmp_path / "store", api_key=["a-key"], file_upload_scope_header="X-Tenant")
    key = [(b"authorization", b"Bearer a-key")]

    async with app.running():
        nobody = await ask(app, "POST", "/v1/chat/completions", CHAT)
        of_no_tenant = await ask(app, "GET", "/v1/files", headers=key)
        known = await ask(app, "GET", "/v1/files", headers=[*key, (b"x-tenant", b"acme")])

    assert nobody.status == 401
    assert (of_no_tenant.status, of_no_tenant.json()["error"]["param"]) == (400, "X-Tenant")
    assert known.status == 200
