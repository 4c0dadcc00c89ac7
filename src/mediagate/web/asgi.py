"""The ASGI vocabulary."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = Iterable[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client left before its request was complete: there is nobody to answer."""


def header_values(headers: HeaderList, name: bytes) -> list[bytes]:
    """All values of the header `name` (lower case), in order."""
    return [value for key, value in headers if key.lower() == name]
