"""A request's body: its declared length, its chunks, and the patience we have for them."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mediagate.core.errors import MalformedBody, MediagateError, ReceiveTimeout
from mediagate.web.asgi import ClientGone, HeaderList, Receive, header_values


@dataclass(frozen=True, slots=True)
class Patience:
    """How slow a client may be; only the time spent waiting for it counts.

    Attributes:
        idle_timeout_s: Longest wait for the next bytes.
        min_bytes_per_s: Slowest rate, over windows of `idle_timeout_s`.
        deadline_s: Longest wait in total.
    """

    idle_timeout_s: float = 30.0
    min_bytes_per_s: float = 8000.0
    deadline_s: float = 3600.0


class Body:
    """The body of one request. Read it once: by `chunks` or by `read`."""

    def __init__(self, headers: HeaderList, receive: Receive, *, patience: Patience) -> None:
        self._receive = receive
        self._patience = patience
        self.declared_bytes = _declared_length(headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, as they come.

        Raises:
            ClientGone: The client left before the end.
            ReceiveTimeout: The client is slower than `Patience` allows.
        """
        patience = self._patience
        waited_s = window_s = 0.0
        window_bytes = 0
        more = True
        while more:
            began = time.monotonic()
            try:
                async with asyncio.timeout(
                    min(patience.idle_timeout_s, patience.deadline_s - waited_s)
                ):
                    message = await self._receive()
            except TimeoutError:
                raise ReceiveTimeout("The request body stopped coming. Send it again.") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            elapsed = time.monotonic() - began
            waited_s += elapsed
            window_s += elapsed
            chunk: bytes = message.get("body", b"")
            window_bytes += len(chunk)
            more = message.get("more_body", False)
            if window_s >= patience.idle_timeout_s:
                if more and window_bytes < patience.min_bytes_per_s * window_s:
                    raise ReceiveTimeout(
                        "The request body comes too slowly. Send it over a faster line."
                    )
                window_s, window_bytes = 0.0, 0
            if chunk:
                yield chunk

    async def read(self, *, max_bytes: int, too_large: MediagateError) -> bytes:
        """The whole body, at most `max_bytes`.

        Args:
            max_bytes: The limit.
            too_large: Raised if there is more, declared or counted.

        Raises:
            ClientGone, ReceiveTimeout: As `chunks`.
        """
        if self.declared_bytes is not None and self.declared_bytes > max_bytes:
            raise too_large
        parts = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > max_bytes:
                raise too_large
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _declared_length(headers: HeaderList) -> int | None:
    values = header_values(headers, b"content-length")
    if not values:
        return None
    text = values[0].strip()
    if len(values) > 1 or not text.isdigit():
        raise MalformedBody("Content-Length must be one whole number.")
    return int(text[:20])
