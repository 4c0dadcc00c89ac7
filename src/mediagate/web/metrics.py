"""What Prometheus scrapes."""

from collections.abc import Sequence

from mediagate.observe.metrics import (
    CONTENT_TYPE,
    FILES,
    QUOTA_BYTES,
    RESERVED_BYTES,
    USED_BYTES,
    Metrics,
)
from mediagate.operations.files import Files
from mediagate.web.replies import BodyReply, Reply
from mediagate.web.routing import Guard, Request, Route


class MetricsApi:
    """`/metrics`; an upstream's own is hidden by it.

    Args:
        files: Asked for what the store holds.
        metrics: What was counted.
        quota_bytes: The store's.
    """

    def __init__(self, *, files: Files, metrics: Metrics, quota_bytes: int) -> None:
        self._files = files
        self._metrics = metrics
        self._quota_bytes = quota_bytes

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (Route("/metrics", {"GET": self.scrape}, guard=Guard.KEY),)

    async def scrape(self, _request: Request) -> Reply:
        """Numbers for Prometheus."""
        usage, reserved = await self._files.usage()
        body = self._metrics.text(
            {
                USED_BYTES: usage.used_bytes,
                RESERVED_BYTES: reserved.used_bytes,
                FILES: usage.files,
                QUOTA_BYTES: self._quota_bytes,
            }
        ).encode()
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        return BodyReply(body, headers=headers)
