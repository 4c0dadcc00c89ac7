"""The file object, its ids, and what a filename may look like."""

import re
import secrets
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from mediagate.core.scopes import Scope

FileId = NewType("FileId", str)
"""`file-` and 32 lower-case hex digits: 128 random bits; at most 40 characters, so it fits every dialect."""

BlobKey = NewType("BlobKey", str)
"""32 lower-case hex digits, random and unrelated to the id: the name of a file's bytes in a blob driver."""

Digest = NewType("Digest", str)
"""`blake3:` and 64 hex digits."""

MAX_FILENAME_BYTES = 255
FALLBACK_FILENAME = "upload.bin"

_FILE_ID = re.compile(r"file-[0-9a-f]{32}")


class Purpose(StrEnum):
    """Values of OpenAI's `purpose` that make sense for media."""

    USER_DATA = "user_data"
    VISION = "vision"


class MediaKind(StrEnum):
    """The families of media a content part can take; the part of a MIME type before the slash."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileObject:
    """One stored file: OpenAI's `OpenAIFile` and what the store knows beside it.

    Attributes:
        id: The capability a client holds.
        scope: Its owner.
        blob: Where its bytes are.
        filename: As the client named it, sanitised; metadata only, never part of a path.
        purpose: OpenAI's field.
        mime_type: Exact type, decided by the bytes.
        size_bytes: Exact length of the bytes.
        digest: Of exactly those bytes.
        created_at: Unix seconds.
        last_used_at: Unix seconds of the last reference or content download; the creation counts as one.
        expires_at: Unix seconds from which it is invisible; None: never.
        ttl_s: Seconds that a use adds, counted from the use; None: `expires_at` is fixed.
    """

    id: FileId
    scope: Scope
    blob: BlobKey
    filename: str
    purpose: Purpose
    mime_type: str
    size_bytes: int
    digest: Digest
    created_at: int
    last_used_at: float
    expires_at: float | None
    ttl_s: float | None

    @property
    def kind(self) -> MediaKind:
        """Image, audio or video."""
        return MediaKind(self.mime_type.partition("/")[0])


def new_file_id() -> FileId:
    """A fresh, unguessable file id."""
    return FileId(f"file-{secrets.token_hex(16)}")


def new_blob_key() -> BlobKey:
    """A fresh blob key."""
    return BlobKey(secrets.token_hex(16))


def parse_file_id(text: str) -> FileId | None:
    """The id that `text` is, or None."""
    return FileId(text) if _FILE_ID.fullmatch(text) else None


def sanitise_filename(raw: str | None) -> str:
    """What is kept of a client's filename.

    The last component under either slash; without control, format (RTL override) and unassigned characters
    or lone surrogates; at most 255 bytes of UTF-8, cut on a code point.
    """
    base = re.split(r"[/\\]", raw or "")[-1]
    # Cc: NUL, CR, LF; Cf: bidi overrides and zero-width characters; Cs: what UTF-8 cannot carry.
    kept = "".join(
        c for c in base if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
    ).strip()
    cut = kept.encode()[:MAX_FILENAME_BYTES].decode(errors="ignore").strip()
    return cut if cut.strip(".") else FALLBACK_FILENAME
