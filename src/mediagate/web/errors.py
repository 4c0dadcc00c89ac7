"""The one map from errors to HTTP."""

from typing import Any

from mediagate.blobs.driver import DiskFullError
from mediagate.core.errors import (
    Forbidden,
    HeadersTooLarge,
    InsufficientStorage,
    InternalError,
    InvalidRequest,
    MediagateError,
    MethodNotAllowed,
    NotFound,
    NotSupported,
    RangeNotSatisfiable,
    ReceiveTimeout,
    StoreBusy,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from mediagate.index.driver import IndexBusyError, IndexFullError, ReservationLostError
from mediagate.web.asgi import Headers
from mediagate.web.replies import json_body

STATUS: dict[type[MediagateError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    ReceiveTimeout: 408,
    TooLarge: 413,
    RangeNotSatisfiable: 416,
    HeadersTooLarge: 431,
    InternalError: 500,
    NotSupported: 501,
    UpstreamUnreachable: 502,
    Unavailable: 503,
    UpstreamTimeout: 504,
    InsufficientStorage: 507,
}

_NOT_WORTH_RETRYING = frozenset({408, 501, 507})
"""Statuses that the official clients would send the same bytes again for, up to twice, in vain."""


def status_of(error: MediagateError) -> int:
    """The status of the nearest listed ancestor."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def body_of(error: MediagateError) -> dict[str, Any]:
    """OpenAI's error body, all four keys present (OpenAI `Error` schema)."""
    kind = "server_error" if status_of(error) >= 500 else "invalid_request_error"
    if isinstance(error, Unauthenticated):
        kind = "authentication_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def headers_of(error: MediagateError) -> Headers:
    """What tells the client, beside the status, what to do."""
    headers: Headers = []
    if status_of(error) in _NOT_WORTH_RETRYING:
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    if isinstance(error, RangeNotSatisfiable):
        headers.append((b"content-range", b"bytes */%d" % error.size_bytes))
    return headers


def render(error: MediagateError) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer to `error`."""
    headers, body = json_body(body_of(error))
    return status_of(error), headers + headers_of(error), body


def translate(error: Exception) -> MediagateError:
    """What a client is told of an exception that no operation turned into an error of ours."""
    if isinstance(error, MediagateError):
        return error
    if isinstance(error, DiskFullError | IndexFullError):
        return InsufficientStorage("The server's disk is full.", is_disk_full=True)
    if isinstance(error, IndexBusyError | ReservationLostError):
        return StoreBusy("The store did not answer in time. Try again.")
    return InternalError("The server made a mistake. It is in its log.")
