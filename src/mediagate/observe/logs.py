"""One line per request, without what must not be in a log: no query, no capability id, no filename."""

import logging
import re
from urllib.parse import unquote

from mediagate.core.events import Event, RequestEnded

logger = logging.getLogger("mediagate.access")

# What follows these is or claims to be an id or a token, well-formed or not.
_AFTER_NAMES = re.compile(r"(/v1/(?:files|uploads|media)/)[^/]+")
# The ids of files, of Uploads and their parts, the handles and the tokens of leased media, wherever they stand.
_NAMED = "file-|upload_|part_|mediagate-media:"
CAPABILITY = re.compile(rf"(?:{_NAMED})[0-9a-f]{{32}}|[0-9a-f]{{100}}", re.IGNORECASE)
_MAX_DECODINGS = 8
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def mask_path(raw_path: str) -> str:
    """A path fit for a log: ids replaced, nothing that could break a line or a terminal."""
    plain = raw_path
    for _ in range(_MAX_DECODINGS):
        plain = unquote(plain)
    if len(CAPABILITY.findall(plain)) > len(CAPABILITY.findall(raw_path)):
        return "(masked)"  # an id in disguise: nothing of such a path is worth keeping
    masked = mask_text(_AFTER_NAMES.sub(r"\1{id}", raw_path))
    return _UNPRINTABLE.sub("?", masked)[:200]


def mask_target(target: str) -> str:
    """A path with its query, if any, fit for a log: of the query no more than that there was one."""
    path, mark, _ = target.partition("?")
    return mask_path(path) + ("?{query}" if mark else "")


def mask_text(text: str) -> str:
    """Any text, with the capability ids in it replaced."""
    return CAPABILITY.sub("{id}", text)


def log_access(event: Event) -> None:
    """An observer that writes `POST /v1/files 200 in=1048576 out=312 12.3ms id=req_5d…` for each request."""
    if not isinstance(event, RequestEnded):
        return
    logger.info(
        "%s %s %d in=%d out=%d %.1fms id=%s",
        _UNPRINTABLE.sub("?", event.method)[:20],
        mask_path(event.raw_path),
        event.status,
        event.received_bytes,
        event.sent_bytes,
        event.elapsed_s * 1000,
        event.request_id,
    )
