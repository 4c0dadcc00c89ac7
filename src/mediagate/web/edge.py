"""The outermost layer of every HTTP answer of ours: errors, early replies, the access log.

**Early replies.** An answer that is ready before the request body has come is sent at once and whole; then the rest of
the body is drained, up to a bound, and the connection closes. Closing first would reset the connection under a client
that still sends, and it would never read the answer.
"""

import asyncio
import contextlib
import logging
import time
from typing import Protocol

from mediagate.web.asgi import ASGIApp, ClientGone, Message, Receive, Scope, Send, header_values
from mediagate.web.errors import render, translate

logger = logging.getLogger(__name__)


class ResponseBroken(Exception):
    """An answer could not be completed: the HTTP server has to break the connection, and need not say more."""


DRAIN_BYTES = 8 * 1024**2
DRAIN_S = 2.0

_CLIENT_GONE = 499  # nginx's number for it; never sent


class OnAccess(Protocol):
    """Told of each request when it is over."""

    def __call__(
        self,
        *,
        method: str,
        raw_path: str,
        status: int,
        received_bytes: int,
        sent_bytes: int,
        elapsed_s: float,
    ) -> None:
        """Take note.

        Args:
            method: As sent.
            raw_path: As sent, percent-encoding and all; may hold capability ids: mask it before it is written.
            status: Of the answer; 499: the client left before there was one.
            received_bytes: Of the request body.
            sent_bytes: Of the response body.
            elapsed_s: From the request's head to the end of the answer.
        """


class Edge:
    """Wraps an ASGI app.

    Args:
        app: Answers requests; may raise errors of ours, which become answers.
        on_access: Told of each answered request.
    """

    def __init__(self, app: ASGIApp, *, on_access: OnAccess) -> None:
        self._app = app
        self._on_access = on_access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        finally:
            exchange.report(self._on_access)

    async def _answer(self, exchange: "_Exchange") -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except ClientGone:
            return
        except Exception as exc:
            error = translate(exc)
            if error is not exc and not isinstance(exc, OSError):
                logger.exception("an error nobody handled")
            if exchange.status:
                # Half an answer is out: only a broken connection tells the client the truth.
                raise ResponseBroken from exc
            status, headers, body = render(error)
            await exchange.send(
                {"type": "http.response.start", "status": status, "headers": headers}
            )
            if exchange.scope["method"] == "HEAD":
                body = b""
            await exchange.send({"type": "http.response.body", "body": body})


class _Exchange:
    """One request and its answer, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.status = 0
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._sent_bytes = 0
        self._began_at = time.monotonic()
        headers = scope["headers"]
        # A request without these has no body (RFC 9112 §6.3): there is nothing to drain.
        self._is_body_complete = not (
            any(value.strip() != b"0" for value in header_values(headers, b"content-length"))
            or header_values(headers, b"transfer-encoding")
        )
        self._waits_for_continue = b"100-continue" in [
            value.lower() for value in header_values(headers, b"expect")
        ]

    async def receive(self) -> Message:
        self._waits_for_continue = False
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            self._is_body_complete = not message.get("more_body", False)
        else:
            self._is_body_complete = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self._is_body_complete:
                message = {
                    **message,
                    "headers": [*message["headers"], (b"connection", b"close")],
                }
        elif message["type"] == "http.response.body":
            self._sent_bytes += len(message.get("body", b""))
            if not message.get("more_body", False) and not self._is_body_complete:
                await self._send({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body"}
        await self._send(message)

    async def _drain(self) -> None:
        """Take what the client still sends, within the bounds; one that waits for `100 Continue` sends nothing."""
        if self._waits_for_continue:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                bound = self._received_bytes + DRAIN_BYTES
                while not self._is_body_complete and self._received_bytes < bound:
                    await self.receive()

    def report(self, on_access: OnAccess) -> None:
        on_access(
            method=self.scope["method"],
            raw_path=self.scope["raw_path"].decode("latin-1"),
            status=self.status or _CLIENT_GONE,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            elapsed_s=time.monotonic() - self._began_at,
        )
