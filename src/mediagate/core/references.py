"""Where a request names media: a file id, a URL, or inline data; anything else does not pass.

    vllm-file://file-<32 hex>   a file of this store (vLLM pull request #39003)
    file-<32 hex>               the same, bare
    attachment://<name>         a file that is sent in the same request, if that is a form
    data:…;base64,…             inline
    http://… https://…          plainly spelt (`core.urls`), fetched by the upstream if `core.media_hosts` lets it
    all else                    refused: paths, file:, ftp:, look-alikes

The rule looks at the very value that is sent on: no decoding, no trimming, so that there are no two readings.
Engines compare schemes by case and take what they do not know for a path. So schemes are lower-case here, and in
inline data no path component is `..`: nothing that passes leads anywhere when it is taken for a path after all.
"""

import re
from dataclasses import dataclass
from typing import cast

from mediagate.core.errors import InvalidReference, SourceNotAllowed
from mediagate.core.files import FileId, parse_file_id
from mediagate.core.urls import NOT_PLAIN, host_of

SCHEME = "vllm-file://"
ATTACHMENT = "attachment://"
HANDLE_SCHEME = "mediagate-media:"
"""What we tell an engine in this process to open. It means something there, so no client may write it."""

_DATA_HEAD = re.compile(
    r"data:(?:[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126})?"
    r"(?:;[\w-]{1,64}=[\w.+\-\"' ]{0,128}){0,8};base64,",
    re.ASCII,
)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_INLINE = _BASE64 + b"-_=, \t\r\n"
"""What may follow `;base64,`: either alphabet, line breaks, and the comma between vLLM's `video/jpeg` frames."""

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]*+")
_SLICE = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file of this store."""

    file_id: FileId


@dataclass(frozen=True, slots=True)
class AttachmentReference:
    """A file that came in the same request, by the name of its form field or its filename."""

    name: str


@dataclass(frozen=True, slots=True)
class UrlReference:
    """An http(s) URL that the upstream would fetch. Its host is still to be judged by `core.media_hosts`."""

    url: str


@dataclass(frozen=True, slots=True)
class DataReference:
    """Inline data: a `data:` URI."""

    uri: str


@dataclass(frozen=True, slots=True)
class Base64Reference:
    """Inline data without a scheme; what it is, only its decoded bytes can tell."""

    text: str


@dataclass(frozen=True, slots=True)
class KeptReference:
    """What an engine keeps under a name of the client's (vLLM's `uuid`), beside media or in their place.

    Attributes:
        name: The name, as JSON: vLLM takes any value.
    """

    name: str


StoredReference = FileReference | AttachmentReference
MediaReference = StoredReference | UrlReference | DataReference


def looks_like_reference(value: str) -> bool:
    """Whether `value` claims to name a file of this store or of this request, rightly or not."""
    return _head(value).startswith(("vllm-file:", "file-", "attachment:"))


def names_a_file(value: str) -> bool:
    """Whether `value` begins with `file:`, `vllm-file:` or `attachment:`, in any case, behind any blanks.

    The test for strings whose meaning is unknown; an id without a scheme is a plain word there.
    """
    return _head(value).startswith(("vllm-file:", "file:", "attachment:"))


def names_a_handle(value: str) -> bool:
    """Whether `value` has `mediagate-media:` in it, or begins with that in any case, behind any blanks.

    In it, because vLLM puts `data:audio/<format>;base64,` before what a client sends, and part of that is the client's.
    """
    return HANDLE_SCHEME in value or _head(value).startswith(HANDLE_SCHEME)


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


def parse_stored_reference(value: str, *, param: str) -> StoredReference:
    """The file that `value` names: one of this store, or one of this request.

    Raises:
        InvalidReference: It names neither.
    """
    name = value.removeprefix(ATTACHMENT)
    if name not in {value, ""}:
        return AttachmentReference(name)
    return FileReference(parse_file_reference(value, param=param))


def parse_media_reference(value: str, *, param: str) -> MediaReference:
    """What the media field at `param` names.

    Raises:
        InvalidReference: It looks like a file id and is none.
        SourceNotAllowed: It is neither a file id, nor base64 `data:`, nor a plain http(s) URL.
    """
    if looks_like_reference(value):
        return parse_stored_reference(value, param=param)
    if _is_data(value):
        return DataReference(value)
    if host_of(value) is not None:
        return UrlReference(value)
    if _head(value).startswith(("http:", "https:")):
        raise SourceNotAllowed(NOT_PLAIN, param=param)
    message = (
        "Media is named by a file id (vllm-file://file-…), a data:<type>;base64,… URI or an http(s) URL. "
        "Upload a local file with POST /v1/files and name it by its id."
    )
    raise SourceNotAllowed(message, param=param)


def parse_data_reference(value: str, *, param: str) -> MediaReference | Base64Reference:
    """What a field for bare base64 at `param` names: the same, or base64 in the standard alphabet, padded.

    A path can be spelt in base64's alphabet, so the caller must look at the decoded bytes.

    Raises:
        InvalidReference: It looks like a file id and is none.
        SourceNotAllowed: It is none of these.
    """
    if is_base64(value):
        return Base64Reference(value)
    return parse_media_reference(value, param=param)


def is_base64(value: str) -> bool:
    """Whether `value` is base64 in the standard alphabet, padded, without blanks; which a path may be too."""
    if not value or len(value) % 4:
        return False
    padding = 2 if value.endswith("==") else 1 if value.endswith("=") else 0
    return _consists_of(value, _BASE64, stop=len(value) - padding)


def _head(value: str) -> str:
    # As URL parsers read it: without leading blanks and controls, and without line breaks anywhere.
    start = cast("re.Match[str]", _BLANKS.match(value)).end()
    return _BLANKS.sub("", value[start : start + 64]).casefold()


def _is_data(value: str) -> bool:
    head = _DATA_HEAD.match(value)
    return head is not None and _consists_of(value, _INLINE, start=head.end())


def _consists_of(text: str, alphabet: bytes, *, start: int = 0, stop: int | None = None) -> bool:
    stop = len(text) if stop is None else stop
    # In slices, so that megabytes are not copied; `translate` is several times as fast as a regular expression.
    return text.isascii() and not any(
        text[at : min(at + _SLICE, stop)].encode().translate(None, alphabet)
        for at in range(start, stop, _SLICE)
    )
