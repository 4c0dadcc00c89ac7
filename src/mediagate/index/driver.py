"""What an index must do: each method is one transaction, atomic over all processes that share the index.

A row passes through three states, never backwards:

    RESERVED ── commit ──▶ READY ── delete, expire, evict ──▶ DELETING ── forget ──▶ (no row)
        └───────────────────── abandon, lapse ────────────────────┘

- **RESERVED**: bytes are arriving. The row exists *before* the first byte is written, so a blob whose key has no row
  is an orphan, whatever its age.
- **READY**: what clients see, as long as it is not expired. Expired rows are invisible at once, swept later.
- **DELETING**: invisible; the bytes are removed when no lease is live, then the row is forgotten.

An Upload takes space in rows of its own, all of them RESERVED for as long as it is pending, so that quota, lapse,
removal and the search for orphans know nothing of Uploads: one row for its trunk, one for each part that is arriving or
has a blob of its own, one for the file while it is put together. The trunk's row counts as a file, the others as none.

Space counts from `reserve` until `abandon` or `forget`, for the scope and for the whole store; at no commit does
the sum exceed the quota. All times are Unix seconds. A cancelled call has either happened entirely or not at all,
and is over when the cancellation is delivered.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from mediagate.core.files import BlobKey, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey
from mediagate.core.uploads import Part, PartId, Upload, UploadId


class State(IntEnum):
    """The states above, as stored."""

    RESERVED = 0
    READY = 1
    DELETING = 2


CURSOR_S = 3600.0
"""How long a file that is gone remains a valid cursor, counted from its move to DELETING."""


class Order(StrEnum):
    """Of a listing, by `created_at`, then `id`."""

    ASC = "asc"
    DESC = "desc"


@dataclass(frozen=True, slots=True)
class Removal:
    """A row in DELETING whose bytes may go now: remove `blob`, then `forget` the id."""

    id: FileId
    scope: Scope
    blob: BlobKey
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `has_more` tells whether files follow the last one."""

    files: Sequence[FileObject]
    has_more: bool


class UnknownCursorError(Exception):
    """`after` names no file that this scope has or recently had."""


class ReservationLostError(Exception):
    """The reservation lapsed and was swept, or was never made."""


class IndexBusyError(Exception):
    """The database did not grant its lock in time."""


class IndexFullError(Exception):
    """The database has no room on its disk."""


