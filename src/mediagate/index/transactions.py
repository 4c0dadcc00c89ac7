"""What the SQL index does in the database: one function a transaction, over a synchronous connection.

The caller begins and commits; an exception rolls back. On SQLite the caller holds the write lock from the start. On a
database with row locks the order of locks is: rows of `files`, the usage row of the scope, the usage row of the store,
which is the one everybody wants and so is held shortest.

Statements are built once: SQLAlchemy keeps what it compiled of them.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

# ON CONFLICT is PostgreSQL's, and SQLite took it over: of SQLAlchemy's two spellings this one renders for both.
from sqlalchemy.dialects.postgresql import insert

from mediagate.core.files import BlobKey, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey
from mediagate.core.uploads import REMEMBERED_S
from mediagate.index.driver import (
    CURSOR_S,
    Order,
    Page,
    Removal,
    ReservationLostError,
    State,
    UnknownCursorError,
)
from mediagate.index.schema import (
    STORE,
    cursors,
    files,
    in_state,
    leases,
    owner_of,
    parts,
    store_key,
    uploads,
    usage,
)

_T = TypeVar("_T")

_NO_CEILING = 2**62
_BATCH = 500
"""Values in one IN list; SQLite takes 32,766, PostgreSQL 32,767."""

_ZERO: sa.ColumnElement[int] = sa.literal_column("0")

_FILE = [files.c[field.name] for field in dataclasses.fields(FileObject)]
_COMMITTED = [c.name for c in _FILE if c.name not in {"id", "scope", "blob"}]
_REMOVAL = (files.c.id, files.c.scope, files.c.blob, sa.func.coalesce(files.c.size_bytes, _ZERO))

_ID = files.c.id == bindparam("file_id")
_IDS = files.c.id.in_(bindparam("file_ids", expanding=True))
_SCOPE = files.c.scope == bindparam("in_scope")
_ALIVE = in_state(State.READY) & (
    files.c.expires_at.is_(None) | (files.c.expires_at > bindparam("now"))
)
_UNLEASED = ~sa.exists().where(leases.c.file_id == files.c.id, leases.c.until > bindparam("now"))
_TO_DELETING = files.update().values(state=State.DELETING.value)

_KEY = sa.select(store_key.c.secret)

# usage -----------------------------------------------------------------------------------------------

_USAGE = sa.select(usage.c.used_bytes, usage.c.files).where(usage.c.owner == bindparam("of"))
_NEW_USAGE = (
    insert(usage)
    .values(owner=bindparam("of"), used_bytes=0, files=0)
    .on_conflict_do_nothing(index_elements=[usage.c.owner])
)
_CLAIM = (
    usage.update()
    .where(
        usage.c.owner == bindparam("of"),
        usage.c.used_bytes + bindparam("extra_bytes") <= bindparam("max_bytes"),
        usage.c.files + bindparam("extra_files") <= bindparam("max_files"),
    )
    .values(
        used_bytes=usage.c.used_bytes + bindparam("extra_bytes"),
        files=usage.c.files + bindparam("extra_files"),
    )
)
_GIVE_BACK = (
    usage.update()
    .where(usage.c.owner == bindparam("of"))
    .values(
        used_bytes=usage.c.used_bytes - bindparam("less_bytes"),
        files=usage.c.files - bindparam("less_files"),
    )
    .returning(usage.c.used_bytes, usage.c.files)
)
_DROP_USAGE = usage.delete().where(
    usage.c.owner == bindparam("of"), usage.c.used_bytes == _ZERO, usage.c.files == _ZERO
)

# receive ---------------------------------------------------------------------------------------------

_BEGIN = files.insert().values(
    id=bindparam("id"),
    scope=bindparam("scope"),
    blob=bindparam("blob"),
    state=State.RESERVED.value,
    lapses_at=bindparam("lapses_at"),
    is_part=bindparam("is_part"),
)
_RESERVED = (
    sa.select(files.c.scope, files.c.blob, files.c.size_bytes, files.c.is_part)
    .where(_ID, in_state(State.RESERVED))
    .with_for_update()
)
_HOLD = files.update().where(_ID).values(size_bytes=bindparam("held_bytes"))
_COMMIT = (
    files.update()
    .where(_ID)
    .values(
        {name: bindparam(f"new_{name}") for name in _COMMITTED}
        | {"state": State.READY.value, "lapses_at": None, "is_part": False}
    )
)
_ABANDON = (
    files.delete()
    .where(_ID, in_state(State.RESERVED))
    .returning(files.c.scope, files.c.size_bytes, files.c.is_part)
)
_RENEW_RESERVATIONS = (
    files.update()
    .where(_IDS, in_state(State.RESERVED), files.c.lapses_at < bindparam("later"))
    .values(lapses_at=bindparam("later"))
)

# read ------------------------------------------------------------------------------------------------

_GET = sa.select(*_FILE).where(_ID, _SCOPE, _ALIVE)
_EXISTS = sa.select(sa.exists().where(_ID, _ALIVE))
_RESERVED_USAGE = sa.select(
    sa.func.coalesce(sa.func.sum(files.c.size_bytes), _ZERO),
    sa.func.count(sa.case((files.c.is_part.is_(False), files.c.size_bytes))),
).where(in_state(State.RESERVED))
_PLACE = sa.union_all(
    sa.select(files.c.created_at).where(_ID, _SCOPE, files.c.created_at.is_not(None)),
    sa.select(cursors.c.created_at).where(
        cursors.c.id == bindparam("file_id"), cursors.c.scope == bindparam("in_scope")
    ),
)


def _draw_listing(order: Order, has_cursor: bool, has_purpose: bool) -> sa.Select[Any]:
    place = sa.tuple_(files.c.created_at, files.c.id)
    cursor = sa.tuple_(bindparam("after_created_at"), bindparam("after_id"))
    listing = sa.select(*_FILE).where(_SCOPE, _ALIVE).limit(bindparam("rows"))
    if has_purpose:
        listing = listing.where(files.c.purpose == bindparam("of_purpose"))
    if order is Order.ASC:
        listing = listing.order_by(files.c.created_at, files.c.id)
        return listing.where(place > cursor) if has_cursor else listing
    listing = listing.order_by(files.c.created_at.desc(), files.c.id.desc())
    return listing.where(place < cursor) if has_cursor else listing


_LISTINGS = {
    key: _draw_listing(*key) for key in itertools.product(Order, (False, True), (False, True))
}

# lease -----------------------------------------------------------------------------------------------

_NEXT_EXPIRY: sa.ColumnElement[float] = bindparam("now") + files.c.ttl_s
_TOUCH = (
    files.update()
    .where(_IDS, _SCOPE, _ALIVE)
    .values(
        last_used_at=bindparam("now"),
        # A null ttl_s or expires_at makes the comparison null: the expiry stays what it is.
        expires_at=sa.case(
            (files.c.expires_at < _NEXT_EXPIRY, _NEXT_EXPIRY), else_=files.c.expires_at
        ),
    )
    .returning(*_FILE)
)
_NEW_LEASE = insert(leases)
_LEASE = _NEW_LEASE.on_conflict_do_update(
    index_elements=[leases.c.file_id, leases.c.lease_id],
    set_={"until": _NEW_LEASE.excluded.until},
    where=leases.c.until < _NEW_LEASE.excluded.until,
)
_LEASED = (
    sa.select(*_FILE)
    .join(leases, leases.c.file_id == files.c.id)
    .where(
        leases.c.lease_id == bindparam("of_lease"),
        leases.c.until > bindparam("now"),
        files.c.created_at.is_not(None),
    )
    .order_by(leases.c.file_id)
    .limit(1)
    .offset(bindparam("position"))
)
_RENEW_LEASES = (
    leases.update()
    .where(
        leases.c.lease_id.in_(bindparam("lease_ids", expanding=True)),
        leases.c.until < bindparam("later"),
    )
    .values(until=bindparam("later"))
)
_RELEASE = (
    leases.delete()
    .where(leases.c.lease_id == bindparam("of_lease"))
    .returning(leases.c.file_id, leases.c.until)
)

# remove ----------------------------------------------------------------------------------------------

_REMEMBER = (
    insert(cursors)
    .values(
        id=bindparam("id"),
        scope=bindparam("scope"),
        created_at=bindparam("created_at"),
        until=bindparam("until"),
    )
    .on_conflict_do_nothing(index_elements=[cursors.c.id])
)
_DELETE = _TO_DELETING.where(_ID, _SCOPE, _ALIVE).returning(*_FILE)
_EXPIRED = sa.select(files.c.id).where(
    in_state(State.READY), files.c.expires_at <= bindparam("now")
)
_EXPIRE = _TO_DELETING.where(
    files.c.id.in_(
        _EXPIRED.order_by(files.c.expires_at)
        .limit(bindparam("rows"))
        .with_for_update(skip_locked=True)
    )
).returning(*_FILE)
_ANY_EXPIRED = sa.select(_EXPIRED.exists())


_VICTIM = (
    sa.select(files.c.id)
    .where(in_state(State.READY), _SCOPE, _UNLEASED)
    .order_by(files.c.last_used_at, files.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_EVICT = _TO_DELETING.where(files.c.id == _VICTIM.scalar_subquery()).returning(*_FILE)

_LAPSED = sa.select(files.c.id).where(
    in_state(State.RESERVED), files.c.lapses_at <= bindparam("now")
)
_LAPSE = _TO_DELETING.where(
    files.c.id.in_(_LAPSED.limit(bindparam("rows")).with_for_update(skip_locked=True))
)
_DROP_LEASES = leases.delete().where(leases.c.until <= bindparam("now"))
_DROP_CURSORS = cursors.delete().where(cursors.c.until <= bindparam("now"))
_FORGOTTEN = uploads.c.expires_at <= bindparam("expired_at")
_DROP_PARTS = parts.delete().where(parts.c.upload_id.in_(sa.select(uploads.c.id).where(_FORGOTTEN)))
_DROP_UPLOADS = uploads.delete().where(_FORGOTTEN)
_ANY_LAPSED = sa.select(
    _LAPSED.exists()
    | sa.exists().where(leases.c.until <= bindparam("now"))
    | sa.exists().where(cursors.c.until <= bindparam("now"))
    | sa.exists().where(_FORGOTTEN)
)
_REMOVABLE = (
    sa.select(*_REMOVAL).where(in_state(State.DELETING), _UNLEASED).limit(bindparam("rows"))
)
_FREED = sa.select(*_REMOVAL).where(_IDS, in_state(State.DELETING), _UNLEASED)
_FORGET = (
    files.delete()
    .where(_IDS, in_state(State.DELETING))
    .returning(files.c.scope, files.c.size_bytes, files.c.is_part)
)
_WITH_ROW = sa.select(files.c.blob).where(files.c.blob.in_(bindparam("blobs", expanding=True)))


class NoRoomError(Exception):
    """A reservation does not fit; raised rather than returned, so that what it claimed so far is rolled back."""


def begin(
    connection: sa.Connection, file_id: FileId, scope: Scope, blob: BlobKey, until: float
) -> None:
    """`Index.begin`."""
    insert_reserved(connection, file_id, scope, blob, until, is_part=False)


def insert_reserved(
    connection: sa.Connection,
    row_id: FileId,
    scope: Scope,
    blob: BlobKey,
    until: float,
    *,
    is_part: bool,
) -> None:
    """A RESERVED row that holds no space yet."""
    values = {"id": row_id, "scope": scope, "blob": blob, "lapses_at": until, "is_part": is_part}
    connection.execute(_BEGIN, values)


def reserve(connection: sa.Connection, file_id: FileId, extra_bytes: int, quota: Quota) -> None:
    """`Index.reserve`; what does not fit raises `NoRoomError`."""
    row = connection.execute(_RESERVED, {"file_id": file_id}).one_or_none()
    if row is None:
        raise ReservationLostError
    scope, _, held_bytes, is_part = row
    owner = owner_of(scope)
    is_new_file = held_bytes is None and not is_part
    claim = {"extra_bytes": extra_bytes, "extra_files": int(is_new_file)}
    ceilings = {
        "max_bytes": _NO_CEILING if quota.scope_bytes is None else quota.scope_bytes,
        "max_files": _NO_CEILING if quota.scope_files is None else quota.scope_files,
    }
    if not _claims(connection, owner, claim | ceilings):
        # The usage row of a scope comes and goes with the scope's files.
        connection.execute(_NEW_USAGE, {"of": owner})
        if not _claims(connection, owner, claim | ceilings):
            raise NoRoomError
    ceilings = {"max_bytes": quota.store_bytes, "max_files": _NO_CEILING}
    if not _claims(connection, STORE, claim | ceilings):
        raise NoRoomError
    held = (held_bytes or 0) + extra_bytes
    connection.execute(_HOLD, {"file_id": file_id, "held_bytes": held})


def commit(connection: sa.Connection, file: FileObject) -> None:
    """`Index.commit`."""
    row = connection.execute(_RESERVED, {"file_id": file.id}).one_or_none()
    if row is None or row.scope != file.scope or row.blob != file.blob:
        raise ReservationLostError
    if row.size_bytes is None or row.size_bytes < file.size_bytes:
        raise ReservationLostError
    values = {f"new_{name}": getattr(file, name) for name in _COMMITTED}
    connection.execute(_COMMIT, values | {"file_id": file.id})
    if row.size_bytes > file.size_bytes:
        give_back(connection, file.scope, row.size_bytes - file.size_bytes, 0)


def abandon(connection: sa.Connection, file_id: FileId) -> None:
    """`Index.abandon`."""
    for scope, held_bytes, is_part in connection.execute(_ABANDON, {"file_id": file_id}).all():
        if held_bytes is not None:
            give_back(connection, scope, held_bytes, int(not is_part))


def get(connection: sa.Connection, file_id: FileId, scope: Scope, now: float) -> FileObject | None:
    """`Index.get`."""
    return _first(connection, _GET, {"file_id": file_id, "in_scope": scope, "now": now})


def list_files(
    connection: sa.Connection,
    scope: Scope,
    now: float,
    limit: int,
    order: Order,
    after: FileId | None,
    purpose: Purpose | None,
) -> Page:
    """`Index.list`."""
    values: dict[str, object] = {"in_scope": scope, "now": now, "rows": limit + 1}
    if purpose is not None:
        values["of_purpose"] = purpose.value
    if after is not None:
        place = connection.execute(_PLACE, {"file_id": after, "in_scope": scope}).first()
        if place is None:
            raise UnknownCursorError
        values |= {"after_created_at": place.created_at, "after_id": after}
    listing = _LISTINGS[order, after is not None, purpose is not None]
    found = [_file(row) for row in connection.execute(listing, values)]
    return Page(files=found[:limit], has_more=len(found) > limit)


def key(connection: sa.Connection) -> StoreKey:
    """`Index.key`."""
    return StoreKey(connection.execute(_KEY).scalar_one())


def exists(connection: sa.Connection, file_id: FileId, now: float) -> bool:
    """`Index.exists`."""
    return bool(connection.execute(_EXISTS, {"file_id": file_id, "now": now}).scalar_one())


def usage_of(connection: sa.Connection, scope: Scope | None) -> Usage:
    """`Index.usage`."""
    owner = STORE if scope is None else owner_of(scope)
    row = connection.execute(_USAGE, {"of": owner}).one_or_none()
    return Usage() if row is None else Usage(used_bytes=row.used_bytes, files=row.files)


def reserved(connection: sa.Connection) -> Usage:
    """`Index.reserved`."""
    used_bytes, count = connection.execute(_RESERVED_USAGE).one()
    return Usage(used_bytes=int(used_bytes), files=count)


def lease(
    connection: sa.Connection,
    file_ids: Collection[FileId],
    lease_id: LeaseId,
    scope: Scope,
    now: float,
    until: float,
) -> dict[FileId, FileObject]:
    """`Index.lease`."""
    found: dict[FileId, FileObject] = {}
    for batch in _batches(file_ids):
        values = {"file_ids": batch, "in_scope": scope, "now": now}
        touched = [_file(row) for row in connection.execute(_TOUCH, values)]
        found.update((file.id, file) for file in touched)
    if found:
        claims = [{"file_id": id_, "lease_id": lease_id, "until": until} for id_ in found]
        connection.execute(_LEASE, claims)
    return found


def leased(
    connection: sa.Connection, lease_id: LeaseId, position: int, now: float
) -> FileObject | None:
    """`Index.leased`."""
    values = {"of_lease": lease_id, "position": position, "now": now}
    return _first(connection, _LEASED, values)


def renew(
    connection: sa.Connection,
    lease_ids: Collection[LeaseId],
    reservations: Collection[FileId],
    until: float,
) -> None:
    """`Index.renew`."""
    for lease_batch in _batches(lease_ids):
        connection.execute(_RENEW_LEASES, {"lease_ids": lease_batch, "later": until})
    for batch in _batches(reservations):
        connection.execute(_RENEW_RESERVATIONS, {"file_ids": batch, "later": until})


def release(connection: sa.Connection, lease_id: LeaseId, now: float) -> Sequence[Removal]:
    """`Index.release`."""
    ended = connection.execute(_RELEASE, {"of_lease": lease_id}).all()
    return [
        Removal(*row)
        for batch in _batches([row.file_id for row in ended if row.until > now])
        for row in connection.execute(_FREED, {"file_ids": batch, "now": now})
    ]


def delete(
    connection: sa.Connection, file_id: FileId, scope: Scope, now: float
) -> FileObject | None:
    """`Index.delete`."""
    file = _first(connection, _DELETE, {"file_id": file_id, "in_scope": scope, "now": now})
    _remember(connection, [file] if file else [], now)
    return file


def any_expired(connection: sa.Connection, now: float) -> bool:
    """Whether `expire` would find work."""
    return bool(connection.execute(_ANY_EXPIRED, {"now": now}).scalar_one())


def expire(connection: sa.Connection, now: float, limit: int) -> Sequence[FileObject]:
    """`Index.expire`."""
    found = [_file(row) for row in connection.execute(_EXPIRE, {"now": now, "rows": limit})]
    _remember(connection, found, now)
    return found


def evict(connection: sa.Connection, scope: Scope, now: float) -> FileObject | None:
    """`Index.evict`."""
    file = _first(connection, _EVICT, {"now": now, "in_scope": scope})
    _remember(connection, [file] if file else [], now)
    return file


def any_lapsed(connection: sa.Connection, now: float) -> bool:
    """Whether `lapse` would find work."""
    values = {"now": now, "expired_at": now - REMEMBERED_S}
    return bool(connection.execute(_ANY_LAPSED, values).scalar_one())


def lapse(connection: sa.Connection, now: float, limit: int) -> int:
    """`Index.lapse`."""
    moved = connection.execute(_LAPSE, {"now": now, "rows": limit}).rowcount
    connection.execute(_DROP_LEASES, {"now": now})
    connection.execute(_DROP_CURSORS, {"now": now})
    for drop in (_DROP_PARTS, _DROP_UPLOADS):
        connection.execute(drop, {"expired_at": now - REMEMBERED_S})
    return moved


def removable(connection: sa.Connection, now: float, limit: int) -> Sequence[Removal]:
    """`Index.removable`."""
    return [Removal(*row) for row in connection.execute(_REMOVABLE, {"now": now, "rows": limit})]


def forget(connection: sa.Connection, file_ids: Collection[FileId]) -> None:
    """`Index.forget`."""
    less_bytes: Counter[Scope] = Counter()
    less_files: Counter[Scope] = Counter()
    for batch in _batches(file_ids):
        for scope, held_bytes, is_part in connection.execute(_FORGET, {"file_ids": batch}).all():
            if held_bytes is not None:
                less_bytes[scope] += held_bytes
                less_files[scope] += not is_part
    for scope in sorted(less_files):
        _give_back_to_scope(connection, scope, less_bytes[scope], less_files[scope])
    if less_files:
        _give_back_to_store(connection, less_bytes.total(), less_files.total())


def without_row(connection: sa.Connection, blobs: Collection[BlobKey]) -> set[BlobKey]:
    """`Index.without_row`."""
    known = {
        BlobKey(row.blob)
        for batch in _batches(blobs)
        for row in connection.execute(_WITH_ROW, {"blobs": batch})
    }
    return set(blobs) - known


def _claims(connection: sa.Connection, owner: str, claim: dict[str, int]) -> bool:
    return connection.execute(_CLAIM, {"of": owner} | claim).rowcount == 1


def give_back(connection: sa.Connection, scope: Scope, less_bytes: int, less_files: int) -> None:
    """Take less of the usage of `scope` and of the store."""
    _give_back_to_scope(connection, scope, less_bytes, less_files)
    _give_back_to_store(connection, less_bytes, less_files)


def _give_back_to_scope(
    connection: sa.Connection, scope: Scope, less_bytes: int, less_files: int
) -> None:
    if not less_bytes and not less_files:
        return  # of a scope that may have no usage row any more
    owner = owner_of(scope)
    values = {"of": owner, "less_bytes": less_bytes, "less_files": less_files}
    if connection.execute(_GIVE_BACK, values).one().files == 0:
        connection.execute(_DROP_USAGE, {"of": owner})


def _give_back_to_store(connection: sa.Connection, less_bytes: int, less_files: int) -> None:
    values = {"of": STORE, "less_bytes": less_bytes, "less_files": less_files}
    connection.execute(_GIVE_BACK, values)


def _remember(connection: sa.Connection, gone: Sequence[FileObject], now: float) -> None:
    """Keep the places of files that are about to lose their rows."""
    places = [
        {"id": f.id, "scope": f.scope, "created_at": f.created_at, "until": now + CURSOR_S}
        for f in gone
    ]
    if places:
        connection.execute(_REMEMBER, places)


def _first(
    connection: sa.Connection, statement: sa.Executable, values: dict[str, object]
) -> FileObject | None:
    row = connection.execute(statement, values).one_or_none()
    return None if row is None else _file(row)


def _file(row: sa.Row[Any]) -> FileObject:
    values = row._asdict()
    values["purpose"] = Purpose(values["purpose"])
    return FileObject(**values)


def _batches(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Lists that fit one IN clause, without duplicates."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), _BATCH):
        yield distinct[start : start + _BATCH]
