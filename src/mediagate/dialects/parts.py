"""What an engine takes where media is named, and how a part of a chat becomes one that it understands.

    client                                                        engine
    {"type": "audio_url", "audio_url": {"url": X}}                {"type": "input_audio", "input_audio": {"data": X, …
    {"type": "input_video", "input_video": {"data": X}}           {"type": "video_url", "video_url": {"url": X}}
    {"type": "file", "file": {"file_id": X}}                      whichever part the engine has for the file

Only the type, the key of the media, the media itself and an audio's `format` are written; all else in the part stays.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from mediagate.core.errors import InvalidReference, NotTakenByEngine
from mediagate.core.files import MediaKind
from mediagate.dialects.fields import Edit, Form, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path, json_path
from mediagate.dialects.wall import refuse_beside


class Source(StrEnum):
    """How an engine can be told where media is; the value is what a person reads."""

    HANDLE = "mediagate-media:…"
    """Of an engine in this process."""
    FILE_URL = "file:///…"
    PATH = "/…"
    """Absolute, and bare."""
    MEDIA_DIR_URL = "file://…"
    """A name below the engine's own media directory."""
    PUBLIC_HTTPS_URL = "https://… (public)"
    PUBLIC_URL = "http(s)://… (public)"
    """Of a host that everybody reaches: some engines fetch from no other."""
    HTTP_URL = "http://…"
    DATA_URI = "data:…"
    BASE64 = "base64"

    @property
    def way(self) -> str:
        """`path`, `url` or `inline`, all of which cost the same among themselves, as `--delivery` calls them."""
        return _WAYS[self]

    def fits(self, form: Form) -> bool:
        """Whether it can stand in a field of that form."""
        return self is Source.HANDLE or (self is Source.BASE64) is (form is Form.BASE64)