class IndexTooNewError(Exception):
    """The database was written by a newer mediagate, which knows things about it that this one does not."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"The index has schema version {found}; this mediagate knows versions up to {known}. "
            "Run the newer mediagate, or give it another directory."
        )


class Index(Protocol):
    """The rows. `scope` is part of every question that a client asks."""

    async def open(self) -> None:
        """Create or upgrade the schema, connect. Called once, first.

        Raises:
            IndexTooNewError: A newer mediagate has upgraded it before.
        """

    async def close(self) -> None:
        """Disconnect. Called once, last."""

    async def key(self) -> StoreKey:
        """The secret of this store, made when the index was: the same for everybody who shares it."""

    # receive -------------------------------------------------------------------------------------------

    async def begin(self, file_id: FileId, *, scope: Scope, blob: BlobKey, until: float) -> None:
        """Insert a RESERVED row that holds no space yet and lapses at `until`."""

    async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
        """Claim `extra_bytes` more for a RESERVED row, by conditional update of the usage rows.

        `Quota.scope_files` counts the files of the scope, this one included from its first reservation on.

        Returns:
            Whether the whole amount fitted; otherwise nothing changed.

        Raises:
            ReservationLostError: There is no such RESERVED row.
        """

    async def commit(self, file: FileObject) -> None:
        """Turn the RESERVED row into a READY one and give back what was reserved beyond `file.size_bytes`.

        Durable on return. Called after the bytes are durable.

        Raises:
            ReservationLostError: There is no RESERVED row of this id, scope and blob that holds that many bytes.
        """

    async def abandon(self, file_id: FileId) -> None:
        """Remove a RESERVED row and give its space back; any other row, or none, is left alone."""

    # read ----------------------------------------------------------------------------------------------

    async def get(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """The READY, unexpired file of that scope, or None. No use: nothing is touched."""

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
        """Files of `scope` after the cursor, by (`created_at`, `id`).

        A file that was deleted, expired or evicted remains a valid cursor: its place is remembered for at least an
        hour (`CURSOR_S`).

        Raises:
            UnknownCursorError: `after` is no file of this scope.
        """

    async def exists(self, file_id: FileId, *, now: float) -> bool:
        """Whether there is a READY, unexpired file of that id, whoever owns it.

        For what the operator is told; no answer to a client may depend on it.
        """

    async def usage(self, scope: Scope | None = None) -> Usage:
        """What `scope`, or the whole store, takes."""

    async def reserved(self) -> Usage:
        """What RESERVED rows take of the whole store's usage."""

    # lease ---------------------------------------------------------------------------------------------

    async def lease(
        self,
        file_ids: Collection[FileId],
        *,
        lease_id: LeaseId,
        scope: Scope,
        now: float,
        until: float,
    ) -> dict[FileId, FileObject]:
        """Look up, authorise, touch and lease, in one transaction; an expired file is not revived.

        Returns:
            The files that exist for `scope`, as they are after the touch: used at `now`, sliding expiries prolonged
            but never moved earlier. Ids that are missing in it are not leased.
        """

    async def leased(self, lease_id: LeaseId, position: int, *, now: float) -> FileObject | None:
        """The file at `position` (from 0) among those that a live lease holds, in the order of their ids, or None.

        A file that was deleted, expired or evicted meanwhile is found too. No use: nothing is touched.
        """

    async def renew(
        self, *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        """Prolong claims to `until`, shorten none; those that have lapsed and were swept stay gone."""

    async def release(self, lease_id: LeaseId, *, now: float) -> Sequence[Removal]:
        """End a lease; returns the rows in DELETING that no live lease holds any more because of it."""

    # uploads -------------------------------------------------------------------------------------------

    async def begin_upload(self, upload: Upload, *, quota: Quota) -> bool:
        """Insert `upload`, and the RESERVED row of its trunk, of no bytes, which lapses when the Upload expires.

        Returns:
            Whether the scope may have one more file; otherwise nothing changed.
        """

    async def get_upload(self, upload_id: UploadId, *, scope: Scope) -> Upload | None:
        """The Upload of that scope, whatever its status, as long as it is remembered."""

    async def parts(self, upload_id: UploadId) -> Sequence[Part]:
        """The parts of a pending Upload, in the order of their arrival."""

    async def begin_part(
        self, part_id: PartId, *, scope: Scope, blob: BlobKey, until: float
    ) -> None:
        """As `begin`, for a part; `reserve` and `abandon` take its id. It counts as no file."""

    async def add_part(self, part: Part, *, now: float) -> bool:
        """Make a part whose bytes are durable belong to its Upload, durably, and give back space beyond its size.

        Called once for a part that was added.

        If `part.blob` is the trunk, the trunk grows by it and its own row goes; otherwise its row lasts as long as
        the Upload.

        Returns:
            Whether the Upload is pending and unexpired and, for the trunk, ends where the part starts; otherwise
            nothing changed.

        Raises:
            ReservationLostError: There is no RESERVED row of this part that holds that many bytes.
        """

    async def claim_upload(
        self, upload_id: UploadId, *, blob: BlobKey, now: float, until: float
    ) -> bool:
        """Insert the RESERVED row of the Upload's file, which lapses at `until` and counts as no file.

        It is the claim to complete the Upload: of all who try at once, one succeeds. `abandon` gives it up.

        Returns:
            Whether the Upload is pending and unexpired and there was no such row; otherwise nothing changed.
        """

    async def complete_upload(
        self, upload_id: UploadId, file: FileObject, *, part_order: str
    ) -> bool:
        """Make `file` READY and the Upload COMPLETED, durably; the rest of the Upload moves to DELETING.

        If `file.blob` is the trunk, the trunk's space becomes the file's; otherwise it is the claim's own blob.

        Returns:
            Whether the Upload was pending; otherwise nothing changed.

        Raises:
            ReservationLostError: The claim, or the trunk, is gone or holds fewer bytes.
        """

    async def cancel_upload(self, upload_id: UploadId, *, now: float) -> bool:
        """Make a pending, unexpired Upload CANCELLED, durably; its trunk and its parts move to DELETING."""

    # remove: row first, bytes next, `forget` last ----------------------------------------------------------

    async def delete(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """Move a READY, unexpired file to DELETING, durably; None: there is no such file for `scope`."""

    async def expire(self, *, now: float, limit: int) -> Sequence[FileObject]:
        """Move up to `limit` expired READY rows to DELETING, durably, and return them."""

    async def evict(self, *, scope: Scope, now: float) -> FileObject | None:
        """Move the least recently used READY file of `scope` that no live lease holds to DELETING, durably."""

    async def lapse(self, *, now: float, limit: int) -> int:
        """Move up to `limit` RESERVED rows whose claim lapsed to DELETING; drop what has been over for long enough.

        That is leases that lapsed, cursors after `CURSOR_S`, Uploads `REMEMBERED_S` after their expiry.

        Returns:
            How many rows were moved.
        """

    async def removable(self, *, now: float, limit: int) -> Sequence[Removal]:
        """Up to `limit` rows in DELETING that no live lease holds."""

    async def forget(self, file_ids: Collection[FileId]) -> None:
        """Remove rows in DELETING and give their space back. Rows in other states are left alone."""

    async def without_row(self, blobs: Collection[BlobKey]) -> set[BlobKey]:
        """Those of `blobs` that no row names, in any state: orphans."""
