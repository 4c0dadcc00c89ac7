"""`/openapi.json`: what this server serves, in OpenAPI 3.1.

Paths, methods, summaries and who may come in are read from the routes; statuses and codes of errors from their tree.
What neither says of itself stands in `openapi_operations`; with a route that is missing there no server starts.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence

from mediagate.core.errors import MediagateError
from mediagate.observe.request import REQUEST_ID
from mediagate.web.errors import STATUS
from mediagate.web.openapi_operations import (
    OPERATIONS,
    Answered,
    Operation,
    json_answer,
    required_header,
)
from mediagate.web.openapi_schemas import (
    FILE_ID,
    SCHEMAS,
    TEXT,
    UPLOAD_ID,
    Json,
    closed,
    nullable,
    ref,
)
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Guard, Request, Route

ERROR_HEADERS: Mapping[int, Sequence[str]] = {
    401: ("www-authenticate",),
    405: ("allow",),
    408: ("x-should-retry",),
    416: ("content-range",),
    501: ("x-should-retry",),
    503: ("retry-after",),
    507: ("x-should-retry",),
}
"""Headers that every error of a status has (`mediagate.web.errors.headers_of`)."""

_ANY_REQUEST = (400, 431, 500)

_PLACEHOLDERS = {"/v1/files/": "file_id", "/v1/uploads/": "upload_id"}
"""What the `{}` behind a prefix is called."""

_PATH_VALUES = {"file_id": FILE_ID, "upload_id": UPLOAD_ID, "model": TEXT}

_INTERNAL = frozenset({"/v1/media/{}"})
"""For inference servers only: a client has no business there."""


class OpenApi:
    """`GET /openapi.json`.

    Args:
        routes: What is ours; this one is added.
        answered: What is answered behind them and read on the way.
        has_keys: Whether callers need an API key.
        scope_header: The header in which callers name their tenant; None: they do not.
        keys_have_scopes: A key may name the tenant instead.
    """

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        answered: Sequence[Answered],
        has_keys: bool,
        scope_header: str | None,
        keys_have_scopes: bool,
    ) -> None:
        self._reply = JsonReply(
            _Document(
                has_keys=has_keys, scope_header=scope_header, keys_have_scopes=keys_have_scopes
            ).write((*routes, *self.routes()), answered)
        )

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (Route("/openapi.json", {"GET": self.document}, guard=Guard.KEY),)

    async def document(self, _request: Request) -> Reply:
        """What is served here, in OpenAPI 3.1."""
        return self._reply


class _Document:
    """The whole of it."""

    def __init__(self, *, has_keys: bool, scope_header: str | None, keys_have_scopes: bool) -> None:
        self._has_keys = has_keys
        self._scope_header = scope_header
        self._keys_have_scopes = keys_have_scopes

    def write(self, routes: Iterable[Route], answered: Iterable[Answered]) -> Json:
        """The document."""
        paths: Json = {}
        for route in routes:
            if route.path in _INTERNAL:
                continue
            path = _named(route.path)
            for method, handler in route.methods.items():
                summary = (handler.__doc__ or "").partition("\n")[0].rstrip(".")
                operation = OPERATIONS[method, route.path]
                described = self._operation(operation, path, summary, guard=route.guard)
                paths.setdefault(path, {})[method.lower()] = described
        for passed in answered:
            described = self._operation(
                passed.operation, passed.path, passed.summary, guard=Guard.TENANT
            )
            paths.setdefault(passed.path, {})[passed.method.lower()] = described
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "mediagate",
                "version": importlib.metadata.version("mediagate"),
                "description": "Upload media once, name it by id in any chat request.",
            },
            "paths": paths,
            "components": self._components(),
        }

    def _operation(self, operation: Operation, path: str, summary: str, *, guard: Guard) -> Json:
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": _PATH_VALUES[name]}
            for name in _names_in(path)
        ]
        if is_scoped := guard is Guard.TENANT and self._scope_header is not None:
            parameters.append({"$ref": "#/components/parameters/Scope"})
        has_key = guard is not Guard.NONE and self._has_keys
        statuses: set[int] = set()
        if operation.errors is not None:
            statuses.update(_ANY_REQUEST, operation.errors)
            statuses.update((401,) if has_key else (), (403,) if is_scoped else ())
        body = {} if operation.body is None else {"requestBody": operation.body}
        return {
            "operationId": operation.id,
            "summary": summary,
            "security": [{"apiKey": []}] if has_key else [],
            "parameters": [*parameters, *operation.parameters],
            **body,
            "responses": {
                **{status: _named_by_id(answer) for status, answer in operation.answers.items()},
                **{str(status): _error_ref(status) for status in sorted(statuses)},
            },
        }

    def _components(self) -> Json:
        errors = _errors()
        components: Json = {
            "schemas": SCHEMAS | {f"Error{status}": _error(codes) for status, codes in errors},
            "responses": {f"Error{status}": _error_answer(status) for status, _ in errors},
        }
        if self._has_keys:
            components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        if self._scope_header is not None:
            components["parameters"] = {
                "Scope": {
                    "name": self._scope_header,
                    "in": "header",
                    "required": not self._keys_have_scopes,
                    "schema": {"type": "string", "pattern": "^[!-+\\--~]{1,256}$"},
                    "description": "The tenant; set by the gateway in front",
                }
            }
        return components


def _named(path: str) -> str:
    """A route's path with a name for its placeholder."""
    for prefix, name in _PLACEHOLDERS.items():
        if path.startswith(f"{prefix}{{}}"):
            return path.replace("{}", f"{{{name}}}")
    return path


def _names_in(path: str) -> Sequence[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _errors() -> Sequence[tuple[int, Sequence[str]]]:
    """Every status and its codes."""
    codes: dict[int, list[str]] = {}
    pending: list[type[MediagateError]] = [MediagateError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if "code" in vars(cls):
            status = next(STATUS[base] for base in cls.__mro__ if base in STATUS)
            codes.setdefault(status, []).append(cls.code)
    return [(status, sorted(codes[status])) for status in sorted(codes)]


def _error(codes: Sequence[str]) -> Json:
    """OpenAI's `Error`, with the codes of one status."""
    error = closed(
        {
            "message": {"type": "string", "minLength": 1},
            "type": {"enum": ["invalid_request_error", "authentication_error", "server_error"]},
            "param": nullable(TEXT),
            "code": {"enum": list(codes)},
        }
    )
    return closed({"error": error})


def _error_answer(status: int) -> Json:
    answer = json_answer(ref(f"Error{status}"), description="See `code`")
    headers = {name: required_header(TEXT) for name in ERROR_HEADERS.get(status, ())}
    return _named_by_id(answer | {"headers": headers})


def _named_by_id(answer: Json) -> Json:
    """Every answer says which request it answers."""
    name = REQUEST_ID.decode()
    header = required_header({"type": "string", "pattern": "^[!-~]{1,128}$"})
    return answer | {"headers": answer.get("headers", {}) | {name: header}}


def _error_ref(status: int) -> Json:
    return {"$ref": f"#/components/responses/Error{status}"}
