"""What changes in a request body, so that the engine understands it: all else stays byte for byte.

    find    parse strictly, find what names media, refuse what may not pass
    plan    what the engine takes is known by now: what changes without any file, and where the rest will
    splice  the changes, made

An engine that guards itself (`Judge.ENGINE`) also gets bodies that are not strictly JSON, if it reads nothing of ours
in them: it is vLLM, and reads with Python's own `json`, as is done here to know.
"""

import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediagate.core.errors import (
    InvalidReference,
    InvalidRequest,
    InvalidValue,
    MalformedBody,
    MediaKindMismatch,
    NotTakenByEngine,
    SourceNotAllowed,
)
from mediagate.core.files import FileId, MediaKind
from mediagate.core.media_hosts import MediaHosts
from mediagate.core.references import (
    AttachmentReference,
    Base64Reference,
    DataReference,
    FileReference,
    KeptReference,
    UrlReference,
    is_base64,
)
from mediagate.dialects.fields import Dialect, Edit, Judge, MediaField, Place, Slot
from mediagate.dialects.parts import (
    ANYTHING,
    Accepted,
    Site,
    Source,
    content_parts,
    refuse_dropped,
    refuse_mistyped,
    refuse_two,
    refuse_unread,
    site_of,
    spellings,
    type_of,
)
from mediagate.dialects.strict_json import Path, Span, json_path, parse_object, spans
from mediagate.media.sniff import HEAD_BYTES, MEDIA_TYPES, sniff
from mediagate.operations.deliver import Piece

MAX_REFERENCES = 1000
"""File references in one request: bounds one index query, and what one small body can make us send."""

_NO_ATTACHMENT = (
    "attachment:// names a file that is sent in the same request. Send this one as multipart/form-data, "
    "with the JSON in the part 'payload' and the file beside it, or name an uploaded file by its id."
)

_CACHE_SALT: Path = ("cache_salt",)

_PLAIN = frozenset({"text", "input_text", "output_text", "refusal"})
"""Types of content parts that every engine reads."""

_HEAD_CHARS = HEAD_BYTES // 3 * 4 + 4

_PDF = b"%PDF-"
"""A document may be sent in base64 where no media is asked for; it is none of ours, and no path."""

NOUNS: Mapping[MediaKind | None, str] = {
    MediaKind.IMAGE: "an image",
    MediaKind.AUDIO: "audio",
    MediaKind.VIDEO: "a video",
}

