"""Everything that can go wrong, named by what went wrong; HTTP is the business of `mediagate.web.errors`.

    MediagateError
    ├── InvalidRequest
    │   ├── MalformedBody         malformed_body            not the JSON, form or framing it claims to be
    │   ├── InvalidValue          invalid_value             a parameter, named by `param`, is out of its range
    │   ├── EmptyFile             empty_file
    │   ├── InvalidScope          invalid_scope             the scope header is missing, doubled or malformed
    │   ├── UploadNotPending      upload_not_pending        it was completed, cancelled, or has expired
    │   ├── UnsupportedMedia      unsupported_media_type    the bytes are no media that is accepted
    │   ├── UnreadableMedia       unreadable_media          the right type, but it does not decode
    │   ├── InvalidReference      invalid_reference         looks like a file id, is none
    │   ├── SourceNotAllowed      media_source_not_allowed  a path, scheme or host that no client may name
    │   ├── MediaKindMismatch     media_kind_mismatch       a sound in an image part
    │   └── NotTakenByEngine      not_taken_by_engine       a video for an engine without any
    ├── Unauthenticated           invalid_api_key
    ├── Forbidden
    │   ├── ScopeNotAllowed       scope_not_allowed         this caller may not name that scope
    │   └── ListingDisabled       listing_disabled
    ├── NotFound
    │   ├── FileNotFound          file_not_found            unknown, expired, deleted, evicted or foreign
    │   ├── UploadNotFound        upload_not_found          unknown, foreign, or over for long
    │   ├── RouteNotFound         route_not_found
    │   └── ModelNotFound         model_not_found
    ├── MethodNotAllowed          method_not_allowed
    ├── ReceiveTimeout            receive_timeout           the body stalled, trickled or took too long
    ├── TooLarge
    │   ├── FileTooLarge          file_too_large
    │   ├── PartTooLarge          part_too_large
    │   ├── BodyTooLarge          body_too_large
    │   └── HeadersTooLarge       headers_too_large
    ├── RangeNotSatisfiable       range_not_satisfiable
    ├── Unavailable
    │   ├── NoSlot                too_many_uploads          try again after `retry_after_s`
    │   ├── StoreBusy             store_busy                the index did not answer in time
    │   └── LookupsBusy           lookups_busy              slow names of others keep all threads
    ├── InsufficientStorage       insufficient_storage      no quota, nothing to evict, or no disk
    ├── NotSupported              not_supported
    ├── UpstreamUnreachable       upstream_unreachable
    ├── UpstreamTimeout           upstream_timeout
    └── InternalError             internal_error

Messages are ours and are shown to clients: what was wrong and what to do instead.
The text of a library's exception never becomes one; it stays in `__cause__`.
"""

from typing import ClassVar

from mediagate.core.files import FileId


class MediagateError(Exception):
    """Base of all errors that callers may see.

    Attributes:
        code: Stable machine-readable name; one per leaf.
        message: Written for the client; holds no secret, path or library text.
        param: The request parameter or JSON path at fault, if one is.
    """

    code: ClassVar[str]

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(MediagateError):
    """The request is wrong and will be wrong again."""


class MalformedBody(InvalidRequest):
    """The body is not the JSON, form or framing that it claims to be."""

    code = "malformed_body"


class InvalidValue(InvalidRequest):
    """A parameter is outside its documented values; `param` names it."""

    code = "invalid_value"


class EmptyFile(InvalidRequest):
    """The file has no bytes."""

    code = "empty_file"


class InvalidScope(InvalidRequest):
    """The header that names the tenant is missing, doubled or malformed."""

    code = "invalid_scope"


class UploadNotPending(InvalidRequest):
    """The Upload was completed or cancelled, or has expired: nothing can be added to it."""

    code = "upload_not_pending"


class UnsupportedMedia(InvalidRequest):
    """The bytes are no media type that this server accepts."""

    code = "unsupported_media_type"


class UnreadableMedia(InvalidRequest):
    """The media has an accepted type, but cannot be decoded."""

    code = "unreadable_media"


