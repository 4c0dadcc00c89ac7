"""Keeping what this process holds: leases on files in use, reservations of files being received.

Claims lapse by themselves (`core.leases`); one task renews all of this process's claims together.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping

from mediagate.core.files import FileId, FileObject
from mediagate.core.leases import LEASE_S, RENEW_EVERY_S, LeaseId, new_lease_id
from mediagate.core.scopes import Scope
from mediagate.executor import complete
from mediagate.index.driver import Index
from mediagate.operations.removal import Remover

logger = logging.getLogger(__name__)


class Claims:
    """The live claims of this process.

    Args:
        index: Where claims are kept.
        remover: Removes what only waited for the end of a lease.
        clock: Unix seconds.
        lease_s: How long a claim lives without renewal, in seconds.
        renew_every_s: How often all are renewed, in seconds.
    """

    def __init__(
        self,
        *,
        index: Index,
        remover: Remover,
        clock: Callable[[], float] = time.time,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._index = index
        self._remover = remover
        self._clock = clock
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._leases: set[LeaseId] = set()
        self._reservations: set[FileId] = set()

    def until(self) -> float:
        """When a claim made now lapses, in Unix seconds."""
        return self._clock() + self._lease_s

    async def hold(self, file_ids: Collection[FileId], *, scope: Scope) -> "Hold":
        """Lease those of `file_ids` that exist for `scope`; `Hold.files` tells which. A use: it touches them."""
        lease_id = new_lease_id()
        self._leases.add(lease_id)
        try:
            files = await self._index.lease(
                file_ids, lease_id=lease_id, scope=scope, now=self._clock(), until=self.until()
            )
        except BaseException:
            # A cancelled call may have happened: the lease then lapses by itself.
            self._leases.discard(lease_id)
            raise
        return Hold(self, lease_id, files)

    async def exists(self, file_id: FileId) -> bool:
        """Whether there is such a file, whoever owns it: for what the operator is told, and for nothing else."""
        return await self._index.exists(file_id, now=self._clock())

    async def end(self, lease_id: LeaseId) -> None:
        """Give a lease back, and remove what was only waiting for that; a failure of this is logged."""
        self._leases.discard(lease_id)
        await complete(self._release(lease_id))

    async def _release(self, lease_id: LeaseId) -> None:
        try:
            await self._remover.remove(await self._index.release(lease_id, now=self._clock()))
        except Exception:
            # No reason to fail the request that ends here.
            logger.exception("a lease was not given back; it lapses by itself")

    def add_reservation(self, file_id: FileId) -> None:
        """Keep a reservation alive."""
        self._reservations.add(file_id)

    def drop_reservation(self, file_id: FileId) -> None:
        """Keep it alive no longer."""
        self._reservations.discard(file_id)

    async def keep(self) -> None:
        """Renew all claims for ever; run it as a task."""
        while True:
            await asyncio.sleep(self._renew_every_s)
            if self._leases or self._reservations:
                try:
                    await self._index.renew(
                        leases=tuple(self._leases),
                        reservations=tuple(self._reservations),
                        until=self.until(),
                    )
                except Exception:
                    logger.exception("claims were not renewed; trying again")


class Hold:
    """Files that stay readable until `release`.

    Attributes:
        lease_id: The lease.
        files: Those that exist for the caller, by id.
    """

    def __init__(
        self, claims: Claims, lease_id: LeaseId, files: Mapping[FileId, FileObject]
    ) -> None:
        self._claims = claims
        self._is_released = False
        self.lease_id = lease_id
        self.files = files

    async def release(self) -> None:
        """End the claim. Safe to call more than once."""
        if not self._is_released:
            self._is_released = True
            await self._claims.end(self.lease_id)
