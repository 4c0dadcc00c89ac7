"""A request body that names files → a body that the upstream understands; the rest of it is not touched.

    parse strictly → find media fields, refuse what may not pass → lease all files at once → check kinds → splice

Whatever fails, fails before the upstream hears of the request, and nothing stays leased.

An engine that guards itself (`Judge.ENGINE`) also gets bodies that are not strictly JSON, if it reads nothing of ours
in them: it is vLLM, and reads with Python's own `json`, as is done here to know.
"""

import binascii
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mediagate.core.errors import (
    InvalidReference,
    InvalidRequest,
    InvalidValue,
    MalformedBody,
    MediaKindMismatch,
    SourceNotAllowed,
)
from mediagate.core.events import FileResolved, Observer, ignore
from mediagate.core.files import FileId, FileObject, MediaKind
from mediagate.core.references import (
    AttachmentReference,
    Base64Reference,
    FileReference,
    KeptReference,
)
from mediagate.core.scopes import Principal, Scope
from mediagate.dialects.fields import Dialect, Edit, Form, Judge, MediaField, Place, Slot
from mediagate.dialects.strict_json import Path, Span, parse_object, spans
from mediagate.executor import Executor
from mediagate.media.sniff import HEAD_BYTES, MEDIA_TYPES, sniff
from mediagate.operations.deliver import Delivery, Leased, Piece, content_length
from mediagate.operations.files import file_not_found

PARSED_IN_PLACE_BYTES = 256 * 1024
"""Larger bodies are parsed off the event loop."""

MAX_REFERENCES = 1000
"""File references in one request: bounds one index query, and what one small body can make us send."""

_NO_ATTACHMENT = (
    "attachment:// names a file that is sent in the same request. Send this one as multipart/form-data, "
    "with the JSON in the part 'payload' and the file beside it, or name an uploaded file by its id."
)

_CACHE_SALT: Path = ("cache_salt",)

_HEAD_CHARS = HEAD_BYTES // 3 * 4 + 4

_PDF = b"%PDF-"
"""A document may be sent in base64 where no media is asked for; it is none of ours, and no path."""

_NOUNS: Mapping[MediaKind | None, str] = {
    MediaKind.IMAGE: "an image",
    MediaKind.AUDIO: "audio",
    MediaKind.VIDEO: "a video",
}

_FORMATS = {"audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-matroska": "mka"}
"""OpenAI's names for audio formats where they differ from the subtype."""


@dataclass(frozen=True, slots=True)
class CacheNames:
    """What vLLM is told to call what it keeps for a tenant: names that no other tenant can make.

    Attributes:
        media: The name that a client gives media (`uuid`), as JSON → the one that the engine is told.
        salt: A client's own `cache_salt`, or nothing → the one that the engine is told; None: that is left alone.
    """

    media: Callable[[str], str]
    salt: Callable[[str], str] | None = None


class HeldFiles(Leased, Protocol):
    """Those of the files that exist for the caller, kept leased in the background until `release`."""

    async def release(self) -> None:
        """End the lease. Safe to call more than once."""


