"""`/openapi.json` and the code that it describes are held together."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mediagate.config import Config
from mediagate.core import errors
from mediagate.core.errors import MediagateError
from mediagate.gateway.multipart_request import FILE_IDS
from mediagate.observe.request import REQUEST_ID
from mediagate.web.asgi import Message
from mediagate.web.errors import STATUS, headers_of, status_of
from mediagate.web.openapi import ERROR_HEADERS, OpenApi
from mediagate.web.openapi_operations import OPERATIONS
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Guard, Request, Route
from mediagate.wiring import create_app

Json = dict[str, Any]

UPSTREAM = "http://127.0.0.1:9"


async def served(**settings: object) -> Json:
    """What a whole server with these settings answers."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/openapi.json",
        "raw_path": b"/openapi.json",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer a-key")],
    }
    app = create_app(Config.model_validate({"audit_log": "off"} | settings))
    async with app.running():
        await app(scope, receive, send)
    assert sent[0]["status"] == 200
    return dict(json.loads(b"".join(message.get("body", b"") for message in sent)))


def described(**more: Any) -> Json:
    """The description of a few routes."""

    async def get(_request: Request) -> Reply:
        """Look.

        Closely.
        """
        return JsonReply(None)

    asked = {"has_keys": False, "scope_header": None, "keys_have_scopes": False} | more
    routes = [
        Route("/health", {"GET": get}, guard=Guard.NONE),
        Route("/metrics", {"GET": get}, guard=Guard.KEY),
        Route("/v1/files/{}", {"GET": get}),
    ]
    reply = OpenApi(routes=routes, answered=(), **asked)._reply
    assert isinstance(reply, JsonReply)
    return dict(json.loads(reply._body))


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def refs(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from refs(child)
    elif isinstance(value, list):
        for child in value:
            yield from refs(child)


async def test_every_route_is_described_and_nothing_else() -> None:
    document = await served(upstream=UPSTREAM, delivery="url")

    ours = {
        (method, path.replace("{file_id}", "{}").replace("{upload_id}", "{}"))
        for method, path, _ in operations(document)
    }
    assert ours - set(OPERATIONS) == {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/responses"),
    }
    assert set(OPERATIONS) <= ours
    assert not any(path.startswith("/v1/media") for _, path in ours)


def test_route_that_is_not_described_stops_the_start() -> None:
    async def get(_request: Request) -> Reply:
        return JsonReply(None)

    with pytest.raises(KeyError, match="/v1/new"):
        OpenApi(
            routes=[Route("/v1/new", {"GET": get})],
            answered=(),
            has_keys=False,
            scope_header=None,
            keys_have_scopes=False,
        )


async def test_what_answers_behind_the_routes_depends_on_the_upstream() -> None:
    inspector = await served()
    upstream = await served(upstream=UPSTREAM)

    assert "/v1/models" in inspector["paths"]
    assert "/v1/models" not in upstream["paths"]
    assert "404" in inspector["paths"]["/v1/chat/completions"]["post"]["responses"]
    # Whatever an inference server answers passes, so nothing can be promised of it.
    passed = upstream["paths"]["/v1/responses"]["post"]["responses"]
    assert set(passed) == {"default"}
    assert set(passed["default"]["headers"]) == {FILE_IDS.decode(), REQUEST_ID.decode()}


async def test_without_a_files_api_there_is_no_description_of_it() -> None:
    """H96: `/openapi.json` too is the bare server's then."""
    with pytest.raises(AssertionError):
        await served(enable_file_uploads=False)


async def test_references_and_operation_ids_are_sound() -> None:
    document = await served(api_key=["a-key"], file_upload_scope_header="X-Tenant")

    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for reference in set(refs(document)):
        found = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
    linked = {
        link["operationId"]
        for _, _, operation in operations(document)
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    }
    assert linked <= set(ids)


def test_summary_is_the_first_line_of_the_handlers_docstring() -> None:
    assert described()["paths"]["/v1/files/{file_id}"]["get"]["summary"] == "Look"


def test_keys_and_tenants_are_asked_for_where_the_guard_does() -> None:
    document = described(has_keys=True, scope_header="X-Tenant")

    asked = {
        path: (
            operation["security"] != [],
            {"$ref": "#/components/parameters/Scope"} in operation["parameters"],
            "401" in operation["responses"],
            "403" in operation["responses"],
        )
        for _, path, operation in operations(document)
    }
    assert asked == {
        "/health": (False, False, False, False),
        "/metrics": (True, False, True, False),
        "/openapi.json": (True, False, True, False),
        "/v1/files/{file_id}": (True, True, True, True),
    }
    scope = document["components"]["parameters"]["Scope"]
    assert (scope["name"], scope["required"]) == ("X-Tenant", True)


def test_scope_header_is_no_must_where_keys_name_the_tenant() -> None:
    document = described(has_keys=True, scope_header="X-Tenant", keys_have_scopes=True)

    assert not document["components"]["parameters"]["Scope"]["required"]


def test_open_server_asks_for_nothing() -> None:
    document = described()

    assert not any(operation["security"] for _, _, operation in operations(document))
    assert set(document["components"]) == {"schemas", "responses"}


def leaves(cls: type[MediagateError]) -> Iterator[MediagateError]:
    if "code" in vars(cls):
        more: dict[type[MediagateError], Json] = {
            errors.MethodNotAllowed: {"allow": ("GET",)},
            errors.RangeNotSatisfiable: {"size_bytes": 5},
        }
        yield cls("what was wrong", **more.get(cls, {}))
    for child in cls.__subclasses__():
        yield from leaves(child)


def test_errors_are_those_of_the_tree() -> None:
    """H92, H93, H94: each status with its codes, and with the headers that tell a client what to do."""
    components = described()["components"]

    codes: dict[int, set[str]] = {status: set() for status in STATUS.values()}
    for error in leaves(MediagateError):
        status = status_of(error)
        codes[status].add(error.code)
        headers = {name.decode() for name, _ in headers_of(error)}
        assert headers == set(ERROR_HEADERS.get(status, ())), error.code
        in_description = components["responses"][f"Error{status}"]["headers"]
        assert set(in_description) == headers | {"x-request-id"}
    for status, expected in codes.items():
        body = components["schemas"][f"Error{status}"]["properties"]["error"]
        assert body["required"] == ["message", "type", "param", "code"]
        assert set(body["properties"]["code"]["enum"]) == expected
