r"""Which requests are read because their bodies may name media; all others pass unread.

A request is matched by what *any* server might take its path for, never by its `Content-Type`: percent-encoding (also
encoded twice), `//`, dot segments, `\`, `;parameters`, upper case and a trailing slash hide nothing. A path that is
read needlessly costs a parse; one that is not read costs the wall.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from mediagate.core.errors import BodyTooLarge, MalformedBody
from mediagate.dialects import openai_chat
from mediagate.dialects.fields import Dialect
from mediagate.web.asgi import HeaderList

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""A body has no meaning in them (RFC 9110 §9.3); routers match them exactly."""

_MAX_DECODINGS = 8
_END = re.compile(rb"[?#\x00]")
_BLANKS = re.compile(r"[\x00-\x20\x7f]+")

_DIALECTS: dict[tuple[str, ...], Dialect] = {
    ("chat", "completions"): openai_chat.find,
    ("api", "chat"): openai_chat.find,  # llama-server's other name for it
}
"""Neighbouring path segments; any prefix (`/v1`, a root path) and suffix (`/batch`, `/render`) may be around them."""


def media_dialect(method: str, raw_path: bytes) -> Dialect | None:
    """How to read the body of a request, or None: it is not read.

    Args:
        method: As the client wrote it.
        raw_path: Undecoded; a query is ignored.
    """
    if method.upper() in _WITHOUT_BODY:
        return None
    for segments in _readings(raw_path):
        for wanted, dialect in _DIALECTS.items():
            starts = range(len(segments) - len(wanted) + 1)
            if any(segments[start : start + len(wanted)] == wanted for start in starts):
                return dialect
    return None


def check_encoding(headers: HeaderList) -> None:
    """Refuse headers that make a server read other text than the bytes in UTF-8.

    Raises:
        MalformedBody: A `Content-Encoding`, or a charset that is not UTF-8 (in UTF-7, `+ACI-` is a quotation mark).
    """
    for name, value in headers:
        header = name.lower()
        if header == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise MalformedBody("This endpoint takes no Content-Encoding; send the JSON as it is.")
        if header == b"content-type" and not _is_utf8(value):
            raise MalformedBody("This endpoint takes JSON in UTF-8 only.")


def body_too_large(max_json_bytes: int) -> BodyTooLarge:
    """The error for a JSON body over the limit; says what to do instead."""
    return BodyTooLarge(
        f"The JSON body is larger than {max_json_bytes} bytes. Upload media with POST /v1/files "
        "and name it by its id instead of sending it as base64."
    )


def _readings(raw_path: bytes) -> Iterator[tuple[str, ...]]:
    """The segments of the path as servers read it: decoded once, twice …; up to a `?`, `#` or NUL, or across it."""
    decoded = raw_path.partition(b"?")[0]
    path = b""
    for _ in range(_MAX_DECODINGS):
        if decoded == path:
            return
        path, decoded = decoded, unquote_to_bytes(decoded)
        yield _segments(path)
        if _END.search(path):
            yield _segments(_END.split(path)[0])


def _segments(path: bytes) -> tuple[str, ...]:
    segments: list[str] = []
    # WHATWG's URL parser drops tabs and line breaks anywhere in a URL.
    text = _BLANKS.sub("", path.decode(errors="replace")).casefold()
    for part in re.split(r"[/\\]", text):
        segment = part.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return tuple(segments)


def _is_utf8(content_type: bytes) -> bool:
    # An extended parameter (`charset*=`, RFC 8187) yields an empty name, which is none of these.
    charsets = re.findall(rb"charset(?:\s*=\s*[\"']?([^\"';,\s]*)|\*)", content_type.lower())
    return all(charset in {b"utf-8", b"utf8", b"us-ascii"} for charset in charsets)
