"""The end of the way in a side-car: all that is not about files is somebody else's."""

from mediagate.core.errors import RouteNotFound
from mediagate.web.asgi import Receive, Scope, Send


async def refuse_the_rest(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer no request, and read none: a body that came here by mistake may be large.

    Raises:
        RouteNotFound: Always.
    """
    raise RouteNotFound(
        "This server answers for files only, at /v1/files and /v1/uploads. "
        "Send all other requests to the inference server beside it."
    )
