"""Byte ranges (RFC 9110 §14): one range per request; several are answered with the whole file, as the RFC allows."""

import re

from mediagate.core.errors import RangeNotSatisfiable
from mediagate.web.asgi import HeaderList, header_values

# Nineteen digits reach past any file; more would only cost time to convert.
_RANGE = re.compile(rb"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)


def parse_range(headers: HeaderList, *, size_bytes: int, etag: bytes) -> tuple[int, int] | None:
    """The range asked for as (start, stop), or None for the whole file.

    What is no single well-formed byte range is ignored (§14.2), as is a range whose `If-Range` names other bytes.

    Raises:
        RangeNotSatisfiable: It begins behind the end.
    """
    headers = list(headers)
    values = header_values(headers, b"range")
    conditions = header_values(headers, b"if-range")
    match = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or any(condition.strip() != etag for condition in conditions):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        start = int(first)
        stop = min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= size_bytes:
        message = f"The range lies outside the file, which has {size_bytes} bytes."
        raise RangeNotSatisfiable(message, size_bytes=size_bytes)
    return start, stop
