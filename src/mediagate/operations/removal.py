"""The way out: the row is in DELETING first, then the bytes go, then the row is forgotten.

A crash between two steps leaves a row in DELETING, which the next sweep finds; never a visible row without bytes.
"""

import logging
import time
from collections.abc import Callable, Iterable

from mediagate.blobs.store import BlobStore
from mediagate.index.driver import Index, Removal

BATCH = 500

logger = logging.getLogger(__name__)


class Remover:
    """Removes the bytes of rows that nobody may see and no lease holds any more."""

    def __init__(
        self, *, index: Index, blobs: BlobStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._index = index
        self._blobs = blobs
        self._clock = clock

    async def remove(self, removals: Iterable[Removal]) -> int:
        """Remove bytes, then rows; how many. Bytes that cannot be removed keep their row, and no other's."""
        ids = [removal.id for removal in removals if await self._has_removed(removal)]
        if ids:
            await self._index.forget(ids)
        return len(ids)

    async def _has_removed(self, removal: Removal) -> bool:
        try:
            await self._blobs.delete(removal.blob)
        except Exception:
            logger.exception("the bytes of a file were not removed; the next sweep tries again")
            return False
        return True

    async def remove_all(self) -> None:
        """Remove everything that waits for it."""
        while removals := await self._index.removable(now=self._clock(), limit=BATCH):
            if not await self.remove(removals):
                return
