"""Paths and methods → handlers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qsl, unquote

from mediagate.core.errors import InvalidValue, MethodNotAllowed
from mediagate.core.scopes import Principal
from mediagate.web.asgi import Headers, Scope
from mediagate.web.body import Body
from mediagate.web.replies import EmptyReply, Reply

MAX_QUERY_FIELDS = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets.

    Attributes:
        principal: Who calls.
        path: The values of the route's placeholders, decoded.
        query: The query, decoded; the last of several values counts.
        headers: As sent, names in lower case.
        body: Not yet read.
    """

    principal: Principal
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Headers
    body: Body


Handler = Callable[[Request], Awaitable[Reply]]


class Guard(Enum):
    """What a route asks of its callers, where the server asks anything at all."""

    NONE = 0
    """Nothing."""
    KEY = 1
    """An API key; the request belongs to no tenant."""
    TENANT = 2
    """An API key, and the tenant that the request is for."""
    TENANT_OF_FILES = 3
    """Both as soon as the request is for anybody's files; then their absence is an error."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path and what its methods do; `{}` in the path takes one segment, encoded slashes included."""

    path: str
    methods: Mapping[str, Handler]
    guard: Guard = Guard.TENANT

    def match(self, raw_path: bytes) -> tuple[str, ...] | None:
        """The placeholders' values, or None.

        Segments are split before they are decoded, so that `%2F` in an id stays part of the id.
        """
        values = []
        wanted = self.path.split("/")
        given = raw_path.decode("latin-1").split("/")
        if len(wanted) != len(given):
            return None
        for want, got in zip(wanted, given, strict=True):
            if want == "{}":
                values.append(unquote(got))
            elif want != got:
                return None
        return tuple(values)

    def handler(self, method: str) -> Handler:
        """What answers `method`. HEAD is answered by GET, OPTIONS by the list of methods.

        Raises:
            MethodNotAllowed: Nothing does.
        """
        if method == "OPTIONS":
            return self._options
        handler = self.methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allow = self._allow()
            raise MethodNotAllowed(f"This path takes {', '.join(allow)}.", allow=allow)
        return handler

    async def _options(self, _request: Request) -> Reply:
        return EmptyReply([(b"allow", ", ".join(self._allow()).encode())])

    def _allow(self) -> tuple[str, ...]:
        head = ("HEAD",) if "GET" in self.methods else ()
        return (*self.methods, *head, "OPTIONS")


def query_of(scope: Scope) -> dict[str, str]:
    """The decoded query.

    Raises:
        InvalidValue: It has too many fields.
    """
    raw = scope.get("query_string", b"").decode("latin-1")
    try:
        return dict(parse_qsl(raw, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:  # the number of fields is all that it objects to
        raise InvalidValue(f"The query has more than {MAX_QUERY_FIELDS} fields.") from None
