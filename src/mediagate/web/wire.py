"""Our values ↔ OpenAI's JSON."""

from typing import Any

from mediagate.core.errors import InvalidValue
from mediagate.core.expiry import MAX_EXPIRES_AFTER_S, MIN_EXPIRES_AFTER_S, Lifetime
from mediagate.core.files import FileId, FileObject, Purpose
from mediagate.core.uploads import Part, Upload, UploadStatus
from mediagate.index.driver import Order, Page

MAX_LIST_LIMIT = 10_000
"""OpenAI `listFiles`: the largest `limit`, and the default."""

_BATCH = "batch"
"""The purpose of OpenAI's that inference servers with a batch API of their own take on the same path."""


def file_json(file: FileObject) -> dict[str, Any]:
    """OpenAI's `OpenAIFile`, with `mime_type` beside its own fields.

    `status` is deprecated there but required; `expires_at` is left out, not null, for a file that never expires.
    """
    body = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": str(file.purpose),
        "status": "processed",
        "mime_type": file.mime_type,
    }
    if file.expires_at is not None:
        body["expires_at"] = int(file.expires_at)
    return body


def page_json(page: Page) -> dict[str, Any]:
    """OpenAI's `ListFilesResponse`; all its keys, on an empty page too."""
    return {
        "object": "list",
        "data": [file_json(file) for file in page.files],
        "first_id": page.files[0].id if page.files else None,
        "last_id": page.files[-1].id if page.files else None,
        "has_more": page.has_more,
    }


def deleted_json(file_id: FileId) -> dict[str, Any]:
    """OpenAI's `DeleteFileResponse`."""
    return {"id": file_id, "object": "file", "deleted": True}


def upload_json(
    upload: Upload, status: UploadStatus, *, file: FileObject | None = None
) -> dict[str, Any]:
    """OpenAI's `Upload`; `file` is left out until it is completed, and when the file is gone again."""
    body: dict[str, Any] = {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": str(upload.purpose),
        "status": status.name.lower(),
    }
    if file is not None:
        body["file"] = file_json(file)
    return body


def part_json(part: Part) -> dict[str, Any]:
    """OpenAI's `UploadPart`, with `bytes` beside its own fields."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": part.created_at,
        "upload_id": part.upload_id,
        "bytes": part.size_bytes,
    }


def parse_purpose(text: str | None) -> Purpose:
    """The purpose a client sent; `user_data` where it sent none."""
    if text is None:
        return Purpose.USER_DATA
    try:
        return Purpose(text)
    except ValueError:
        message = f"'purpose' must be one of: {', '.join(Purpose)}."
        if text == _BATCH:
            message += (
                " Input of a batch API is not taken: if the inference server has such an API on the same path, it is "
                "hidden as long as --enable-file-uploads is on."
            )
        raise InvalidValue(message, param="purpose") from None


def parse_limit(text: str | None) -> int:
    """The page size a client asked for, 1 to 10,000."""
    if text is None:
        return MAX_LIST_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_LIST_LIMIT:
        return int(text)
    message = f"'limit' must be a whole number from 1 to {MAX_LIST_LIMIT}."
    raise InvalidValue(message, param="limit")


def parse_order(text: str | None) -> Order:
    """The order a client asked for; newest first where it asked for none."""
    if text is None:
        return Order.DESC
    try:
        return Order(text)
    except ValueError:
        raise InvalidValue("'order' must be 'asc' or 'desc'.", param="order") from None


def parse_expires_after(
    anchor: str | None, seconds: str | None, *, max_seconds: float | None
) -> Lifetime | None:
    """The fixed lifetime a client asked for, clamped to `max_seconds`; None: it asked for none."""
    if anchor is None and seconds is None:
        return None
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 9
    wanted = int(seconds) if seconds is not None and is_number else 0
    if anchor != "created_at" or not MIN_EXPIRES_AFTER_S <= wanted <= MAX_EXPIRES_AFTER_S:
        message = (
            "'expires_after' needs both halves: expires_after[anchor]=created_at and expires_after[seconds] "
            f"from {MIN_EXPIRES_AFTER_S} to {MAX_EXPIRES_AFTER_S}."
        )
        raise InvalidValue(message, param="expires_after")
    return Lifetime(wanted if max_seconds is None else min(wanted, max_seconds), is_sliding=False)
