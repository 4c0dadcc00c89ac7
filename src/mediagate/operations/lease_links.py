"""The links of leased files: made for a request, dropped with it, swept when their process could not.

A link is made after its lease, and named after it. So one whose lease is not live is left behind, whichever process
made it: the names are listed first, and the leases asked for afterwards.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from mediagate.blobs.driver import BlobMissingError
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.core.errors import InternalError
from mediagate.core.files import FileObject
from mediagate.core.leases import LeaseId
from mediagate.index.driver import Index
from mediagate.operations.files import file_not_found

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 60.0

_LEASE_DIGITS = 32


class LeaseLinks:
    """What an engine on the same disk finds in the lease directory, and for how long.

    Args:
        directory: Where the links are; open.
        index: Knows the leases.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        directory: LeaseDirectory,
        index: Index,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._index = index
        self._clock = clock

    async def add(self, lease_id: LeaseId, position: int, file: FileObject) -> str:
        """Link a file that a live lease holds.

        Args:
            lease_id: The lease.
            position: Of the file among those of the lease, in the order of their ids, from 0; once each.
            file: The file.

        Returns:
            The link's name: the lease and the position.

        Raises:
            FileNotFound: Its bytes are gone.
            DiskFullError: There is no room for a name.
            InternalError: The directory is not what it was; the log says what is wrong with it.
        """
        name = f"{lease_id}{position:04x}"
        try:
            await self._directory.link(name, file.blob)
        except BlobMissingError:
            raise file_not_found() from None
        except OSError as exc:
            logger.warning("cannot make links in %s: %s", self._directory.path, exc.strerror or exc)
            raise InternalError(
                "The server could not hand the file to the inference server. Why is in its log."
            ) from exc
        return name

    async def drop(self, names: Collection[str]) -> None:
        """Remove links of a request that is over; missing ones are no error, and a failure is logged."""
        try:
            await self._directory.unlink(names)
        except OSError:
            # No reason to fail the request that ends here.
            logger.exception("links were not removed; the next sweep tries again")

    async def sweep(self) -> None:
        """Remove the links whose lease is not live."""
        names = await self._directory.names()
        await self._directory.unlink([name for name in names if not await self._is_leased(name)])

    async def _is_leased(self, name: str) -> bool:
        lease_id, position = LeaseId(name[:_LEASE_DIGITS]), int(name[_LEASE_DIGITS:], 16)
        return await self._index.leased(lease_id, position, now=self._clock()) is not None

    async def run(self, *, every_s: float = SWEEP_EVERY_S) -> None:
        """Sweep for ever, at once first; run it as a task. A failure is logged and tried again."""
        while True:
            try:
                await self.sweep()
            except Exception:
                logger.exception("links that were left behind were not removed; trying again")
            await asyncio.sleep(every_s)
