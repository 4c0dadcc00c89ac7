"""Rows in memory: the protocol in its plainest form, for tests and for stores that need not outlive the process.

No method awaits anything, so that each is one transaction by itself. What is looked up is scanned for: it is made for
thousands of files, not for millions.
"""

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mediagate.core.eviction import eviction_order
from mediagate.core.expiry import after_use, is_expired
from mediagate.core.files import BlobKey, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId, is_live
from mediagate.core.quotas import Quota, Usage, fits
from mediagate.core.scopes import Scope
from mediagate.core.store_key import KEY_BYTES, StoreKey
from mediagate.core.uploads import REMEMBERED_S, Part, PartId, Upload, UploadId, UploadStatus
from mediagate.index.driver import (
    CURSOR_S,
    Order,
    Page,
    Removal,
    ReservationLostError,
    State,
    UnknownCursorError,
)


@dataclass(slots=True)
class _Row:
    """`held_bytes` is None until the first reservation; `file` until the commit."""

    scope: Scope
    blob: BlobKey
    until: float
    state: State = State.RESERVED
    held_bytes: int | None = None
    file: FileObject | None = None
    is_part: bool = False


class MemoryIndex:
    """`Index` in memory."""

    def __init__(self) -> None:
        self._rows: dict[FileId, _Row] = {}
        self._leases: dict[LeaseId, dict[FileId, float]] = {}
        self._places: dict[FileId, tuple[Scope, int, float]] = {}
        self._uploads: dict[UploadId, Upload] = {}
        self._parts: dict[UploadId, list[Part]] = {}
        self._key = StoreKey(secrets.token_bytes(KEY_BYTES))

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def key(self) -> StoreKey:
        """The secret of this store."""
        return self._key

    # receive -----------------------------------------------------------------------------------------

    async def begin(self, file_id: FileId, *, scope: Scope, blob: BlobKey, until: float) -> None:
        """Insert a RESERVED row."""
        self._rows[file_id] = _Row(scope, blob, until)

    async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
        """Claim `extra_bytes` more."""
        row = self._reserved(file_id)
        own = self._usage(row.scope)
        is_new_file = row.held_bytes is None and not row.is_part
        own = Usage(own.used_bytes, own.files + is_new_file)
        scope_fits = fits(
            own, extra_bytes, max_bytes=quota.scope_bytes, max_files=quota.scope_files
        )
        store_fits = fits(
            self._usage(None), extra_bytes, max_bytes=quota.store_bytes, max_files=None
        )
        if scope_fits and store_fits:
            row.held_bytes = (row.held_bytes or 0) + extra_bytes
        return scope_fits and store_fits

    async def commit(self, file: FileObject) -> None:
        """RESERVED to READY."""
        row = self._reserved(file.id)
        if (row.scope, row.blob) != (file.scope, file.blob):
            raise ReservationLostError
        if row.held_bytes is None or row.held_bytes < file.size_bytes:
            raise ReservationLostError
        row.state, row.file, row.held_bytes = State.READY, file, file.size_bytes
        row.is_part = False

    async def abandon(self, file_id: FileId) -> None:
        """Remove a RESERVED row."""
        row = self._rows.get(file_id)
        if row is not None and row.state is State.RESERVED:
            del self._rows[file_id]

    # read --------------------------------------------------------------------------------------------

    async def get(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """The file, or None."""
        row = self._rows.get(file_id)
        if row is None or row.file is None or row.state is not State.READY or row.scope != scope:
            return None
        return None if is_expired(row.file.expires_at, now) else row.file

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
        falling = order is Order.DESC
        found = [
            f
            for f in self._ready()
            if f.scope == scope and not is_expired(f.expires_at, now)
            if purpose is None or f.purpose is purpose
        ]
        if after is not None:
            cursor = (self._place(after, scope), after)
            found = [
                f
                for f in found
                if (f.created_at, f.id) != cursor and falling == ((f.created_at, f.id) < cursor)
            ]
        found.sort(key=lambda f: (f.created_at, f.id), reverse=falling)
        return Page(files=found[:limit], has_more=len(found) > limit)

    async def exists(self, file_id: FileId, *, now: float) -> bool:
        """Whether there is such a file."""
        row = self._rows.get(file_id)
        return row is not None and await self.get(file_id, scope=row.scope, now=now) is not None

    async def usage(self, scope: Scope | None = None) -> Usage:
        """What `scope`, or the whole store, takes."""
        return self._usage(scope)

    async def reserved(self) -> Usage:
        """What RESERVED rows take."""
        return _usage_of(row for row in self._rows.values() if row.state is State.RESERVED)

    # lease -------------------------------------------------------------------------------------------

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
        leased: dict[FileId, FileObject] = {}
        for file_id in file_ids:
            file = await self.get(file_id, scope=scope, now=now)
            if file is None:
                continue
            expires_at = after_use(file.expires_at, file.ttl_s, now)
            leased[file_id] = replace(file, last_used_at=now, expires_at=expires_at)
            self._rows[file_id].file = leased[file_id]
            claims = self._leases.setdefault(lease_id, {})
            claims[file_id] = max(until, claims.get(file_id, until))
        return leased

    async def leased(self, lease_id: LeaseId, position: int, *, now: float) -> FileObject | None:
        """The file at `position` of a live lease."""
        claims = sorted(self._leases.get(lease_id, {}).items())
        rows = [self._rows.get(file_id) for file_id, until in claims if is_live(until, now)]
        held = [row.file for row in rows if row is not None and row.file is not None]
        return held[position] if position < len(held) else None

    async def renew(
        self, *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        """Prolong claims."""
        for lease_id in leases:
            claims = self._leases.get(lease_id, {})
            claims.update({file_id: max(until, was) for file_id, was in claims.items()})
        for file_id in reservations:
            row = self._rows.get(file_id)
            if row is not None and row.state is State.RESERVED:
                row.until = max(row.until, until)

    async def release(self, lease_id: LeaseId, *, now: float) -> Sequence[Removal]:
        """End a lease."""
        ended = self._leases.pop(lease_id, {})
        return [r for r in self._removals(now) if is_live(ended.get(r.id, now), now)]

    # uploads -----------------------------------------------------------------------------------------

    async def begin_upload(self, upload: Upload, *, quota: Quota) -> bool:
        """Insert an Upload."""
        self._rows[upload.id] = _Row(upload.scope, upload.blob, upload.expires_at)
        if not await self.reserve(upload.id, 0, quota=quota):
            del self._rows[upload.id]
            return False
        self._uploads[upload.id], self._parts[upload.id] = upload, []
        return True

    async def get_upload(self, upload_id: UploadId, *, scope: Scope) -> Upload | None:
        """The Upload, or None."""
        upload = self._uploads.get(upload_id)
        return upload if upload is not None and upload.scope == scope else None

    async def parts(self, upload_id: UploadId) -> Sequence[Part]:
        """In the order of their arrival."""
        return list(self._parts.get(upload_id, ()))

    async def begin_part(
        self, part_id: PartId, *, scope: Scope, blob: BlobKey, until: float
    ) -> None:
        """Insert a RESERVED row that counts as no file."""
        self._rows[part_id] = _Row(scope, blob, until, is_part=True)

    async def add_part(self, part: Part, *, now: float) -> bool:
        """Make a part belong to its Upload."""
        upload = self._unexpired(part.upload_id, now)
        if upload is None:
            return False
        row = self._reserved(part.id)
        if (row.held_bytes or 0) < part.size_bytes:
            raise ReservationLostError
        if part.blob == upload.blob:
            if part.start != upload.trunk_bytes:
                return False
            trunk = self._reserved(upload.id)
            trunk.held_bytes = (trunk.held_bytes or 0) + part.size_bytes
            upload = replace(upload, trunk_bytes=part.stop)
            del self._rows[part.id]
        else:
            row.held_bytes, row.until = part.size_bytes, upload.expires_at
        self._uploads[upload.id] = replace(upload, parts=upload.parts + 1)
        self._parts[upload.id].append(part)
        return True

    async def claim_upload(
        self, upload_id: UploadId, *, blob: BlobKey, now: float, until: float
    ) -> bool:
        """Claim to complete an Upload."""
        upload = self._unexpired(upload_id, now)
        if upload is None or upload.file_id in self._rows:
            return False
        self._rows[upload.file_id] = _Row(upload.scope, blob, until, is_part=True)
        return True

    async def complete_upload(
        self, upload_id: UploadId, file: FileObject, *, part_order: str
    ) -> bool:
        """PENDING to COMPLETED, and the file READY."""
        upload = self._uploads.get(upload_id)
        if upload is None or upload.status is not UploadStatus.PENDING:
            return False
        before = replace(self._reserved(file.id))
        claim = self._rows[file.id]
        if file.blob == upload.blob:
            trunk = self._reserved(upload_id)
            claim.blob = trunk.blob
            claim.held_bytes = (claim.held_bytes or 0) + (trunk.held_bytes or 0)
        try:
            await self.commit(file)
        except ReservationLostError:
            self._rows[file.id] = before
            raise
        if file.blob == upload.blob:
            del self._rows[upload_id]
        else:
            self._drop(upload_id, is_part=True)
        self._end(replace(upload, status=UploadStatus.COMPLETED, part_order=part_order))
        return True

    async def cancel_upload(self, upload_id: UploadId, *, now: float) -> bool:
        """PENDING to CANCELLED."""
        upload = self._unexpired(upload_id, now)
        if upload is None:
            return False
        self._drop(upload_id, is_part=False)
        self._end(replace(upload, status=UploadStatus.CANCELLED))
        return True

    # remove ------------------------------------------------------------------------------------------

    async def delete(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """READY to DELETING."""
        file = await self.get(file_id, scope=scope, now=now)
        return None if file is None else self._remove(file, now)

    async def expire(self, *, now: float, limit: int) -> Sequence[FileObject]:
        """Expired READY rows to DELETING."""
        expired = [f for f in self._ready() if is_expired(f.expires_at, now)]
        expired.sort(key=lambda f: f.expires_at or now)
        return [self._remove(f, now) for f in expired[:limit]]

    async def evict(self, *, scope: Scope, now: float) -> FileObject | None:
        """The least recently used unleased READY row of `scope` to DELETING."""
        candidates = [
            f for f in self._ready() if f.scope == scope and not self._is_leased(f.id, now)
        ]
        victims = eviction_order(candidates)
        return self._remove(victims[0], now) if victims else None

    async def lapse(self, *, now: float, limit: int) -> int:
        """Sweep claims and cursors whose time is up."""
        lapsed = [
            row
            for row in self._rows.values()
            if row.state is State.RESERVED and not is_live(row.until, now)
        ]
        for row in lapsed[:limit]:
            row.state = State.DELETING
        for lease_id, claims in tuple(self._leases.items()):
            live = {file_id: until for file_id, until in claims.items() if is_live(until, now)}
            if live:
                self._leases[lease_id] = live
            else:
                del self._leases[lease_id]
        self._places = {
            file_id: place for file_id, place in self._places.items() if is_live(place[2], now)
        }
        for upload in tuple(self._uploads.values()):
            if is_expired(upload.expires_at, now - REMEMBERED_S):
                del self._uploads[upload.id], self._parts[upload.id]
        return min(len(lapsed), limit)

    async def removable(self, *, now: float, limit: int) -> Sequence[Removal]:
        """Rows in DELETING that no live lease holds."""
        return self._removals(now)[:limit]

    async def forget(self, file_ids: Collection[FileId]) -> None:
        """Remove rows in DELETING."""
        for file_id in file_ids:
            row = self._rows.get(file_id)
            if row is not None and row.state is State.DELETING:
                del self._rows[file_id]

    async def without_row(self, blobs: Collection[BlobKey]) -> set[BlobKey]:
        """Those of `blobs` that no row names."""
        return set(blobs) - {row.blob for row in self._rows.values()}

    # -------------------------------------------------------------------------------------------------

    def _reserved(self, file_id: FileId) -> _Row:
        row = self._rows.get(file_id)
        if row is None or row.state is not State.RESERVED:
            raise ReservationLostError
        return row

    def _unexpired(self, upload_id: UploadId, now: float) -> Upload | None:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.status_at(now) is not UploadStatus.PENDING:
            return None
        return upload

    def _end(self, upload: Upload) -> None:
        self._uploads[upload.id] = upload
        for part in self._parts[upload.id]:
            self._drop(part.id, is_part=True)
        self._parts[upload.id] = []

    def _drop(self, row_id: FileId, *, is_part: bool) -> None:
        row = self._rows.get(row_id)
        if row is not None and row.state is State.RESERVED:
            row.state, row.is_part = State.DELETING, is_part

    def _usage(self, scope: Scope | None) -> Usage:
        return _usage_of(row for row in self._rows.values() if scope in (None, row.scope))

    def _ready(self) -> Iterator[FileObject]:
        return (r.file for r in self._rows.values() if r.file and r.state is State.READY)

    def _place(self, file_id: FileId, scope: Scope) -> int:
        row = self._rows.get(file_id)
        if row is not None and row.file is not None:
            owner, created_at = row.scope, row.file.created_at
        elif file_id in self._places:
            owner, created_at, _ = self._places[file_id]
        else:
            raise UnknownCursorError
        if owner != scope:
            raise UnknownCursorError
        return created_at

    def _is_leased(self, file_id: FileId, now: float) -> bool:
        return any(is_live(claims.get(file_id, now), now) for claims in self._leases.values())

    def _removals(self, now: float) -> Sequence[Removal]:
        return [
            Removal(file_id, row.scope, row.blob, row.held_bytes or 0)
            for file_id, row in self._rows.items()
            if row.state is State.DELETING and not self._is_leased(file_id, now)
        ]

    def _remove(self, file: FileObject, now: float) -> FileObject:
        self._rows[file.id].state = State.DELETING
        self._places[file.id] = (file.scope, file.created_at, now + CURSOR_S)
        return file


def _usage_of(rows: Iterable[_Row]) -> Usage:
    taking = [row for row in rows if row.held_bytes is not None]
    return Usage(
        used_bytes=sum(row.held_bytes or 0 for row in taking),
        files=sum(not row.is_part for row in taking),
    )
