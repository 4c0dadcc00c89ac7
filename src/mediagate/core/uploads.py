"""OpenAI's Uploads: a large file sent in parts, in any order, by several connections at once.

    PENDING ── complete ──▶ COMPLETED        its file is a file like any other
       ├────── cancel ────▶ CANCELLED        nothing remains but the answer
       └────── an hour ───▶ EXPIRED          the same

An Upload that has ended is remembered for another hour, so that a client that lost an answer can ask again.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

from mediagate.core.errors import InvalidValue, UploadNotFound, UploadNotPending
from mediagate.core.expiry import is_expired
from mediagate.core.files import BlobKey, FileId, Purpose
from mediagate.core.scopes import Scope

UploadId = NewType("UploadId", FileId)
"""`upload_` and 32 lower-case hex digits. Its trunk takes space under this id, as a file does under its own."""

PartId = NewType("PartId", FileId)
"""`part_` and 32 lower-case hex digits; likewise."""

EXPIRES_AFTER_S = 3600
"""OpenAI `createUpload`: an Upload expires an hour after it was created."""

REMEMBERED_S = 3600.0
"""How long after its expiry an Upload is still answered for."""

MAX_PART_BYTES = 64 * 1024**2
"""OpenAI `addUploadPart`."""

MAX_PARTS = 10_000
"""As many as S3 takes: a list of their ids is less than a megabyte."""

_UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")


class UploadStatus(IntEnum):
    """The states above, as stored; EXPIRED is not stored, but told by the clock."""

    PENDING = 0
    COMPLETED = 1
    CANCELLED = 2
    EXPIRED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One Upload.

    Attributes:
        id: The capability a client holds.
        scope: Its owner.
        file_id: Of the file that it becomes, decided at the start: so no Upload can become two files.
        blob: Of its trunk, the bytes of parts that were appended one after another.
        size_bytes: Of the whole file, as declared.
        filename: Sanitised.
        purpose: OpenAI's field.
        fixed_s: Lifetime of the file from its creation, in seconds; None: the server's own.
        created_at: Unix seconds.
        expires_at: Unix seconds.
        status: As stored: never EXPIRED.
        trunk_bytes: Length of the trunk; what lies beyond is not part of it.
        parts: How many were received.
        part_order: Once completed: `order_of` the parts that it was completed with.
    """

    id: UploadId
    scope: Scope
    file_id: FileId
    blob: BlobKey
    size_bytes: int
    filename: str
    purpose: Purpose
    fixed_s: float | None
    created_at: int
    expires_at: int
    status: UploadStatus = UploadStatus.PENDING
    trunk_bytes: int = 0
    parts: int = 0
    part_order: str | None = None

    def status_at(self, now: float) -> UploadStatus:
        """The status, the clock considered."""
        if self.status is UploadStatus.PENDING and is_expired(self.expires_at, now):
            return UploadStatus.EXPIRED
        return self.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: `size_bytes` from `start` of `blob`, which is the Upload's trunk, or the part's own."""

    id: PartId
    upload_id: UploadId
    blob: BlobKey
    start: int
    size_bytes: int
    created_at: int

    @property
    def stop(self) -> int:
        """Where it ends in its blob."""
        return self.start + self.size_bytes


def new_upload_id() -> UploadId:
    """A fresh, unguessable id."""
    return UploadId(FileId(f"upload_{secrets.token_hex(16)}"))


def new_part_id() -> PartId:
    """A fresh, unguessable id."""
    return PartId(FileId(f"part_{secrets.token_hex(16)}"))


def parse_upload_id(text: str) -> UploadId | None:
    """The id that `text` is, or None."""
    return UploadId(FileId(text)) if _UPLOAD_ID.fullmatch(text) else None


def order_of(part_ids: Sequence[str]) -> str:
    """Stands for parts and their order: equal for equal lists alone."""
    # As JSON: what a client gives as ids may be any text, half a surrogate pair too.
    return hashlib.sha256(json.dumps([*part_ids]).encode()).hexdigest()


def upload_not_found() -> UploadNotFound:
    """The one answer for whatever is not there, whatever the reason."""
    return UploadNotFound("No such Upload. Begin again with POST /v1/uploads.")


def check_pending(upload: Upload, now: float) -> None:
    """Refuse what can only be done with a pending Upload.

    Raises:
        UploadNotPending: It has ended.
    """
    status = upload.status_at(now)
    if status is not UploadStatus.PENDING:
        message = f"The Upload is {status.name.lower()}. Begin another with POST /v1/uploads."
        raise UploadNotPending(message)


def in_order(upload: Upload, parts: Sequence[Part], part_ids: Sequence[str]) -> Sequence[Part]:
    """Those of `parts` that a client wants its file to be made of, in its order.

    Raises:
        InvalidValue: An id is unknown or given twice, or they are not the declared number of bytes.
    """
    known: dict[str, Part] = {part.id: part for part in parts}
    unknown = [n for n, part_id in enumerate(part_ids) if part_id not in known]
    if unknown:
        message = f"part_ids[{unknown[0]}] is not the id of a part of this Upload."
        raise InvalidValue(message, param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise InvalidValue("'part_ids' names a part twice.", param="part_ids")
    chosen = [known[part_id] for part_id in part_ids]
    size_bytes = sum(part.size_bytes for part in chosen)
    if size_bytes != upload.size_bytes:
        message = (
            f"These parts have {size_bytes} bytes; the Upload was created for {upload.size_bytes}."
        )
        raise InvalidValue(message, param="part_ids")
    return chosen


def is_trunk(upload: Upload, parts: Sequence[Part]) -> bool:
    """Whether `parts`, in this order, are exactly the bytes of the trunk: there is nothing to put together."""
    at = 0
    for part in parts:
        if part.blob != upload.blob or part.start != at:
            return False
        at = part.stop
    return at == upload.trunk_bytes
