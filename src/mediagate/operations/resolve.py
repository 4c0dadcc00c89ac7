"""A request body that names files → a body that the upstream understands; the rest of it is not touched.

    parse strictly → find media fields, refuse what may not pass → lease all files at once → check kinds → splice

Whatever fails, fails before the upstream hears of the request, and nothing stays leased.
"""

import binascii
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mediagate.core.errors import InvalidValue, MediaKindMismatch, SourceNotAllowed
from mediagate.core.files import FileId, FileObject, MediaKind
from mediagate.core.references import Base64Reference, FileReference
from mediagate.core.scopes import Principal, Scope
from mediagate.dialects.fields import Dialect, Edit, Form, MediaField, Place, Slot
from mediagate.dialects.strict_json import Path, Span, parse_object, spans
from mediagate.executor import Executor
from mediagate.media.sniff import HEAD_BYTES, MEDIA_TYPES, sniff
from mediagate.operations.deliver import Delivery, Piece, content_length
from mediagate.operations.files import file_not_found

PARSED_IN_PLACE_BYTES = 256 * 1024
"""Larger bodies are parsed off the event loop."""

MAX_REFERENCES = 1000
"""File references in one request: bounds one index query, and what one small body can make us send."""

_HEAD_CHARS = HEAD_BYTES // 3 * 4 + 4

_FORMATS = {"audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-matroska": "mka"}
"""OpenAI's names for audio formats where they differ from the subtype."""


class HeldFiles(Protocol):
    """Leased files, kept so in the background until `release`."""

    @property
    def files(self) -> Mapping[FileId, FileObject]:
        """Those that exist for the caller."""

    async def release(self) -> None:
        """End the lease. Safe to call more than once."""


class Holder(Protocol):
    """Leases files."""

    async def hold(self, file_ids: Collection[FileId], *, scope: Scope) -> HeldFiles:
        """Lease those of `file_ids` that exist for `scope`, in one step; it is a use of them."""


@dataclass(slots=True)
class Resolved:
    """A body for the upstream; its files stay readable until `close`.

    Attributes:
        pieces: The body; `operations.deliver.stream` sends it.
        files: The files that it names, each once.
    """

    pieces: Sequence[Piece]
    files: Sequence[FileObject] = ()
    _hold: HeldFiles | None = None
    _delivery: Delivery | None = None

    @property
    def content_length(self) -> int:
        """Exact length of the body, in bytes."""
        return content_length(self.pieces)

    async def close(self) -> None:
        """The answer has ended or failed: end the lease. Safe to call more than once."""
        if self._delivery is not None:
            self._delivery.close()
        if self._hold is not None:
            await self._hold.release()


class Resolver:
    """Resolves references in request bodies.

    Args:
        holder: Leases the files.
        deliver: Makes the delivery of one request.
        executor: Where large bodies are parsed.
    """

    def __init__(
        self, *, holder: Holder, deliver: Callable[[], Delivery], executor: Executor
    ) -> None:
        self._holder = holder
        self._deliver = deliver
        self._executor = executor

    async def resolve(self, raw: bytes, *, dialect: Dialect, principal: Principal) -> Resolved:
        """Judge `raw`, lease what it names, and rewrite it; without references it stays as it is.

        The caller closes the result, whatever becomes of the request.

        Raises:
            MalformedBody: Not the one JSON object that it should be.
            InvalidReference: A malformed reference, or one where none is taken.
            SourceNotAllowed: A media field names what no client may name.
            MediaKindMismatch: A file, or inline base64, is of another kind than its place takes.
            FileNotFound: A file is unknown, expired, deleted or foreign.
            InvalidValue: The body's shape, or too many references.
        """
        if len(raw) > PARSED_IN_PLACE_BYTES:
            fields, where = await self._executor.run(_read, raw, dialect)
        else:
            fields, where = _read(raw, dialect)
        if not fields:
            return Resolved((raw,))
        ids = dict.fromkeys(file_id for _, file_id in fields)
        hold = await self._holder.hold(ids, scope=principal.scope)
        delivery = self._deliver()
        try:
            changes: list[_Change] = []
            for field, file_id in fields:
                file = _fitting(field, hold.files.get(file_id))
                changes += _changes(field, file, delivery, where)
            files = tuple(hold.files[file_id] for file_id in ids)
            return Resolved(_splice(raw, changes), files, hold, delivery)
        except BaseException:
            delivery.close()
            await hold.release()
            raise


