"""Lifespan events: the server is told how the start and the end went, and why they did not go well."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from mediagate.index.driver import IndexBusyError
from mediagate.web.asgi import Message
from mediagate.web.lifespan import serve_lifespan


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("no such directory"), "no such directory"), (IndexBusyError(), "IndexBusyError")],
)
async def test_start_that_fails_says_why_even_if_the_error_has_no_text(
    error: Exception, told: str
) -> None:
    sent: list[Message] = []

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        raise error
        yield

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await serve_lifespan(running, receive, send)

    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert told in message["message"]
