"""The app of our routes: whom it lets in where, and what it hands on."""

from typing import Any

import pytest

from mediagate.core.errors import InvalidScope, MediagateError
from mediagate.core.scopes import Principal
from mediagate.core.scopes import Scope as Owner
from mediagate.web.app import WebApp
from mediagate.web.asgi import Headers, Message, Receive, Scope, Send
from mediagate.web.auth import Authenticator
from mediagate.web.body import Patience
from mediagate.web.keys import Keys
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Guard, Request, Route
from mediagate.web.scope_header import ScopeHeader


class Behind:
    """What gets the requests that are handed on."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        self.scopes.append(scope)


async def answer(request: Request) -> Reply:
    return JsonReply(request.principal.scope)


async def no_body() -> Message:
    raise AssertionError


async def ask(behind: Behind, path: bytes, *headers: tuple[bytes, bytes], guard: Guard) -> bytes:
    """What `path` is answered with."""
    app = WebApp(
        routes=[Route("/v1/files", {"GET": answer})],
        authenticator=Authenticator(keys=Keys(), scope_header=ScopeHeader(name="X-Tenant")),
        patience=Patience(),
        otherwise=behind,
        guard=guard,
    )
    sent = bytearray()

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "raw_path": path,
        "query_string": b"",
        "headers": list(headers),
    }
    await app(scope, no_body, send)
    return bytes(sent)


async def test_request_without_a_tenant_is_handed_on_where_that_is_asked_for_later() -> None:
    """H65: a text-only question of a monitor needs no tenant; a file does."""
    behind = Behind()

    await ask(behind, b"/v1/chat/completions", (b"x", b"1"), guard=Guard.TENANT_OF_FILES)

    (scope,) = behind.scopes
    assert scope["headers"] == [(b"x", b"1")]
    assert scope["principal"].known_scope is None


@pytest.mark.parametrize("guard", [Guard.TENANT, Guard.TENANT_OF_FILES])
async def test_tenant_that_is_named_is_handed_on_and_its_header_is_not(guard: Guard) -> None:
    behind = Behind()

    await ask(behind, b"/v1/models", (b"x-tenant", b"a"), (b"x", b"1"), guard=guard)

    (scope,) = behind.scopes
    assert scope["headers"] == [(b"x", b"1")]
    assert scope["principal"] == Principal(Owner("a"))


@pytest.mark.parametrize(
    ("path", "headers", "guard", "error"),
    [
        (b"/v1/models", [], Guard.TENANT, InvalidScope),
        (b"/v1/files", [], Guard.TENANT_OF_FILES, InvalidScope),
        (b"/v1/models", [(b"x-tenant", b"a,b")], Guard.TENANT_OF_FILES, InvalidScope),
        (b"/v1/models", [(b"x-tenant", b"a")] * 2, Guard.TENANT_OF_FILES, InvalidScope),
    ],
)
async def test_others_are_refused_and_nothing_is_handed_on(
    path: bytes, headers: Headers, guard: Guard, error: type[MediagateError]
) -> None:
    """H65, H69: our own routes ask for the tenant at once, whatever is asked of the rest."""
    behind = Behind()

    with pytest.raises(error):
        await ask(behind, path, *headers, guard=guard)

    assert behind.scopes == []