@dataclass(frozen=True, slots=True)
class _Change:
    start: int
    stop: int
    pieces: Sequence[Piece]


def _read(raw: bytes, dialect: Dialect) -> tuple[list[tuple[MediaField, FileId]], dict[Path, Span]]:
    """The fields that name files, and where the values that they change stand."""
    named: list[tuple[MediaField, FileId]] = []
    for field in dialect(parse_object(raw)):
        match field.reference:
            case FileReference(file_id):
                named.append((field, file_id))
            case Base64Reference(text):
                _check_base64(field, text)
    if len(named) > MAX_REFERENCES:
        raise InvalidValue(f"A request names at most {MAX_REFERENCES} files.", param="messages")
    paths = {edit.path for field, _ in named for edit in field.edits}
    return named, spans(raw, paths) if paths else {}


def _check_base64(field: MediaField, text: str) -> None:
    """Media, and not a path that is spelt in base64's alphabet, which some engines would open."""
    head = binascii.a2b_base64(text[:_HEAD_CHARS])
    mime_type = sniff(head, is_whole=len(text) <= _HEAD_CHARS)
    if mime_type not in MEDIA_TYPES:
        message = (
            "This is no base64 of media. Send the media's bytes in base64, or upload the file "
            "with POST /v1/files and name it by its id."
        )
        raise SourceNotAllowed(message, param=field.param)
    kind = MediaKind(mime_type.partition("/")[0])
    if field.kind not in {None, kind}:
        raise _mismatch(field, kind)


def _fitting(field: MediaField, file: FileObject | None) -> FileObject:
    if file is None:
        raise file_not_found(param=field.param)
    if field.kind not in {None, file.kind}:
        raise _mismatch(field, file.kind)
    return file


def _mismatch(field: MediaField, kind: MediaKind) -> MediaKindMismatch:
    return MediaKindMismatch(f"This takes {field.kind}, but it is {kind}.", param=field.param)


def _changes(
    field: MediaField, file: FileObject, delivery: Delivery, where: Mapping[Path, Span]
) -> Iterable[_Change]:
    for edit in field.edits:
        start, stop = _span(edit, where[edit.path])
        yield _Change(start, stop, _filled(edit, field.form, file, delivery))


def _span(edit: Edit, span: Span) -> tuple[int, int]:
    match edit.place:
        case Place.VALUE:
            return span.start, span.stop
        case Place.KEY:
            return span.key_start, span.key_stop
        case _:
            return span.stop, span.stop


def _filled(edit: Edit, form: Form, file: FileObject, delivery: Delivery) -> Sequence[Piece]:
    pieces: list[Piece] = []
    for content in edit.content:
        match content:
            case Slot.MEDIA:
                pieces += delivery.pieces(file, form=form)
            case Slot.KIND:
                pieces.append(file.kind.encode())
            case Slot.FORMAT:
                subtype = file.mime_type.partition("/")[2]
                pieces.append(_FORMATS.get(file.mime_type, subtype).encode())
            case _:
                pieces.append(content)
    return pieces


def _splice(raw: bytes, changes: Iterable[_Change]) -> Sequence[Piece]:
    """`raw` with changes made; adjacent bytes are joined."""
    pieces: list[Piece] = []
    pending: list[bytes] = []
    at = 0
    for change in sorted(changes, key=lambda change: (change.start, change.stop)):
        pending.append(raw[at : change.start])
        for piece in change.pieces:
            if isinstance(piece, bytes):
                pending.append(piece)
            else:
                pieces += (b"".join(pending), piece)
                pending = []
        at = change.stop
    pieces.append(b"".join((*pending, raw[at:])))
    return pieces
