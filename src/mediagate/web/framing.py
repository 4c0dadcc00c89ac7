"""What a request's head says, judged before any application sees it.

A request that two servers could delimit differently smuggles another one past the first of them. So anything but one
Content-Length or `Transfer-Encoding: chunked` is refused: llhttp refuses both together, duplicates and signs; the rest
is here.
"""

import types
from collections.abc import Callable
from typing import cast

import httptools

from mediagate.core.errors import MalformedBody, MediagateError, NotSupported
from mediagate.web.asgi import Headers


class Refused(Exception):
    """Raised in a parser callback: the request is answered with `error` and parsing ends."""

    def __init__(self, error: MediagateError) -> None:
        super().__init__(error.code)
        self.error = error


def split_target(url: bytes) -> tuple[bytes, bytes]:
    """The raw path and the raw query. RFC 9112 §3.2: origin form, or absolute form whose host is ignored.

    Raises:
        Refused: It is neither.
    """
    try:
        parts = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise Refused(MalformedBody("The request target is no path.")) from None
    raw_path = cast("bytes | None", parts.path) or b"/"
    if not raw_path.startswith(b"/"):
        raise Refused(MalformedBody("The request target is no path."))
    return raw_path, cast("bytes | None", parts.query) or b""


def check_framing(headers: Headers, *, version: str) -> None:
    """Refuse what could be framed in two ways.

    Raises:
        Refused: It could, or it does not carry exactly one Host.
    """
    hosts = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            # RFC 9112 §6.1: other codings may be refused with 501; with HTTP/1.0 the framing is faulty.
            if version != "1.1":
                raise Refused(MalformedBody("Transfer-Encoding needs HTTP/1.1."))
            if value.strip().lower() != b"chunked":
                raise Refused(NotSupported("The only transfer coding here is chunked."))
        elif name == b"host":
            hosts += 1
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(MalformedBody("A request carries exactly one Host header."))


def has_body(headers: Headers) -> bool:
    """Whether bytes follow the head."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and int(value) > 0)
        for name, value in headers
    )


def body_parser(
    headers: Headers,
    *,
    on_body: Callable[[bytes], None],
    on_message_complete: Callable[[], None],
) -> httptools.HttpRequestParser:
    """A parser that stands at the beginning of a body which is framed as `headers` say."""
    parser = httptools.HttpRequestParser(
        types.SimpleNamespace(on_body=on_body, on_message_complete=on_message_complete)
    )
    framing = [line for line in headers if line[0] in {b"transfer-encoding", b"content-length"}]
    parser.feed_data(b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % framing[0])
    return parser
