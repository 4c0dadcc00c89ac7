"""Who connects, where uvicorn says for whom.

`--trusted-proxy` names the addresses that may name a tenant: those at the other end of the connection. uvicorn replaces
that address by what `X-Forwarded-For` says, if it comes from an address that uvicorn believes: this machine, or what
FORWARDED_ALLOW_IPS says, in containers often everybody. Then a proxy that names its client would not be recognised, and
whoever writes the proxy's address into that line would be taken for it. So the address is noted before.
"""

import functools
from typing import Any

from mediagate.web.asgi import Receive, Scope, Send

_PEER = "mediagate.peer"
"""Key of a connection's scope."""


def note_peers() -> None:
    """From now on, in this process. Idempotent.

    Raises:
        ImportError: This uvicorn does so elsewhere, so that nobody can be trusted.
    """
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    middleware: Any = ProxyHeadersMiddleware
    replace = middleware.__call__
    if getattr(replace, "is_of_mediagate", False):
        return

    @functools.wraps(replace)
    async def note_and_replace(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_PEER] = scope.get("client")
        await replace(self, scope, receive, send)

    note_and_replace.is_of_mediagate = True  # type: ignore[attr-defined]
    middleware.__call__ = note_and_replace


def peer_of(scope: Scope) -> tuple[str, int] | None:
    """The address at the other end of the connection; None: it has none, as at a Unix socket."""
    peer: tuple[str, int] | None = scope.get(_PEER, scope.get("client"))
    return peer