class InvalidReference(InvalidRequest):
    """A media field holds what looks like a file id and is none."""

    code = "invalid_reference"


class SourceNotAllowed(InvalidRequest):
    """A media field names a path, a scheme or a host that no client may name."""

    code = "media_source_not_allowed"


class MediaKindMismatch(InvalidRequest):
    """The file is of another kind than the part that names it takes."""

    code = "media_kind_mismatch"


class NotTakenByEngine(InvalidRequest):
    """The inference server takes no such media, or would leave it out without a word."""

    code = "not_taken_by_engine"


class Unauthenticated(MediagateError):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class Forbidden(MediagateError):
    """Known, and not allowed to."""


class ScopeNotAllowed(Forbidden):
    """The header that names the tenant comes from an address that may not set it, or names another than the key's."""

    code = "scope_not_allowed"


class ListingDisabled(Forbidden):
    """This server lists no files; whoever has an id finds its file all the same."""

    code = "listing_disabled"


class NotFound(MediagateError):
    """There is nothing here, for this caller."""


class FileNotFound(NotFound):
    """Unknown, expired, deleted, evicted or owned by another scope: one and the same.

    Attributes:
        file_id: What was asked for, if it was an id at all. For the operator's log, never for the answer.
        is_foreign: It exists, for another scope. For the operator's log, never for the answer.
    """

    code = "file_not_found"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        file_id: FileId | None = None,
        is_foreign: bool = False,
    ) -> None:
        super().__init__(message, param=param)
        self.file_id = file_id
        self.is_foreign = is_foreign


class UploadNotFound(NotFound):
    """Unknown, owned by another scope, or over for so long that it is forgotten: one and the same."""

    code = "upload_not_found"


class RouteNotFound(NotFound):
    """No such route."""

    code = "route_not_found"


class ModelNotFound(NotFound):
    """The built-in engine has no model of that name."""

    code = "model_not_found"


class MethodNotAllowed(MediagateError):
    """The route exists, the method does not; `allow` lists those that do."""

    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class ReceiveTimeout(MediagateError):
    """The body stalled, came too slowly, or took longer than the deadline."""

    code = "receive_timeout"


class TooLarge(MediagateError):
    """More bytes than a limit on one request allows."""


class FileTooLarge(TooLarge):
    """The file exceeds the limit per file."""

    code = "file_too_large"


class PartTooLarge(TooLarge):
    """The part of an Upload exceeds the limit per part."""

    code = "part_too_large"


class BodyTooLarge(TooLarge):
    """The JSON body exceeds its limit."""

    code = "body_too_large"


class HeadersTooLarge(TooLarge):
    """The request's headers exceed their limit."""

    code = "headers_too_large"


class RangeNotSatisfiable(MediagateError):
    """The requested byte range lies outside the file of `size_bytes`."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, *, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class Unavailable(MediagateError):
    """Not now; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoSlot(Unavailable):
    """As many files are being received as are allowed at once."""

    code = "too_many_uploads"


class StoreBusy(Unavailable):
    """The index did not answer in time."""

    code = "store_busy"


class LookupsBusy(Unavailable):
    """Host names of other requests keep all those busy that look them up."""

    code = "lookups_busy"


class InsufficientStorage(MediagateError):
    """The quota or the disk has no room and nothing can be evicted; sending again will not help.

    Attributes:
        is_disk_full: It is the disk.
    """

    code = "insufficient_storage"

    def __init__(
        self, message: str, *, param: str | None = None, is_disk_full: bool = False
    ) -> None:
        super().__init__(message, param=param)
        self.is_disk_full = is_disk_full


class NotSupported(MediagateError):
    """A feature of the protocol that this server does not offer."""

    code = "not_supported"


class UpstreamUnreachable(MediagateError):
    """The inference server refused the connection or broke it."""

    code = "upstream_unreachable"


class UpstreamTimeout(MediagateError):
    """The inference server could not be connected to in time."""

    code = "upstream_timeout"


class InternalError(MediagateError):
    """A fault of ours."""

    code = "internal_error"