_CALLED = {
    Source.HTTP_URL: "a URL",
    Source.DATA_URI: "a data: URI",
    Source.BASE64: "base64",
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


@dataclass(frozen=True, slots=True)
class Change:
    """What takes the place of the bytes from `start` up to `stop`."""

    start: int
    stop: int
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Found:
    """A body that may pass.

    Attributes:
        body: Parsed; None: it is none of ours to read.
        fields: What it names media with.
        to_look_up: Host names that it would have the engine fetch from, and where they stand.
    """

    body: Mapping[str, Any] | None
    fields: Sequence[MediaField]
    to_look_up: Mapping[str, str]

    @property
    def has_media(self) -> bool:
        """Whether it makes a difference which engine gets it."""
        return bool(self.fields) or any(
            type_of(part) not in _PLAIN for _, part in content_parts(self.body or {})
        )


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A place that names a file, and the content part that it is in, if it is in one."""

    field: MediaField
    file_id: FileId
    site: Site | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to a body.

    Attributes:
        accepted: What the engine takes.
        named: The files that it names.
        where: Where all that may have to be changed stands.
        changes: Those that are known already.
    """

    accepted: Accepted
    named: Sequence[NamedFile]
    where: Mapping[Path, Span]
    changes: list["Change"]


def find(
    raw: bytes,
    dialect: Dialect,
    names: CacheNames | None,
    judge: Judge,
    hosts: MediaHosts | None,
) -> Found:
    """What is in the body, once it is certain that all of it may pass."""
    try:
        body = parse_object(raw)
    except MalformedBody:
        if judge is Judge.ENGINE and _is_left_to_engine(raw, dialect, names):
            return Found(None, (), {})
        raise
    fields = dialect(body, judge=judge)
    named = [each for each in fields if isinstance(each.reference, FileReference)]
    if len(named) > MAX_REFERENCES:
        message = f"A request names at most {MAX_REFERENCES} files."
        raise InvalidValue(message, param=named[MAX_REFERENCES].param)
    to_look_up: dict[str, str] = {}
    for each in fields:
        match each.reference:
            case AttachmentReference():
                raise InvalidReference(_NO_ATTACHMENT, param=each.param)
            case Base64Reference(text):
                _check_base64(each, text)
            case UrlReference(url) if hosts is not None:
                host = hosts.judge(url, param=each.param)
                if host is not None:
                    to_look_up.setdefault(host, each.param)
    return Found(body, fields, to_look_up)


def plan(raw: bytes, found: Found, names: CacheNames | None, accepted: Accepted | None) -> Plan:
    """What changes without any file, and where the rest will.

    Raises:
        NotTakenByEngine: There is media in it that the engine does not take, or a part that it would leave out.
        SourceNotAllowed, MediaKindMismatch: A `data:` URI that has to become bare base64 holds no such media.
        InvalidValue: Its `cache_salt`.
    """
    if found.body is None:
        return Plan(ANYTHING, (), {}, [])
    accepted = ANYTHING if accepted is None else accepted
    sites = {}
    if accepted.has_parts:
        sites = {each.path: site_of(found.body, each.path) for each in found.fields}
    named = [
        NamedFile(each, each.reference.file_id, sites.get(each.path))
        for each in found.fields
        if isinstance(each.reference, FileReference)
    ]
    respelled = [
        new
        for each in found.fields
        if (site := sites.get(each.path)) and (new := _respelled(each, site, accepted))
    ]
    if len(respelled) > MAX_REFERENCES:
        message = f"A request holds at most {MAX_REFERENCES} media that have to be written anew."
        raise InvalidValue(message, param=json_path(respelled[MAX_REFERENCES].site.value))
    rewritten = [each.site for each in named if each.site] + [each.site for each in respelled]
    if not accepted.others:
        refuse_two(_media_sites(found, sites), {site.path for site in rewritten})
    _refuse_unread(found.body, accepted, named, rewritten)
    kept = {} if names is None else _renamed(found.fields, names)
    paths = {*kept, *(edit.path for each in named for edit in each.field.edits)}
    paths.update(path for site in rewritten for path in site.paths)
    salt = None if names is None else names.salt
    if salt is not None:
        paths.add(_CACHE_SALT)
    where = spans(raw, paths) if paths else {}
    changes = [_renaming(name, where[path]) for path, name in kept.items()]
    for new in respelled:
        changes += written(new.edits, new.mime_type, new.pieces, where)
    if salt is not None:
        changes.append(_salting(raw, found.body, salt, where))
    return Plan(accepted, named, where, changes)


def _refuse_unread(
    body: Mapping[str, Any],
    accepted: Accepted,
    named: Sequence[NamedFile],
    rewritten: Iterable[Site],
) -> None:
    """Refuse what the engine would pass over, in a part or anywhere else."""
    files = [each.field.path for each in named]
    refuse_dropped(body, accepted, dict(_retyped(named, rewritten)), files)
    for path in files:
        refuse_unread(body, accepted, path)
    if accepted.guards_itself:
        for each in named:
            if each.site is not None:
                refuse_mistyped(each.site, each.field.kind)


def _media_sites(found: Found, sites: Mapping[Path, Site | None]) -> Sequence[Site]:
    """The parts that name media, each as often as it does."""
    return [
        site
        for each in found.fields
        if not isinstance(each.reference, KeptReference) and (site := sites.get(each.path))
    ]


def _retyped(
    named: Iterable[NamedFile], rewritten: Iterable[Site]
) -> Iterator[tuple[Path, str | None]]:
    """The parts that get another type; None: the one that the engine has for what they name."""
    for each in named:
        for edit in each.field.edits:
            if edit.path[-1] == "type":
                name, *more = edit.content
                if isinstance(name, bytes) and not more:
                    yield edit.path[:-1], json.loads(name)
                else:
                    yield edit.path[:-1], None
    for site in rewritten:
        if "type" in site.part:
            yield site.path, None


@dataclass(frozen=True, slots=True)
class _Respelled:
    """Media that is in no file of ours, in the words of the engine."""

    site: Site
    edits: Sequence[Edit]
    mime_type: str
    pieces: Sequence[Piece]


def _respelled(field: MediaField, site: Site, accepted: Accepted) -> _Respelled | None:
    """What a client's own URL or base64 becomes; None: it stays as it is."""
    kind = field.kind
    if kind is None or accepted.others:
        return None
    others: tuple[Source, ...]
    match field.reference:
        case DataReference(text):
            source, others = Source.DATA_URI, (Source.BASE64,)
        case Base64Reference(text):
            source, others = Source.BASE64, (Source.DATA_URI,)
        case UrlReference(text):
            # The wall saw to where it leads; an engine that fetches by https only says so itself.
            source, others = Source.HTTP_URL, (Source.PUBLIC_URL, Source.PUBLIC_HTTPS_URL)
        case _:
            return None
    ways = spellings(accepted, field, site, kind)
    unchanged = {source, *others} if source.way == "url" else {source}
    if any(way.is_own and unchanged & set(way.sources) for way in ways):
        return None
    for sent in (source, *others):
        way = next((way for way in ways if sent in way.sources), None)
        if way is not None:
            if (source, sent) == (Source.DATA_URI, Source.BASE64):
                text, source = _bare(field, text), Source.BASE64
            mime_type = _type_of(text, source)
            return _Respelled(site, way.edits(), mime_type, (_told(text, source, sent, mime_type),))
    message = (
        f"{accepted.engine} does not take {NOUNS[kind]} as {_CALLED[source]}. "
        "Upload it with POST /v1/files and name it by its id."
    )
    raise NotTakenByEngine(message, param=field.param)


def _type_of(text: str, source: Source) -> str:
    match source:
        case Source.DATA_URI:
            return text.removeprefix("data:").partition(",")[0].partition(";")[0].lower()
        case Source.BASE64:
            head = binascii.a2b_base64(text[:_HEAD_CHARS])
            return sniff(head, is_whole=len(text) <= _HEAD_CHARS)
    return ""


def _bare(field: MediaField, uri: str) -> str:
    """What a `data:` URI holds, judged as if the client had sent it without its head: nothing guards it any more."""
    text = "".join(uri.partition(",")[2].split())  # line breaks, which not every decoder reads over
    if not is_base64(text):
        raise _no_media(field)
    _check_base64(field, text)
    return text


def _told(text: str, source: Source, sent: Source, mime_type: str) -> bytes:
    """A client's own words as another source, fit to be put between quotes."""
    if source is Source.BASE64 and sent is Source.DATA_URI:
        text = f"data:{mime_type};base64,{text}"
    return json.dumps(text)[1:-1].encode()


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


def _renaming(name: str, span: Span) -> Change:
    return Change(span.start, span.stop, (json.dumps(name).encode(),))


def _salting(
    raw: bytes, body: Mapping[str, Any], salt: Callable[[str], str], where: Mapping[Path, Span]
) -> Change:
    """Puts our `cache_salt` where the client's stands, or at the front."""
    own = body.get("cache_salt")
    if own is not None and not (isinstance(own, str) and _is_text(own)):
        raise InvalidValue("`cache_salt` is a string that is not empty.", param="cache_salt")
    value = json.dumps(salt(own or "")).encode()
    span = where.get(_CACHE_SALT)
    if span is not None:
        return Change(span.start, span.stop, (value,))
    front = raw.index(b"{") + 1
    return Change(front, front, (b'"cache_salt":' + value + (b"," if body else b""),))


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
        raise _no_media(field)
    kind = MediaKind(mime_type.partition("/")[0])
    if field.kind not in {None, kind}:
        raise mismatch(field, kind)


def _no_media(field: MediaField) -> SourceNotAllowed:
    message = (
        "This is no base64 of media. Send the media's bytes in base64, or upload the file "
        "with POST /v1/files and name it by its id."
    )
    return SourceNotAllowed(message, param=field.param)


def mismatch(field: MediaField, kind: MediaKind) -> MediaKindMismatch:
    """The error for media of `kind` where another one belongs."""
    message = f"This takes {NOUNS[field.kind]}, but it got {NOUNS[kind]}. {field.hint}"
    return MediaKindMismatch(message.rstrip(), param=field.param)


def written(
    edits: Iterable[Edit], mime_type: str, media: Sequence[Piece], where: Mapping[Path, Span]
) -> Iterable[Change]:
    """The changes that `edits` make.

    Args:
        edits: What is written.
        mime_type: The media's.
        media: What names it.
        where: Where the values stand.
    """
    for edit in edits:
        start, stop = _span(edit, where[edit.path])
        yield Change(start, stop, _filled(edit, mime_type, media))


def _span(edit: Edit, span: Span) -> tuple[int, int]:
    match edit.place:
        case Place.VALUE:
            return span.start, span.stop
        case Place.KEY:
            return span.key_start, span.key_stop
        case _:
            return span.stop, span.stop


def _filled(edit: Edit, mime_type: str, media: Sequence[Piece]) -> Sequence[Piece]:
    kind, _, subtype = mime_type.partition("/")
    pieces: list[Piece] = []
    for content in edit.content:
        match content:
            case Slot.MEDIA:
                pieces += media
            case Slot.KIND:
                pieces.append(kind.encode())
            case Slot.FORMAT:
                pieces.append(_FORMATS.get(mime_type, subtype).encode())
            case Slot.MIME_TYPE:
                pieces.append(mime_type.encode())
            case _:
                pieces.append(content)
    return pieces


def splice(raw: bytes, changes: Iterable[Change]) -> Sequence[Piece]:
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
