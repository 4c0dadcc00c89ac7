"""The bytes of one file as an answer, or one range of them (RFC 9110 §14)."""

from collections.abc import AsyncIterator, Awaitable, Callable

from mediagate.core.errors import RangeNotSatisfiable
from mediagate.core.files import FileObject
from mediagate.web.asgi import HeaderList, Headers
from mediagate.web.ranges import parse_range
from mediagate.web.replies import Reply, StreamReply


async def content_reply(
    file: FileObject,
    *,
    asked: HeaderList,
    chunks: Callable[[int, int], AsyncIterator[bytes]],
    close: Callable[[], Awaitable[None]],
    disposition: bytes,
) -> Reply:
    """What a download of `file` is answered with; `close` is awaited whatever happens.

    Args:
        file: What it is.
        asked: The headers of the request.
        chunks: Reads the bytes from one position up to another.
        close: Lets go of them.
        disposition: The value of `Content-Disposition`.

    Raises:
        RangeNotSatisfiable: The range begins behind the end.
    """
    etag = f'"{file.digest.partition(":")[2]}"'.encode()
    try:
        span = parse_range(asked, size_bytes=file.size_bytes, etag=etag)
    except RangeNotSatisfiable:
        await close()
        raise
    start, stop = span or (0, file.size_bytes)
    headers: Headers = [
        (b"content-type", file.mime_type.encode()),
        (b"content-length", b"%d" % (stop - start)),
        (b"content-disposition", disposition),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag),
        (b"cache-control", b"private, no-store"),
    ]
    if span is not None:
        value = b"bytes %d-%d/%d" % (start, stop - 1, file.size_bytes)
        headers.append((b"content-range", value))
    status = 200 if span is None else 206
    return StreamReply(chunks(start, stop), status=status, headers=headers, close=close)
