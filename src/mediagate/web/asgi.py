"""The ASGI vocabulary."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeVar
from urllib.parse import quote, unquote

_T = TypeVar("_T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = Iterable[tuple[bytes, bytes]]
Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

BAD_IN_HEADER_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What RFC 9110 §5.5 keeps out of header values; a line break would begin another header."""

LINGERS = "mediagate.lingers"
"""Scope extension of a server that takes the rest of a request's body itself after an early answer."""


class ClientGone(Exception):
    """The client left before its request was complete: there is nobody to answer."""


def header_values(headers: HeaderList, name: bytes) -> list[bytes]:
    """All values of the header `name` (lower case), in order."""
    return [value for key, value in headers if key.lower() == name]


def path_below_root(scope: Scope) -> bytes:
    """The path of an app that may live below a root path, undecoded, with or without that in what it was sent.

    Decoded, it is `path` without `root_path`, cut off as plain text and once. That is the text by which vLLM's
    authentication decides whether to ask for a key; so a route below `/v1` that matches here was asked for one there,
    however the path was spelt, and whatever stands in `raw_path`.
    """
    root: str = scope.get("root_path", "")
    below: str = scope["path"].removeprefix(root)
    raw: bytes = scope.get("raw_path") or b""
    for spelling in (raw, raw.removeprefix(root.encode())):
        if unquote(spelling.decode("latin-1")) == below:
            return spelling
    return quote(below, errors="replace").encode()


async def unless_gone(work: Awaitable[_T], receive: Receive) -> _T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientGone: It did.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))
        for task in (working, leaving):
            if not task.cancelled():
                task.exception()  # marks it as seen
