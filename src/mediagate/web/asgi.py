"""The ASGI vocabulary."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeVar

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
