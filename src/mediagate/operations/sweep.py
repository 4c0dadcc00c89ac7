"""The pass that expires, lapses and collects, whether or not anybody calls the server."""

import asyncio
import logging
import time
from collections.abc import Callable

from mediagate.blobs.store import BlobStore
from mediagate.core.events import FileExpired, Observer
from mediagate.index.driver import Index
from mediagate.operations.removal import BATCH, Remover

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 10.0
COLLECT_EVERY_S = 3600.0


class Sweeper:
    """Keeps the store honest. Every process that shares a store may run one: each step is idempotent."""

    def __init__(
        self,
        *,
        index: Index,
        blobs: BlobStore,
        remover: Remover,
        observer: Observer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._blobs = blobs
        self._remover = remover
        self._observer = observer
        self._clock = clock

    async def sweep(self) -> None:
        """Expire files, drop claims that lapsed, remove the bytes of both."""
        while expired := await self._index.expire(now=self._clock(), limit=BATCH):
            for file in expired:
                self._observer(
                    FileExpired(scope=file.scope, file_id=file.id, size_bytes=file.size_bytes)
                )
        while await self._index.lapse(now=self._clock(), limit=BATCH):
            pass  # an Upload may have thousands of parts
        await self._remover.remove_all()

    async def collect(self) -> None:
        """Remove orphans: blobs that no row names.

        A row is there before its blob is, so the keys are listed first and the rows asked for afterwards: a blob
        that is only just being written has its row by then, however young it is.
        """
        async for keys in self._blobs.list():
            if keys:
                for orphan in await self._index.without_row(keys):
                    await self._blobs.delete(orphan)

    async def run(
        self, *, sweep_every_s: float = SWEEP_EVERY_S, collect_every_s: float = COLLECT_EVERY_S
    ) -> None:
        """Sweep for ever; run it as a task. A failure is logged and tried again."""
        collect_at = time.monotonic()
        while True:
            try:
                await self.sweep()
                if time.monotonic() >= collect_at:
                    await self.collect()
                    collect_at = time.monotonic() + collect_every_s
            except Exception:
                logger.exception("the sweep failed; trying again")
            await asyncio.sleep(sweep_every_s)
