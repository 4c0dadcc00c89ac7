"""What the SQL index does for Uploads; as `transactions`, on which it is built.

On a database with row locks the row of `uploads` is locked before any other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert

from mediagate.core.files import BlobKey, FileObject, Purpose
from mediagate.core.quotas import Quota
from mediagate.core.scopes import Scope
from mediagate.core.uploads import Part, PartId, Upload, UploadId, UploadStatus
from mediagate.index import transactions
from mediagate.index.driver import ReservationLostError, State
from mediagate.index.schema import files, in_state, parts, uploads

_ONE: sa.ColumnElement[int] = sa.literal_column("1")

_UPLOAD = uploads.c.id == bindparam("upload_id")
_PARTS_OF = parts.c.upload_id == bindparam("upload_id")
_RESERVED = (files.c.id == bindparam("row_id")) & in_state(State.RESERVED)
_PENDING = uploads.c.status == sa.literal_column(str(UploadStatus.PENDING.value))

_BEGIN = uploads.insert()
_UPLOADS = sa.select(*[uploads.c[field.name] for field in dataclasses.fields(Upload)])
_GET = _UPLOADS.where(_UPLOAD, uploads.c.scope == bindparam("in_scope"))
_LOCK_PENDING = _UPLOADS.where(_UPLOAD, _PENDING).with_for_update()
_LOCK_UNEXPIRED = _LOCK_PENDING.where(uploads.c.expires_at > bindparam("now"))
_GROW = (
    uploads.update()
    .where(_UPLOAD)
    .values(
        parts=uploads.c.parts + _ONE, trunk_bytes=uploads.c.trunk_bytes + bindparam("more_bytes")
    )
)
_END = (
    uploads.update()
    .where(_UPLOAD)
    .values(status=bindparam("new_status"), part_order=bindparam("new_order"))
)

_PARTS = (
    sa.select(*[parts.c[field.name] for field in dataclasses.fields(Part)])
    .where(_PARTS_OF)
    .order_by(parts.c.number)
)
_ADD_PART = parts.insert()
_DROP_PARTS = parts.delete().where(_PARTS_OF)

_HELD = sa.select(files.c.blob, files.c.size_bytes).where(_RESERVED).with_for_update()
_KEEP = (
    files.update()
    .where(_RESERVED)
    .values(size_bytes=bindparam("held_bytes"), lapses_at=bindparam("until"))
)
_GROW_TRUNK = (
    files.update().where(_RESERVED).values(size_bytes=files.c.size_bytes + bindparam("more_bytes"))
)
_DROP_ROW = files.delete().where(_RESERVED)
_CLAIM = (
    insert(files)
    .values(
        id=bindparam("id"),
        scope=bindparam("scope"),
        blob=bindparam("blob"),
        state=State.RESERVED.value,
        lapses_at=bindparam("until"),
        is_part=True,
    )
    .on_conflict_do_nothing(index_elements=[files.c.id])
)
_TAKE_OVER = (
    files.update()
    .where(_RESERVED)
    .values(
        blob=bindparam("new_blob"),
        size_bytes=sa.func.coalesce(files.c.size_bytes, sa.literal_column("0"))
        + bindparam("more_bytes"),
    )
)
# Another row of the same Upload becomes the file that counts.
_TRUNK_GOES = (
    files.update().where(_RESERVED).values(state=State.DELETING.value, is_part=bindparam("is_idle"))
)
_SEGMENTS_GO = (
    files.update()
    .where(files.c.id.in_(sa.select(parts.c.id).where(_PARTS_OF)), in_state(State.RESERVED))
    .values(state=State.DELETING.value)
)


def begin_upload(connection: sa.Connection, upload: Upload, quota: Quota) -> None:
    """`Index.begin_upload`; what does not fit raises `NoRoomError`."""
    transactions.insert_reserved(
        connection, upload.id, upload.scope, upload.blob, upload.expires_at, is_part=False
    )
    transactions.reserve(connection, upload.id, 0, quota)
    connection.execute(_BEGIN, dataclasses.asdict(upload))


def get_upload(connection: sa.Connection, upload_id: UploadId, scope: Scope) -> Upload | None:
    """`Index.get_upload`."""
    return _one(connection, _GET, {"upload_id": upload_id, "in_scope": scope})


def parts_of(connection: sa.Connection, upload_id: UploadId) -> Sequence[Part]:
    """`Index.parts`."""
    return [Part(**row._asdict()) for row in connection.execute(_PARTS, {"upload_id": upload_id})]


def begin_part(
    connection: sa.Connection, part_id: PartId, scope: Scope, blob: BlobKey, until: float
) -> None:
    """`Index.begin_part`."""
    transactions.insert_reserved(connection, part_id, scope, blob, until, is_part=True)


def add_part(connection: sa.Connection, part: Part, now: float) -> bool:
    """`Index.add_part`."""
    upload = _one(connection, _LOCK_UNEXPIRED, {"upload_id": part.upload_id, "now": now})
    if upload is None:
        return False
    row = connection.execute(_HELD, {"row_id": part.id}).one_or_none()
    if row is None or (row.size_bytes or 0) < part.size_bytes:
        raise ReservationLostError
    is_appended = part.blob == upload.blob
    if is_appended and part.start != upload.trunk_bytes:
        return False
    more_bytes = part.size_bytes if is_appended else 0
    connection.execute(_ADD_PART, dataclasses.asdict(part) | {"number": upload.parts})
    connection.execute(_GROW, {"upload_id": upload.id, "more_bytes": more_bytes})
    if is_appended:
        connection.execute(_DROP_ROW, {"row_id": part.id})
        grown = connection.execute(_GROW_TRUNK, {"row_id": upload.id, "more_bytes": more_bytes})
        if grown.rowcount != 1:
            raise ReservationLostError
    else:
        values = {"row_id": part.id, "held_bytes": part.size_bytes, "until": upload.expires_at}
        connection.execute(_KEEP, values)
    transactions.give_back(connection, upload.scope, row.size_bytes - part.size_bytes, 0)
    return True


def claim_upload(
    connection: sa.Connection, upload_id: UploadId, blob: BlobKey, now: float, until: float
) -> bool:
    """`Index.claim_upload`."""
    upload = _one(connection, _LOCK_UNEXPIRED, {"upload_id": upload_id, "now": now})
    if upload is None:
        return False
    values = {"id": upload.file_id, "scope": upload.scope, "blob": blob, "until": until}
    return connection.execute(_CLAIM, values).rowcount == 1


def complete_upload(
    connection: sa.Connection, upload_id: UploadId, file: FileObject, part_order: str
) -> bool:
    """`Index.complete_upload`."""
    upload = _one(connection, _LOCK_PENDING, {"upload_id": upload_id})
    if upload is None:
        return False
    if file.blob == upload.blob:
        _take_over_trunk(connection, upload)
    else:
        connection.execute(_TRUNK_GOES, {"row_id": upload.id, "is_idle": True})
    transactions.commit(connection, file)
    _end(connection, upload_id, UploadStatus.COMPLETED, part_order)
    return True


def cancel_upload(connection: sa.Connection, upload_id: UploadId, now: float) -> bool:
    """`Index.cancel_upload`."""
    if _one(connection, _LOCK_UNEXPIRED, {"upload_id": upload_id, "now": now}) is None:
        return False
    connection.execute(_TRUNK_GOES, {"row_id": upload_id, "is_idle": False})
    _end(connection, upload_id, UploadStatus.CANCELLED, None)
    return True


def _take_over_trunk(connection: sa.Connection, upload: Upload) -> None:
    """The trunk's blob and space become those of the claim."""
    trunk = connection.execute(_HELD, {"row_id": upload.id}).one_or_none()
    if trunk is None:
        raise ReservationLostError
    connection.execute(_DROP_ROW, {"row_id": upload.id})
    values = {"new_blob": trunk.blob, "more_bytes": trunk.size_bytes}
    connection.execute(_TAKE_OVER, {"row_id": upload.file_id} | values)


def _end(
    connection: sa.Connection, upload_id: UploadId, status: UploadStatus, part_order: str | None
) -> None:
    values = {"upload_id": upload_id, "new_status": status.value, "new_order": part_order}
    connection.execute(_END, values)
    connection.execute(_SEGMENTS_GO, {"upload_id": upload_id})
    connection.execute(_DROP_PARTS, {"upload_id": upload_id})


def _one(
    connection: sa.Connection, statement: sa.Executable, values: dict[str, object]
) -> Upload | None:
    row: sa.Row[Any] | None = connection.execute(statement, values).one_or_none()
    if row is None:
        return None
    found = row._asdict()
    return Upload(
        **found | {"purpose": Purpose(found["purpose"]), "status": UploadStatus(found["status"])}
    )
