"""The outermost layer of every HTTP answer of ours: errors, early replies, request ids, what observers are told.

**Early replies.** An answer that is ready before the request body has come is sent at once and whole; then the rest of
the body is drained, up to a bound, and the connection closes. Closing first would reset the connection under a client
that still sends, and it would never read the answer. Our own server does that itself (`LINGERS`); here it is done for
every other one.

**Request ids.** A request has one from here on: the client's `X-Request-Id`, if that is one, or a fresh one. The
upstream gets it, every answer carries it, once, and whatever is written down about the request names it.
"""

import asyncio
import contextlib
import logging
import time

from mediagate.core.events import Observer, RequestEnded, RequestFailed
from mediagate.observe.request import REQUEST_ID, CurrentRequest, answering, request_id_of
from mediagate.web.asgi import (
    LINGERS,
    ASGIApp,
    ClientGone,
    HeaderList,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    header_values,
)
from mediagate.web.errors import render, translate

logger = logging.getLogger(__name__)


DRAIN_BYTES = 8 * 1024**2
DRAIN_S = 2.0

_CLIENT_GONE = 499  # nginx's number for it; never sent


class ResponseBroken(Exception):
    """An answer could not be completed: the HTTP server has to break the connection; the log has the reason."""


class Edge:
    """Wraps an ASGI app.

    Args:
        app: Answers requests; may raise errors of ours, which become answers.
        observer: Told of errors that become answers, and of each request when it is over.
    """

    def __init__(self, app: ASGIApp, *, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(header_values(scope["headers"], REQUEST_ID))
        client = scope.get("client")
        watched = _Watched(scope, receive, send, request_id=request_id)
        with answering(CurrentRequest(request_id, client_host=client[0] if client else None)):
            try:
                await self._answer(watched)
            finally:
                self._observer(watched.ended())

    async def _answer(self, watched: "_Watched") -> None:
        try:
            await self._app(watched.scope, watched.receive, watched.send)
        except ClientGone:
            return
        except Exception as exc:
            if watched.status:
                # Half an answer is out: only a broken connection tells the client the truth.
                logger.exception("an answer broke off")
                raise ResponseBroken from exc
            error = translate(exc)
            if error is not exc:
                logger.exception("an error nobody handled")
            # Whoever got so far as to be known is told of by his scope.
            principal = watched.scope.get("principal")
            self._observer(RequestFailed(scope=principal and principal.known_scope, error=error))
            status, headers, body = render(error)
            await watched.send(
                {"type": "http.response.start", "status": status, "headers": headers}
            )
            if watched.scope["method"] == "HEAD":
                body = b""
            await watched.send({"type": "http.response.body", "body": body})


class _Watched:
    """One request and its answer, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        self.status = 0
        self._request_id = request_id
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._sent_bytes = 0
        self._began_at = time.monotonic()
        headers = scope["headers"]
        self.scope = {**scope, "headers": _named(headers, request_id)}
        # A request without these has no body (RFC 9112 §6.3): there is nothing to drain.
        self._is_body_complete = not (
            any(value.strip() != b"0" for value in header_values(headers, b"content-length"))
            or header_values(headers, b"transfer-encoding")
        )
        self._waits_for_continue = b"100-continue" in [
            value.lower() for value in header_values(headers, b"expect")
        ]
        self._server_lingers = LINGERS in scope.get("extensions", ())

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
            headers = _named(message.get("headers", ()), self._request_id)
            if not self._is_body_complete:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._sent_bytes += len(message.get("body", b""))
            if not message.get("more_body", False) and self._has_to_drain():
                await self._pass({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body"}
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as exc:  # ASGI HTTP 2.4: what a server raises when the client has left
            raise ClientGone from exc

    def _has_to_drain(self) -> bool:
        """Whether the client still sends; one that waits for `100 Continue` does not."""
        return not (self._is_body_complete or self._waits_for_continue or self._server_lingers)

    async def _drain(self) -> None:
        """Take what the client still sends, within the bounds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                bound = self._received_bytes + DRAIN_BYTES
                while not self._is_body_complete and self._received_bytes < bound:
                    await self.receive()

    def ended(self) -> RequestEnded:
        return RequestEnded(
            request_id=self._request_id,
            method=self.scope["method"],
            raw_path=self.scope["raw_path"].decode("latin-1"),
            status=self.status or _CLIENT_GONE,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            elapsed_s=time.monotonic() - self._began_at,
        )


def _named(headers: HeaderList, request_id: str) -> Headers:
    """The headers with this request id and no other; a request's own stays where it is."""
    value = request_id.encode("ascii")
    if header_values(headers, REQUEST_ID) == [value]:
        return list(headers)
    kept = [(name, value) for name, value in headers if name.lower() != REQUEST_ID]
    return [*kept, (REQUEST_ID, value)]
