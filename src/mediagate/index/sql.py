"""Rows in a SQL database. What each method does is in `transactions`; here is said how durable it has to be."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

from mediagate.core.files import BlobKey, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey
from mediagate.core.uploads import Part, PartId, Upload, UploadId
from mediagate.index import transactions, upload_transactions
from mediagate.index.driver import Order, Page, Removal
from mediagate.index.sqlite import Sqlite


class SqlIndex:
    """`Index` on a SQL database.

    Rows that follow durable bytes (`commit`, `add_part`, `complete_upload`) or precede their removal (`delete`,
    `expire`, `evict`, `cancel_upload`) are durable on return. The rest may be lost in a power cut, which no promise
    depends on: a lost reservation leaves an orphan, a lost lease had no process left, a row that was forgotten is
    forgotten again.

    The periodic calls look first and take the write lock only if there is work.

    Args:
        database: Runs transactions.
    """

    def __init__(self, *, database: Sqlite) -> None:
        self._database = database

    @classmethod
    def sqlite(cls, path: Path, *, durable: bool = True, busy_timeout_s: float = 10.0) -> Self:
        """On the SQLite file at `path`, which any number of processes of this machine may share; see `Sqlite`."""
        return cls(database=Sqlite(path, durable=durable, busy_timeout_s=busy_timeout_s))

    async def open(self) -> None:
        """Create or upgrade the schema, connect."""
        await self._database.open()

    async def close(self) -> None:
        """Disconnect."""
        await self._database.close()

    async def key(self) -> StoreKey:
        """The secret of this store."""
        return await self._database.read(transactions.key)

    async def begin(self, file_id: FileId, *, scope: Scope, blob: BlobKey, until: float) -> None:
        """Insert a RESERVED row."""
        await self._database.write(transactions.begin, file_id, scope, blob, until)

    async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
        """Claim `extra_bytes` more."""
        try:
            await self._database.write(transactions.reserve, file_id, extra_bytes, quota)
        except transactions.NoRoomError:
            return False
        return True

    async def commit(self, file: FileObject) -> None:
        """RESERVED to READY, durably."""
        await self._database.write_durably(transactions.commit, file)

    async def abandon(self, file_id: FileId) -> None:
        """Remove a RESERVED row."""
        await self._database.write(transactions.abandon, file_id)

    async def get(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """The file, or None."""
        return await self._database.read(transactions.get, file_id, scope, now)

    async def list(
        self,
        *,
        scope: Scope,
        now: float,
        limit: int,
        order: Order = Order.DESC,
        after: FileId | None = None,
        purpose: Purpose | None = None,
    ) -> Page:
        """One page."""
        return await self._database.read(
            transactions.list_files, scope, now, limit, order, after, purpose
        )

    async def exists(self, file_id: FileId, *, now: float) -> bool:
        """Whether there is such a file."""
        return await self._database.read(transactions.exists, file_id, now)

    async def usage(self, scope: Scope | None = None) -> Usage:
        """What `scope`, or the whole store, takes."""
        return await self._database.read(transactions.usage_of, scope)

    async def reserved(self) -> Usage:
        """What RESERVED rows take."""
        return await self._database.read(transactions.reserved)

    async def lease(
        self,
        file_ids: Collection[FileId],
        *,
        lease_id: LeaseId,
        scope: Scope,
        now: float,
        until: float,
    ) -> dict[FileId, FileObject]:
        """Look up, authorise, touch and lease."""
        if not file_ids:
            return {}
        return await self._database.write(transactions.lease, file_ids, lease_id, scope, now, until)

    async def leased(self, lease_id: LeaseId, position: int, *, now: float) -> FileObject | None:
        """The file at `position` of a live lease."""
        return await self._database.read(transactions.leased, lease_id, position, now)

    async def renew(
        self, *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        """Prolong claims."""
        if leases or reservations:
            await self._database.write(transactions.renew, leases, reservations, until)

    async def release(self, lease_id: LeaseId, *, now: float) -> Sequence[Removal]:
        """End a lease."""
        return await self._database.write(transactions.release, lease_id, now)

    async def begin_upload(self, upload: Upload, *, quota: Quota) -> bool:
        """Insert an Upload."""
        try:
            await self._database.write(upload_transactions.begin_upload, upload, quota)
        except transactions.NoRoomError:
            return False
        return True

    async def get_upload(self, upload_id: UploadId, *, scope: Scope) -> Upload | None:
        """The Upload, or None."""
        return await self._database.read(upload_transactions.get_upload, upload_id, scope)

    async def parts(self, upload_id: UploadId) -> Sequence[Part]:
        """In the order of their arrival."""
        return await self._database.read(upload_transactions.parts_of, upload_id)

    async def begin_part(
        self, part_id: PartId, *, scope: Scope, blob: BlobKey, until: float
    ) -> None:
        """Insert a RESERVED row that counts as no file."""
        await self._database.write(upload_transactions.begin_part, part_id, scope, blob, until)

    async def add_part(self, part: Part, *, now: float) -> bool:
        """Make a part belong to its Upload, durably."""
        return await self._database.write_durably(upload_transactions.add_part, part, now)

    async def claim_upload(
        self, upload_id: UploadId, *, blob: BlobKey, now: float, until: float
    ) -> bool:
        """Claim to complete an Upload."""
        return await self._database.write(
            upload_transactions.claim_upload, upload_id, blob, now, until
        )

    async def complete_upload(
        self, upload_id: UploadId, file: FileObject, *, part_order: str
    ) -> bool:
        """PENDING to COMPLETED, and the file READY, durably."""
        return await self._database.write_durably(
            upload_transactions.complete_upload, upload_id, file, part_order
        )

    async def cancel_upload(self, upload_id: UploadId, *, now: float) -> bool:
        """PENDING to CANCELLED, durably."""
        return await self._database.write_durably(upload_transactions.cancel_upload, upload_id, now)

    async def delete(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """READY to DELETING, durably."""
        return await self._database.write_durably(transactions.delete, file_id, scope, now)

    async def expire(self, *, now: float, limit: int) -> Sequence[FileObject]:
        """Expired READY rows to DELETING, durably."""
        if not await self._database.read(transactions.any_expired, now):
            return ()
        return await self._database.write_durably(transactions.expire, now, limit)

    async def evict(self, *, scope: Scope, now: float) -> FileObject | None:
        """The least recently used unleased READY row of `scope` to DELETING, durably."""
        return await self._database.write_durably(transactions.evict, scope, now)

    async def lapse(self, *, now: float, limit: int) -> int:
        """Sweep claims and cursors whose time is up."""
        if not await self._database.read(transactions.any_lapsed, now):
            return 0
        return await self._database.write(transactions.lapse, now, limit)

    async def removable(self, *, now: float, limit: int) -> Sequence[Removal]:
        """Rows in DELETING that no live lease holds."""
        return await self._database.read(transactions.removable, now, limit)

    async def forget(self, file_ids: Collection[FileId]) -> None:
        """Remove rows in DELETING."""
        if file_ids:
            await self._database.write(transactions.forget, file_ids)

    async def without_row(self, blobs: Collection[BlobKey]) -> set[BlobKey]:
        """Those of `blobs` that no row names."""
        if not blobs:
            return set()
        return await self._database.read(transactions.without_row, blobs)
