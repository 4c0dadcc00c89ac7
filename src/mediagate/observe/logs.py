"""One line per request, without what must not be in a log: no query, no capability id, no filename."""

import logging
import re
from urllib.parse import unquote

from mediagate.core.events import Event

access = logging.getLogger("mediagate.access")

# What follows /v1/files/ is or claims to be an id, well-formed or not.
_AFTER_FILES = re.compile(r"(/v1/files/)[^/]+")
_FILE_ID = re.compile(r"file-[0-9a-f]{32}", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def mask_path(raw_path: str) -> str:
    """A path fit for a log: ids replaced, nothing that could break a line or a terminal."""
    if _FILE_ID.search(unquote(unquote(raw_path))) and not _FILE_ID.search(raw_path):
        return "(masked)"  # an id in disguise: nothing of such a path is worth keeping
    masked = _FILE_ID.sub("{id}", _AFTER_FILES.sub(r"\1{id}", raw_path))
    return _UNPRINTABLE.sub("?", masked)[:200]


def log_access(
    *,
    method: str,
    raw_path: str,
    status: int,
    received_bytes: int,
    sent_bytes: int,
    elapsed_s: float,
) -> None:
    """Write the line of one request: `POST /v1/files 200 in=1048576 out=312 12.3ms`."""
    access.info(
        "%s %s %d in=%d out=%d %.1fms",
        _UNPRINTABLE.sub("?", method)[:20],
        mask_path(raw_path),
        status,
        received_bytes,
        sent_bytes,
        elapsed_s * 1000,
    )


def ignore(event: Event) -> None:
    """An observer for those who want none."""
