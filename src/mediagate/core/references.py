"""Where a request names media: a file id, a URL, or inline data; anything else does not pass.

    vllm-file://file-<32 hex>   a file of this store (vLLM pull request #39003)
    file-<32 hex>               the same, bare
    data:…                      inline
    http://… https://…          fetched by the upstream
    all else                    refused: paths, file:, ftp:, look-alikes

The rule looks at the very value that is sent on: no decoding, no trimming, so that there are no two readings.
"""

import re
from dataclasses import dataclass

from mediagate.core.errors import InvalidReference, SourceNotAllowed
from mediagate.core.files import FileId, parse_file_id

SCHEME = "vllm-file://"

_HTTP = re.compile(r"https?://[^\s\\/?#]+[^\s\\]*", re.IGNORECASE)
_DATA = re.compile(r"data:[^,\s]{0,256},", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file of this store."""

    file_id: FileId


@dataclass(frozen=True, slots=True)
class UrlReference:
    """An http(s) URL that the upstream fetches."""

    url: str


@dataclass(frozen=True, slots=True)
class DataReference:
    """Inline data: a `data:` URI."""

    uri: str


MediaReference = FileReference | UrlReference | DataReference


def looks_like_reference(value: str) -> bool:
    """Whether `value` claims to name a file of this store, rightly or not."""
    head = value[:64].lstrip().casefold()
    return head.startswith((SCHEME, "file-"))


def parse_file_reference(value: str, *, param: str) -> FileId:
    """The file that `value` names, with or without the scheme.

    Args:
        value: `vllm-file://file-<32 hex>` or `file-<32 hex>`.
        param: JSON path of the value, for the error.

    Raises:
        InvalidReference: It is not of that form.
    """
    file_id = parse_file_id(value.removeprefix(SCHEME))
    if file_id is None:
        message = (
            "This is not a file id. Write vllm-file://file-<32 hex digits> or file-<32 hex digits>, "
            "as POST /v1/files returned it."
        )
        raise InvalidReference(message, param=param)
    return file_id


def parse_media_reference(value: str, *, param: str) -> MediaReference:
    """What the media field at `param` names.

    Raises:
        InvalidReference: It looks like a file id and is none.
        SourceNotAllowed: It is neither a file id, nor `data:`, nor http(s).
    """
    if looks_like_reference(value):
        return FileReference(parse_file_reference(value, param=param))
    if _DATA.match(value):
        return DataReference(value)
    if _HTTP.fullmatch(value):
        return UrlReference(value)
    message = (
        "Media is named by a file id (vllm-file://file-…), a data: URI or an http(s) URL. "
        "Upload a local file with POST /v1/files and name it by its id."
    )
    raise SourceNotAllowed(message, param=param)
