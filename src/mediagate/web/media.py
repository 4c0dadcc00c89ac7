"""`/v1/media/<token>`: where an upstream fetches the files of a request that it is answering."""

from collections.abc import Sequence

from mediagate.operations.deliver import MEDIA_PATH, LeasedMedia
from mediagate.web.content import content_reply
from mediagate.web.replies import Reply
from mediagate.web.routing import Guard, Request, Route


class MediaApi:
    """The token is the permission: an upstream has no key of ours, and is no tenant."""

    def __init__(self, *, media: LeasedMedia) -> None:
        self._media = media

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (Route(MEDIA_PATH + "{}", {"GET": self.content}, guard=Guard.NONE),)

    async def content(self, request: Request) -> Reply:
        """The bytes of one leased file; those of a download under way are read to their end."""
        file, reader = await self._media.open(request.path[0])
        return await content_reply(
            file,
            asked=request.headers,
            chunks=reader.chunks,
            close=reader.close,
            disposition=b"attachment",
        )