class Holder(Protocol):
    """Leases files."""

    async def hold(self, file_ids: Collection[FileId], *, scope: Scope) -> HeldFiles:
        """Lease those of `file_ids` that exist for `scope`, in one step; it is a use of them."""

    async def exists(self, file_id: FileId) -> bool:
        """Whether there is such a file, whoever owns it: for what the operator is told, and for nothing else."""


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
        deliver: Makes the delivery of one request, out of its lease and the URL at which it came in, if that is known.
        executor: Where large bodies are parsed.
        observer: Told of each file that is resolved.
    """

    def __init__(
        self,
        *,
        holder: Holder,
        deliver: Callable[[HeldFiles, str | None], Delivery],
        executor: Executor,
        observer: Observer = ignore,
    ) -> None:
        self._holder = holder
        self._deliver = deliver
        self._executor = executor
        self._observer = observer

    async def resolve(
        self,
        raw: bytes,
        *,
        dialect: Dialect,
        principal: Principal,
        names: CacheNames | None = None,
        came_in_at: str | None = None,
        judge: Judge = Judge.WALL,
    ) -> Resolved:
        """Judge `raw`, lease what it names, and rewrite it; without references and names it stays as it is.

        The caller closes the result, whatever becomes of the request.

        Args:
            raw: The body.
            dialect: Finds its media fields.
            principal: Whose files it may name.
            names: Makes the body's `cache_salt` and each `uuid`; None: they are left alone.
            came_in_at: The URL at which the request reached this server, without a path.
            judge: Who judges what is no file of ours.

        Raises:
            MalformedBody: Not the one JSON object that it should be.
            InvalidReference: A malformed reference, or one where none is taken.
            SourceNotAllowed: A media field names what no client may name.
            MediaKindMismatch: A file, or inline base64, is of another kind than its place takes.
            FileNotFound: A file is unknown, expired, deleted or foreign.
            InvalidScope: It names files, and the principal does not say whose.
            InvalidValue: The body's shape, its `cache_salt`, or too many references.
        """
        if len(raw) > PARSED_IN_PLACE_BYTES:
            fields, where, changes = await self._executor.run(_read, raw, dialect, names, judge)
        else:
            fields, where, changes = _read(raw, dialect, names, judge)
        if not fields:
            return Resolved(_splice(raw, changes) if changes else (raw,))
        ids = dict.fromkeys(file_id for _, file_id in fields)
        hold = await self._holder.hold(ids, scope=principal.scope)
        delivery = self._deliver(hold, came_in_at)
        try:
            for field, file_id in fields:
                file = await self._fitting(field, file_id, hold)
                changes += _changes(field, file, delivery, where)
            files = tuple(hold.files[file_id] for file_id in ids)
            resolved = Resolved(_splice(raw, changes), files, hold, delivery)
        except BaseException:
            delivery.close()
            await hold.release()
            raise
        for file in files:
            self._observer(
                FileResolved(scope=file.scope, file_id=file.id, size_bytes=file.size_bytes)
            )
        return resolved

    async def _fitting(self, field: MediaField, file_id: FileId, hold: HeldFiles) -> FileObject:
        file = hold.files.get(file_id)
        if file is None:
            # Asked after every miss, so that the time it takes tells nothing.
            is_foreign = await self._holder.exists(file_id)
            raise file_not_found(param=field.param, file_id=file_id, is_foreign=is_foreign)
        if field.kind not in {None, file.kind}:
            raise _mismatch(field, file.kind)
        return file


@dataclass(frozen=True, slots=True)
class _Change:
    start: int
    stop: int
    pieces: Sequence[Piece]


def _read(
    raw: bytes, dialect: Dialect, names: CacheNames | None, judge: Judge
) -> tuple[list[tuple[MediaField, FileId]], dict[Path, Span], list[_Change]]:
    """The fields that name files, where the values that they change stand, and what changes without any file."""
    try:
        body = parse_object(raw)
    except MalformedBody:
        if judge is Judge.ENGINE and _is_left_to_engine(raw, dialect, names):
            return [], {}, []
        raise
    fields = dialect(body, judge=judge)
    named = list(_named(fields))
    if len(named) > MAX_REFERENCES:
        message = f"A request names at most {MAX_REFERENCES} files."
        raise InvalidValue(message, param=named[MAX_REFERENCES][0].param)
    kept = {} if names is None else _renamed(fields, names)
    paths = {edit.path for field, _ in named for edit in field.edits} | kept.keys()
    salt = None if names is None else names.salt
    if salt is not None:
        paths |= {_CACHE_SALT}
    where = spans(raw, paths) if paths else {}
    changes = [_renaming(name, where[path]) for path, name in kept.items()]
    if salt is not None:
        changes.append(_salting(raw, body, salt, where))
    return named, where, changes


def _named(fields: Iterable[MediaField]) -> Iterator[tuple[MediaField, FileId]]:
    """The fields that name files; inline base64 is judged on the way."""
    for field in fields:
        match field.reference:
            case FileReference(file_id):
                yield field, file_id
            case AttachmentReference():
                raise InvalidReference(_NO_ATTACHMENT, param=field.param)
            case Base64Reference(text):
                _check_base64(field, text)


def _renamed(fields: Iterable[MediaField], names: CacheNames) -> dict[Path, str]:
    """What an engine is told instead of the names under which it keeps media."""
    return {
        field.path: names.media(field.reference.name)
        for field in fields
        if isinstance(field.reference, KeptReference)
    }


def _is_left_to_engine(raw: bytes, dialect: Dialect, names: CacheNames | None) -> bool:
    """Whether a body that is not strictly JSON is none to Python either, or has nothing in it that is ours."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return True
    if isinstance(body, dict) and names is not None:
        return False  # it would have to be changed
    try:
        fields = dialect(body if isinstance(body, dict) else {"": body}, judge=Judge.ENGINE)
    except (InvalidRequest, RecursionError):
        return False
    return all(isinstance(field.reference, KeptReference) for field in fields)


def _renaming(name: str, span: Span) -> _Change:
    return _Change(span.start, span.stop, (json.dumps(name).encode(),))


def _salting(
    raw: bytes, body: Mapping[str, Any], salt: Callable[[str], str], where: Mapping[Path, Span]
) -> _Change:
    """Puts our `cache_salt` where the client's stands, or at the front."""
    own = body.get("cache_salt")
    if own is not None and not (isinstance(own, str) and _is_text(own)):
        raise InvalidValue("`cache_salt` is a string that is not empty.", param="cache_salt")
    value = json.dumps(salt(own or "")).encode()
    span = where.get(_CACHE_SALT)
    if span is not None:
        return _Change(span.start, span.stop, (value,))
    front = raw.index(b"{") + 1
    return _Change(front, front, (b'"cache_salt":' + value + (b"," if body else b""),))


def _is_text(value: str) -> bool:
    # A half of a surrogate pair can be written in JSON, and stands for no character.
    return value != "" and not any("\ud800" <= c <= "\udfff" for c in value)


def _check_base64(field: MediaField, text: str) -> None:
    """Media, and not a path that is spelt in base64's alphabet, which some engines would open."""
    head = binascii.a2b_base64(text[:_HEAD_CHARS])
    if field.kind is None and head.startswith(_PDF):
        return
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


def _mismatch(field: MediaField, kind: MediaKind) -> MediaKindMismatch:
    message = f"This takes {_NOUNS[field.kind]}, but it got {_NOUNS[kind]}. {field.hint}"
    return MediaKindMismatch(message.rstrip(), param=field.param)


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
            case Slot.MIME_TYPE:
                pieces.append(file.mime_type.encode())
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
