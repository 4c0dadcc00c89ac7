"""ASGI lifespan events → an async context manager (ASGI lifespan 2.0)."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from mediagate.web.asgi import Receive, Send

logger = logging.getLogger(__name__)


async def serve_lifespan(
    running: Callable[[], AbstractAsyncContextManager[None]], receive: Receive, send: Send
) -> None:
    """Enter `running` at the server's start, leave it at its end, and tell the server how both went."""
    await receive()
    started = False
    try:
        async with running():
            started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as exc:
        phase = "shutdown" if started else "startup"
        if started:
            logger.exception("the shutdown failed")
        await send({"type": f"lifespan.{phase}.failed", "message": str(exc) or repr(exc)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
