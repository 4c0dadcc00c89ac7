"""Is the process alive, is it ready? Both need no key."""

from collections.abc import Sequence

from mediagate.operations.files import Files
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Request, Route

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What answers without a key."""


class Health:
    """`/health`: the event loop turns. `/ready`: the store answers too."""

    def __init__(self, *, files: Files) -> None:
        self._files = files

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (Route("/health", {"GET": self.health}), Route("/ready", {"GET": self.ready}))

    async def health(self, _request: Request) -> Reply:
        """The process is alive."""
        return JsonReply({"status": "ok"})

    async def ready(self, _request: Request) -> Reply:
        """The index answers a question."""
        await self._files.check()
        return JsonReply({"status": "ready"})
