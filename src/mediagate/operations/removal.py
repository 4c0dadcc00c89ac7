"""The way out: the row is in DELETING first, then the bytes go, then the row is forgotten.

A crash between two steps leaves a row in DELETING, which the next sweep finds; never a visible row without bytes.
"""

import time
from collections.abc import Callable, Iterable

from mediagate.blobs.store import BlobStore
from mediagate.index.driver import Index, Removal

BATCH = 500


class Remover:
    """Removes the bytes of rows that nobody may see and no lease holds any more."""

    def __init__(
        self, *, index: Index, blobs: BlobStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._index = index
        self._blobs = blobs
        self._clock = clock

    async def remove(self, removals: Iterable[Removal]) -> None:
        """Remove bytes, then rows."""
        ids = []
        for removal in removals:
            await self._blobs.delete(removal.blob)
            ids.append(removal.id)
        if ids:
            await self._index.forget(ids)

    async def remove_all(self) -> None:
        """Remove everything that waits for it."""
        while removals := await self._index.removable(now=self._clock(), limit=BATCH):
            await self.remove(removals)
