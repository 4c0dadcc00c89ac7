"""One line per request, without what must not be in a log: no query, no capability id, no filename."""

import logging
import re
from dataclasses import dataclass
from urllib.parse import unquote

logger = logging.getLogger("mediagate.access")

# What follows /v1/files/ is or claims to be an id, well-formed or not.
_AFTER_FILES = re.compile(r"(/v1/files/)[^/]+")
_FILE_ID = re.compile(r"file-[0-9a-f]{32}", re.IGNORECASE)
_MAX_DECODINGS = 8
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def mask_path(raw_path: str) -> str:
    """A path fit for a log: ids replaced, nothing that could break a line or a terminal."""
    plain = raw_path
    for _ in range(_MAX_DECODINGS):
        plain = unquote(plain)
    if len(_FILE_ID.findall(plain)) > len(_FILE_ID.findall(raw_path)):
        return "(masked)"  # an id in disguise: nothing of such a path is worth keeping
    masked = _FILE_ID.sub("{id}", _AFTER_FILES.sub(r"\1{id}", raw_path))
    return _UNPRINTABLE.sub("?", masked)[:200]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One request that is over.

    Attributes:
        method: As sent.
        raw_path: As sent, percent-encoding and all; may hold capability ids: mask it before it is written.
        status: Of the answer; 499: the client left before there was one.
        received_bytes: Of the request body, as far as it was read.
        sent_bytes: Of the response body.
        elapsed_s: From the request's head to the end of the answer.
    """

    method: str
    raw_path: str
    status: int
    received_bytes: int
    sent_bytes: int
    elapsed_s: float


def log_access(access: Access) -> None:
    """Write the line of one request: `POST /v1/files 200 in=1048576 out=312 12.3ms`."""
    logger.info(
        "%s %s %d in=%d out=%d %.1fms",
        _UNPRINTABLE.sub("?", access.method)[:20],
        mask_path(access.raw_path),
        access.status,
        access.received_bytes,
        access.sent_bytes,
        access.elapsed_s * 1000,
    )
