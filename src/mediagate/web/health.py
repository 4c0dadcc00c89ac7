"""Is the process alive, is it ready? Both need no key."""

from collections.abc import Sequence

from mediagate.operations.files import Files
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Guard, Request, Route


class Health:
    """`/health`: the event loop turns. `/ready`: the store answers too."""

    def __init__(self, *, files: Files) -> None:
        self._files = files

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (
            Route("/health", {"GET": self.health}, guard=Guard.NONE),
            Route("/ready", {"GET": self.ready}, guard=Guard.NONE),
        )

    async def health(self, _request: Request) -> Reply:
        """The process is alive."""
        return JsonReply({"status": "ok"})

    async def ready(self, _request: Request) -> Reply:
        """The index answers a question."""
        await self._files.check()
        return JsonReply({"status": "ready"})
