"""What an index must do: each method is one transaction, atomic over all processes that share the index.

A row passes through three states, never backwards:

    RESERVED ── commit ──▶ READY ── delete, expire, evict ──▶ DELETING ── forget ──▶ (no row)
        └───────────────────── abandon, lapse ────────────────────┘

- **RESERVED**: bytes are arriving. The row exists *before* the first byte is written, so a blob whose key has no row
  is an orphan, whatever its age.
- **READY**: what clients see, as long as it is not expired. Expired rows are invisible at once, swept later.
- **DELETING**: invisible; the bytes are removed when no lease is live, then the row is forgotten.

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

    async def usage(self, scope: Scope | None = None) -> Usage:
        """What `scope`, or the whole store, takes."""

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

    async def renew(
        self, *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        """Prolong claims to `until`, shorten none; those that have lapsed and were swept stay gone."""

    async def release(self, lease_id: LeaseId, *, now: float) -> Sequence[Removal]:
        """End a lease; returns the rows in DELETING that no live lease holds any more because of it."""

    # remove: row first, bytes next, `forget` last ----------------------------------------------------------

    async def delete(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        """Move a READY, unexpired file to DELETING, durably; None: there is no such file for `scope`."""

    async def expire(self, *, now: float, limit: int) -> Sequence[FileObject]:
        """Move up to `limit` expired READY rows to DELETING, durably, and return them."""

    async def evict(self, *, scope: Scope | None, now: float) -> FileObject | None:
        """Move the least recently used READY file that no live lease holds to DELETING, durably.

        Args:
            scope: Only among the files of this scope; None: of the whole store.
            now: Leases that ended by then do not protect.
        """

    async def lapse(self, *, now: float, limit: int) -> None:
        """Move up to `limit` RESERVED rows whose claim lapsed to DELETING; drop lapsed leases and old cursors."""

    async def removable(self, *, now: float, limit: int) -> Sequence[Removal]:
        """Up to `limit` rows in DELETING that no live lease holds."""

    async def forget(self, file_ids: Collection[FileId]) -> None:
        """Remove rows in DELETING and give their space back. Rows in other states are left alone."""

    async def without_row(self, blobs: Collection[BlobKey]) -> set[BlobKey]:
        """Those of `blobs` that no row names, in any state: orphans."""