_WAYS = {
    Source.HANDLE: "handle",
    **dict.fromkeys((Source.FILE_URL, Source.PATH, Source.MEDIA_DIR_URL), "path"),
    **dict.fromkeys((Source.PUBLIC_HTTPS_URL, Source.PUBLIC_URL, Source.HTTP_URL), "url"),
    **dict.fromkeys((Source.DATA_URI, Source.BASE64), "inline"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One way to write a content part.

    Attributes:
        name: Its type, and the key of its media: `image_url`, `input_audio`.
        sources: What may stand there.
        mime_types: Of the media that may be sent inline; None: the engine looks for itself.
    """

    name: str
    sources: Sequence[Source]
    mime_types: frozenset[str] | None = None

    @property
    def key(self) -> str:
        """The key within the media object."""
        return "data" if self.name.startswith("input_") else "url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What an engine takes in one format of requests.

    Attributes:
        engine: Its name, for messages.
        parts: By kind of media, each way to write it; a kind that is not there is not taken.
        others: What may stand where none of `parts` is meant; empty: every part has to become one of `parts`.
        types: Of the content parts that it reads; None: it refuses itself what it does not read.
        result_types: The same for the parts of what a tool returned (Messages, Responses).
        flat_types: The same for parts that stand in `input` itself (Responses).
        system_types: The same for the blocks of `system` (Messages).
        source_types: The same for the `source` of an image (Messages).
        media_roles: Roles of the messages in which it looks for media; None: in all.
        beside: Keys beside the prompt where it looks for media, if there are no messages; None: nobody knows.
        max_body_bytes: Longest request; None: nobody knows of a limit.
        max_inline_bytes: Longest `data:` URI, or base64.
        max_download_bytes: Largest media that it fetches.
        has_parts: Whether what it takes are the parts of a chat; elsewhere only the media in them is written.
        remedies: For a file that cannot be delivered: what the operator can do about it.
        guards_itself: Whether only what names files of ours is judged by these rules.
    """

    engine: str
    parts: Mapping[MediaKind, Sequence[Part]]
    others: Collection[Source] = ()
    types: frozenset[str] | None = None
    result_types: frozenset[str] | None = None
    flat_types: frozenset[str] | None = None
    system_types: frozenset[str] | None = None
    source_types: frozenset[str] | None = None
    media_roles: frozenset[str] | None = None
    beside: frozenset[str] | None = None
    max_body_bytes: int | None = None
    max_inline_bytes: int | None = None
    max_download_bytes: int | None = None
    has_parts: bool = True
    remedies: str = ""
    guards_itself: bool = False

    def types_at(self, path: Path) -> frozenset[str] | None:
        """Of the content parts that it reads where the one at `path` stands."""
        if len(path) == _FLAT_DEPTH:
            return self.system_types if path[0] == "system" else self.flat_types
        is_result = len(path) > _PART_DEPTH or path[-2] == "output"
        return self.result_types if is_result else self.types


ANYTHING = Accepted(
    engine="The inference server",
    parts={},
    others=(Source.HANDLE, Source.HTTP_URL, Source.DATA_URI, Source.BASE64),
)
"""An engine that nothing is known about, or one that gets its media by handle."""


@dataclass(frozen=True, slots=True)
class Site:
    """A content part of a chat that names media.

    Attributes:
        path: To the part.
        part: The part.
        name: Key of its media; `file` and `file_id` are for media of any kind.
        value: Path to what names it.
    """

    path: Path
    part: Mapping[str, Any]
    name: str
    value: Path

    @property
    def media(self) -> Mapping[str, Any] | None:
        """The object within the part that names the media; None: the part itself does."""
        media = self.part[self.name]
        return media if isinstance(media, dict) else None

    @property
    def paths(self) -> Iterator[Path]:
        """All that may have to be written over."""
        yield self.value
        yield (*self.path, self.name)
        for holder, path, key in (
            (self.part, self.path, "type"),
            (self.media or {}, (*self.path, self.name), "format"),
        ):
            if key in holder:
                yield (*path, key)

    def is_written_as(self, part: Part) -> bool:
        """Whether the client wrote it that way. A bare string is what some engines do not take, or leave out."""
        is_named = self.part.get("type", part.name) == part.name == self.name
        return is_named and self.media is not None and self.value[-1] == part.key

    def spelled(self, part: Part) -> tuple[Edit, ...]:
        """What makes it that part, with the media in its place.

        Raises:
            InvalidReference: A key that would be written is there already.
        """
        media, key = self.media, part.key
        if self.name != part.name:
            refuse_beside(_without(self.part, self.name), {part.name}, self.path)
        edits = [
            Edit((*self.path, self.name), Place.KEY, (f'"{part.name}"'.encode(),)),
        ]
        if "type" in self.part:
            edits.append(Edit((*self.path, "type"), Place.VALUE, (f'"{part.name}"'.encode(),)))
        tail = (b',"format":', *quoted(Slot.FORMAT)) if part.name == "input_audio" else ()
        if media is None:
            inner = (f'{{"{key}":'.encode(), *quoted(Slot.MEDIA), *tail, b"}")
            return (*edits, Edit(self.value, Place.VALUE, inner))
        if self.value[-1] != key:
            refuse_beside(_without(media, str(self.value[-1])), {key}, (*self.path, self.name))
            edits.append(Edit(self.value, Place.KEY, (f'"{key}"'.encode(),)))
        edits.append(Edit(self.value, Place.VALUE, quoted(Slot.MEDIA)))
        if tail and "format" in media:
            at = (*self.path, self.name, "format")
            edits.append(Edit(at, Place.VALUE, quoted(Slot.FORMAT)))
        elif tail:
            edits.append(Edit(self.value, Place.AFTER, tail))
        return tuple(edits)


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to tell an engine of media.

    Attributes:
        sources: What it may be told.
        edits: How that is written; raises `InvalidReference` as `Site.spelled`.
        mime_types: Of the media that may be sent inline; None: any.
        is_own: It is what the client wrote.
    """

    sources: Sequence[Source]
    edits: Callable[[], tuple[Edit, ...]]
    mime_types: frozenset[str] | None = None
    is_own: bool = True


_CONTENT = frozenset({"content", "input", "output", "prompt", "system"})

_SOURCE_KEYS = {"base64": "data", "url": "url"}
"""Where the media stands in a `source`, by its type."""

_PART_DEPTH = len(("messages", 0, "content", 0))
"""Steps to a part of a message; one of what a tool returned is deeper (Messages), or in an `output` (Responses)."""

_FLAT_DEPTH = len(("input", 0))
"""Steps to a message, or to a part that stands where messages do (Responses)."""

_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
"""Types of items whose `output` may be parts (Responses)."""

_ITEM = re.compile(r"message|reasoning|item_reference|compaction|mcp_.*|.*_call|.*_output")
"""Types of items that are no content parts (Responses)."""

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal"})


def site_of(body: Mapping[str, Any], path: Path) -> Site | None:
    """The content part whose media stands at `path`; None: it stands somewhere else."""
    is_within = len(path) > 1 and path[-1] in {"url", "data", "file_id"}
    at = path[:-1] if is_within and isinstance(path[-2], str) else path
    if len(at) < 3 or not isinstance(at[-2], int) or str(at[-3]).casefold() not in _CONTENT:
        return None
    part: Any = body
    for step in at[:-1]:
        part = part[step]
    return Site(at[:-1], part, str(at[-1]), path)


def spellings(
    accepted: Accepted, media: MediaField, site: Site | None, kind: MediaKind
) -> Sequence[Spelling]:
    """The ways to tell the engine of media of that kind, the client's own first.

    Raises:
        NotTakenByEngine: It takes none of that kind.
    """

    def own() -> tuple[Edit, ...]:
        return media.edits

    parts = accepted.parts.get(kind, ())
    if not parts and not accepted.others:
        raise not_taken(accepted, kind, media.param)
    if site is None:
        sources = [source for part in parts for source in part.sources] or accepted.others
        return [Spelling([each for each in sources if each.fits(media.form)], own)]
    found: list[Spelling] = []
    for part in parts:
        # What names a file of any kind was given the edits of `<kind>_url` by its dialect.
        is_meant = site.name in {"file", "file_id"} and part.name == f"{kind}_url"
        is_own = is_meant or site.is_written_as(part)
        # For media that the client sent its dialect knows of nothing to change.
        edits = own if is_own and media.edits else partial(site.spelled, part)
        is_first = is_own or site.name == part.name
        at = 0 if is_first else len(found)
        found.insert(at, Spelling(part.sources, edits, part.mime_types, is_own))
    if accepted.others and not any(each.is_own for each in found):
        sources = [each for each in accepted.others if each.fits(media.form)]
        found.insert(0, Spelling(sources, own))
    return found


def not_taken(accepted: Accepted, kind: MediaKind, param: str) -> NotTakenByEngine:
    """The error for media of a kind that the engine does not take."""
    taken = " and ".join(_PLURALS[each] for each in MediaKind if each in accepted.parts)
    message = f"{accepted.engine} takes no {_PLURALS[kind]} here, only {taken or 'text'}."
    return NotTakenByEngine(message, param=param)


def refuse_dropped(
    body: Mapping[str, Any],
    accepted: Accepted,
    written: Mapping[Path, str | None],
    files: Collection[Path] = (),
) -> None:
    """Refuse parts that the engine would leave out without a word.

    Args:
        body: The request.
        accepted: What the engine reads.
        written: The type that a part becomes, by its path; None: one that it reads.
        files: Where files of ours are named.

    Raises:
        InvalidReference: A part that is text names a file.
        NotTakenByEngine: There is such a part.
    """
    holders = {path[:stop] for path in files for stop in range(1, len(path))}
    for path, part in content_parts(body):
        if path in holders and type_of(part) in _TEXTS:
            message = "A part that is text names no file. Give the file a part of its own."
            raise InvalidReference(message, param=json_path(path))
        if accepted.guards_itself and path not in holders:
            continue
        name = written.get(path, type_of(part))
        types = accepted.types_at(path)
        if types is not None and name is not None and name not in types:
            reads = f"reads parts of type {', '.join(sorted(types))}" if types else "reads no parts"
            raise _dropped(accepted, f"It {reads} here.", (*path, "type"))
        roles = accepted.media_roles
        if roles is not None and name not in _TEXTS and _role(body, path) not in {*roles, None}:
            where = f"in messages whose role is {' or '.join(sorted(roles))}"
            raise _dropped(accepted, f"It looks for media {where}.", path)
        if accepted.source_types is not None and name == "image":
            _refuse_dropped_source(part.get("source"), accepted.source_types, accepted, path)


def _refuse_dropped_source(
    source: object, types: frozenset[str], accepted: Accepted, path: Path
) -> None:
    """Refuse an image whose `source` the engine cannot use; one of a file is about to become base64."""
    source = source if isinstance(source, dict) else {}
    name = type_of(source)
    media = source.get(_SOURCE_KEYS.get(name, ""))
    if name == "file" or (name in types and isinstance(media, str)):
        return
    known = " or ".join(
        f'{{"type": "{each}", "{_SOURCE_KEYS[each]}": "…"}}' for each in sorted(types)
    )
    raise _dropped(accepted, f"It reads {known}.", (*path, "source"))


def _dropped(accepted: Accepted, instead: str, path: Path) -> NotTakenByEngine:
    would = f"{accepted.engine} would leave this out and answer as if it were not there."
    return NotTakenByEngine(f"{would} {instead}", param=json_path(path))


def _role(body: Mapping[str, Any], path: Path) -> str | None:
    """Of the message that holds the part at `path`; None: it is in none."""
    if len(path) < _PART_DEPTH or path[2] != "content":
        return None
    role = body[str(path[0])][path[1]].get("role")
    return role if isinstance(role, str) else None


def refuse_unread(body: Mapping[str, Any], accepted: Accepted, path: Path) -> None:
    """Refuse media beside the prompt, or beside the content of a message, where the engine does not look.

    Args:
        body: The request.
        accepted: What the engine reads.
        path: To what names the media.

    Raises:
        NotTakenByEngine: It does not look there.
    """
    if accepted.beside is None:
        return
    holder, key = _holder(path)
    is_message = len(holder) == _FLAT_DEPTH and holder[0] == "messages"
    is_read = key in accepted.beside and "messages" not in body
    if is_message or (not holder and not is_read):
        message = f"{accepted.engine} does not look for media here. Name it in a content part of a message."
        raise NotTakenByEngine(message, param=json_path(path))


def _holder(path: Path) -> tuple[Path, str]:
    """Path to the object that holds the media at `path`, and the key under which it does."""
    at = len(path) - 1
    if at and path[at] in {"url", "data"} and isinstance(path[at - 1], str):
        at -= 1
    if isinstance(path[at], int):
        at -= 1
    return path[:at], str(path[at])


def refuse_mistyped(site: Site, kind: MediaKind | None) -> None:
    """Refuse a part whose type is of other media than the file in it: an engine that goes by the type passes it over.

    Raises:
        InvalidReference: It is such a part.
    """
    meant = [each for each in MediaKind if each in type_of(site.part)]
    if kind is not None and meant and kind not in meant:
        message = "The type of this part is of other media. Give each its own part."
        raise InvalidReference(message, param=json_path(site.value))


def refuse_two(sites: Collection[Site], written: Collection[Path]) -> None:
    """Refuse parts that name media twice and become others: of the second nothing would be left.

    Args:
        sites: All that name media, or files.
        written: Paths of the parts that become others.

    Raises:
        InvalidReference: There is such a part.
    """
    seen = set[Path]()
    for site in sites:
        if site.path in seen and site.path in written:
            message = "This part names media already. Give each its own part."
            raise InvalidReference(message, param=json_path(site.value))
        seen.add(site.path)


def type_of(part: Mapping[str, Any]) -> str:
    """The type of a content part; empty: it says none."""
    name = part.get("type")
    return name if isinstance(name, str) else ""


def content_parts(body: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The content parts of all messages, those within what tools returned too, and where they stand."""
    yield from _parts_of(body.get("system"), ("system",))
    for key in ("messages", "input"):
        yield from _parts_within(body.get(key), (key,))
    items = body.get("input")
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict):
            continue
        if type_of(item) in _OUTPUTS:
            yield from _parts_of(item.get("output"), ("input", i, "output"))
        elif not item.keys() & {"role", "content"} and not _ITEM.fullmatch(type_of(item)):
            yield ("input", i), item


def _parts_within(messages: object, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict) or type_of(message) == "reasoning":
            continue
        content = message.get("content")
        yield from _parts_of(content, (*path, i, "content"))
        yield from _parts_within(content, (*path, i, "content"))


def _parts_of(content: object, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for j, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict):
            yield (*path, j), part


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


_PLURALS = {MediaKind.IMAGE: "images", MediaKind.AUDIO: "audio", MediaKind.VIDEO: "videos"}
