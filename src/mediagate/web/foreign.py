"""Clients of other vendors' Files APIs, which live on the same paths: told in their own words that this is not theirs.

An answer in OpenAI's shape would be taken for a success without content: Anthropic's client reads a file object with no
type, no size and no name in it.
"""

from mediagate.observe.request import current_request
from mediagate.web.asgi import ASGIApp, HeaderList, Receive, Scope, Send
from mediagate.web.replies import JsonReply, Reply

_PATHS = (b"/v1/files", b"/v1/uploads")
_ANTHROPIC = b"anthropic-version"
_GOOGLE = b"x-goog-"
_MESSAGE = "This server's files are OpenAI's Files API: {} has none here."


class ForeignDialects:
    """Answers those clients; hands on everybody else's requests.

    Before any key is looked at: the answer says nothing about the store, and the client could not read another one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refusal = None
        if scope["type"] == "http" and _is_ours(scope["raw_path"]):
            refusal = _refusal(scope["headers"])
        await (refusal or self._app)(scope, receive, send)


def _is_ours(raw_path: bytes) -> bool:
    return any(raw_path == path or raw_path.startswith(path + b"/") for path in _PATHS)


def _refusal(headers: HeaderList) -> Reply | None:
    names = {name.lower() for name, _ in headers}
    if _ANTHROPIC in names:
        current = current_request()
        return JsonReply(
            {
                "type": "error",
                "error": {"type": "not_found_error", "message": _MESSAGE.format("Anthropic's")},
                "request_id": None if current is None else current.id,
            },
            status=404,
        )
    if any(name.startswith(_GOOGLE) for name in names):
        message = _MESSAGE.format("Google's")
        return JsonReply(
            {"error": {"code": 404, "message": message, "status": "NOT_FOUND"}}, status=404
        )
    return None
