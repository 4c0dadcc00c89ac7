"""Our own routes in one list; what none of them matches goes to `otherwise`."""

from collections.abc import Sequence

from mediagate.web.asgi import ASGIApp, Receive, Scope, Send
from mediagate.web.auth import Authenticator
from mediagate.web.body import Body, Patience
from mediagate.web.routing import Guard, Request, Route, query_of


class WebApp:
    """Authorises every request, answers those for our routes, hands on the rest.

    Args:
        routes: What is ours.
        authenticator: Who may come in.
        patience: With slow bodies.
        otherwise: Everything else; finds the caller as `scope["principal"]`, as does whoever called this app.
        guard: What everything else has to show.
    """

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        authenticator: Authenticator,
        patience: Patience,
        otherwise: ASGIApp,
        guard: Guard = Guard.TENANT,
    ) -> None:
        self._routes = routes
        self._authenticator = authenticator
        self._patience = patience
        self._otherwise = otherwise
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # A server of the WebSocket kind, which ours is not, turns this into a 403 before the handshake.
            await send({"type": "websocket.close"})
            return
        headers = scope["headers"]
        found = self._match(scope["raw_path"])
        guard = self._guard if found is None else found[0].guard
        principal = scope["principal"] = self._authenticator.principal_of(scope, guard=guard)
        if found is None:
            headers = self._authenticator.for_upstream(headers)
            await self._otherwise({**scope, "headers": headers}, receive, send)
            return
        route, values = found
        request = Request(
            principal=principal,
            path=values,
            query=query_of(scope),
            headers=headers,
            body=Body(headers, receive, patience=self._patience),
        )
        reply = await route.handler(scope["method"])(request)
        await reply(scope, receive, send)

    def _match(self, raw_path: bytes) -> tuple[Route, tuple[str, ...]] | None:
        for route in self._routes:
            values = route.match(raw_path)
            if values is not None:
                return route, values
        return None
