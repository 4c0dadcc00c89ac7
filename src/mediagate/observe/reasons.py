"""Why a request was refused, in a word: for the audit log and the metrics.

The reason is the error's code, unless vLLM's pull request 39003 has a name for it.
"""

from collections.abc import Iterator, Mapping

from mediagate.core.errors import (
    BodyTooLarge,
    FileNotFound,
    FileTooLarge,
    HeadersTooLarge,
    InsufficientStorage,
    InternalError,
    InvalidScope,
    InvalidValue,
    MediagateError,
    MethodNotAllowed,
    ModelNotFound,
    NotSupported,
    PartTooLarge,
    RangeNotSatisfiable,
    RouteNotFound,
    UnsupportedMedia,
    UpstreamTimeout,
    UpstreamUnreachable,
)

NAMED: Mapping[type[MediagateError], str] = {
    FileTooLarge: "size_exceeded",
    PartTooLarge: "size_exceeded",
    BodyTooLarge: "size_exceeded",
    UnsupportedMedia: "mime_mismatch",
    InsufficientStorage: "quota_full",
    InvalidScope: "scope_missing",
    FileNotFound: "not_found",
}
"""Reasons that are not the error's code."""

MEANINGS: Mapping[str, str] = {
    "size_exceeded": "The file, the part or the JSON body is larger than its limit",
    "invalid_purpose": "`purpose` is none that there is",
    "quota_full": "The quota has no room and nothing can be evicted, or the file can never fit",
    "disk_full": "The disk has no room",
    "not_found": "The file was never there, or is there no more",
    "scope_mismatch": "The file is another scope's; the client is told that it is not there",
}
"""Of reasons that are not what one error says of itself."""

NO_REFUSALS = frozenset(
    {
        RouteNotFound,
        ModelNotFound,
        MethodNotAllowed,
        HeadersTooLarge,
        NotSupported,
        RangeNotSatisfiable,
        UpstreamUnreachable,
        UpstreamTimeout,
        InternalError,
    }
)
"""Errors that refuse nobody a file: there is no such thing here, or the fault is not the client's.

A range that cannot be satisfied is one: its file was opened, which is told as a download.
"""


def reason_of(error: MediagateError) -> str | None:
    """Why `error` refused a request; None: it is no refusal."""
    kind = type(error)
    if kind in NO_REFUSALS:
        return None
    if isinstance(error, InvalidValue) and error.param == "purpose":
        return "invalid_purpose"
    if isinstance(error, InsufficientStorage) and error.is_disk_full:
        return "disk_full"
    if isinstance(error, FileNotFound) and error.is_foreign:
        return "scope_mismatch"
    return NAMED.get(kind, error.code)


def reasons() -> Mapping[str, str]:
    """Every reason there can be, and what it means, in words."""
    refusals = (kind for kind in _leaves(MediagateError) if kind not in NO_REFUSALS)
    told = {
        NAMED.get(kind, kind.code): (kind.__doc__ or "").partition("\n")[0].rstrip(".")
        for kind in refusals
    }
    return dict(sorted((told | dict(MEANINGS)).items()))


def _leaves(kind: type[MediagateError]) -> Iterator[type[MediagateError]]:
    if "code" in vars(kind):
        yield kind
    for child in kind.__subclasses__():
        yield from _leaves(child)
