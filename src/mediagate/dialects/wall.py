"""One wall for all dialects: what a body may name media with, wherever in it that stands.

Engines differ in what they read: some go by a part's `type`, some by whichever key is there, some look beside the
messages (`image_data`), and those written in Go ignore the case of keys. So the whole body is walked, and keys are
judged by their folded names, whatever `type` says and whichever endpoint it is:

    where                              a file reference           URL, data:     any path or other scheme
    a media key of a part or message   taken                      passes         refused
    `url`, `data` of a media object    taken                      passes         refused
    other source keys (`path` …)       refused                    passes         refused
    media keys anywhere else           refused                    passes         refused
    any `file_id` the dialect lacks    refused
    other strings                      refused if `vllm-file:`    passes         refused if `file:`
    text, names, tool arguments        left alone: prose may contain or be anything

A dialect adds the objects that name a file in a way of its own, such as `{"type": "file", …}`. Nothing that looks like
a reference and was not understood is ever passed on: engines drop unknown parts and answer 200.

Inside an engine that guards itself (`Judge.ENGINE`) the walk is the same and only what names files of ours is judged:
paths, URLs, inline data and media of odd shapes are the engine's own business. Ours is also the scheme that tells such
an engine what to open; no client may write that anywhere but in prose.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Never

from mediagate.core.errors import InvalidReference, SourceNotAllowed
from mediagate.core.files import MediaKind
from mediagate.core.references import (
    HANDLE_SCHEME,
    AttachmentReference,
    FileReference,
    KeptReference,
    looks_like_reference,
    names_a_file,
    names_a_handle,
    parse_data_reference,
    parse_media_reference,
    parse_stored_reference,
)
from mediagate.dialects.fields import Edit, Form, Judge, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path, json_path

_MEDIA_NAME = re.compile(
    r"(?:input_?)?(image|video|audio|media|multi_?modal|mm|time_?series)s?"
    r"(?:_?(?:url|uri|path|file|data|base64|b64|pil|item)s?)?"
)
"""Keys, and values of `type`, that mean media: what engines read, and what the next one may."""

_TAKING_LISTS = frozenset({"image_data", "video_data", "audio_data"})
"""Media keys whose value may be an array of file references (SGLang, LMDeploy)."""

_TAKING = _TAKING_LISTS | frozenset(
    {"image", "image_url", "input_image", "video", "video_url", "audio", "audio_url"}
)
"""Media keys whose own string may be a file reference."""

_BARE = frozenset({"input_audio", "input_video", "images"})
"""Media keys whose own strings are bare base64, as those of all that end in the next (`images`: Ollama's messages)."""
_BASE64_ENDINGS = ("base64", "b64")
_BARE_ENDINGS = ("data", *_BASE64_ENDINGS)

_URI_SOURCES = frozenset({"url", "uri", "path", "file_path", "file_url", "file_data", "file"})
_DATA_SOURCES = frozenset({"data", "base64"})
_HOLDERS = frozenset({"file", "source"})
"""Keys of objects that hold such a source."""

_PARTS = frozenset({"content", "input", "output", "prompt", "system"})
"""Keys that hold content parts: in those a source key counts without any media key or type beside it."""

_COMPARED = frozenset(
    {"query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2"}
)
_TAKING_WITHIN = _PARTS | _COMPARED | {"messages", "inputs", "instances", "requests", "params"}
"""Keys that hold objects whose media keys take file references: parts, messages, and what holds those."""

_PROSE = (
    _PARTS
    | _COMPARED
    | {"type", "text", "thinking", "reasoning", "reasoning_content", "refusal", "summary"}
    | {"name", "title", "context", "filename", "description", "model", "user", "role", "code"}
    | {"id", "call_id", "tool_call_id", "tool_use_id", "previous_response_id", "signature"}
    | {"instructions", "instruction", "suffix", "stop", "stop_sequences", "prompt_string", "texts"}
    | {"inputs", "input_prefix", "input_suffix", "source"}
    | {"stdout", "stderr", "logs", "error", "revised_prompt"}
)
"""Keys whose strings, alone or in arrays, mean themselves."""

_UNREAD = frozenset(
    {"arguments", "args", "action", "actions", "operation", "results"}
    | {"annotations", "citations", "logprobs", "logit_bias", "metadata", "features"}
    | {"tools", "functions", "properties", "$defs", "schema", "json_schema", "guided_json"}
    | {"response_format", "structured_outputs", "output_config", "output_format", "format"}
    | {"guided_choice", "guided_regex", "guided_grammar", "regex", "grammar"}
)
"""Keys that hold what a model or a tool said, labels, what an answer has to look like (JSON schemas above all, which
name anything `image` or `url`), or tensors (vLLM's `features`), in whatever shape."""

_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use", "custom_tool_call"})
"""Types of objects whose `input` is what a model told a tool."""

_OPAQUE = frozenset({"prompt_embeds", "redacted_thinking"})
"""Types of objects whose `data` is no media."""

_WALKED = (str, list, dict)
_KINDS = frozenset(MediaKind)

Translation = Callable[[dict[str, Any], Path], MediaField | None]
"""The file that the object at a path names in a way of its own, and how the upstream takes it; None: it names none."""


@dataclass(frozen=True, slots=True)
class Wall:
    """What a dialect adds to the rules for all.

    Attributes:
        translations: By `type` of the objects that they are for.
        unexpected: For a reference that stands where none is taken: where it may stand.
        takes_urls: Whether media keys take references.
    """

    translations: Mapping[str, Translation]
    unexpected: str
    takes_urls: bool = True

    def find(self, body: dict[str, Any], *, judge: Judge) -> Sequence[MediaField]:
        """The media fields of a body, as `Dialect` says.

        Raises:
            InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
            SourceNotAllowed: A path, or a scheme that no client may name.
        """
        walk = _Walk(self, judge)
        walk.visit(body, (), within="content")
        return walk.fields


def stored_file(
    value: object,
    path: Path,
    *edits: Edit,
    kind: MediaKind | None = None,
    form: Form = Form.URI,
    hint: str = "",
) -> MediaField:
    """The field at `path`, whose value must be a file's id.

    Raises:
        InvalidReference: It is none.
    """
    if not isinstance(value, str):
        refuse("A file_id is a string.", path)
    reference = parse_stored_reference(value, param=json_path(path))
    return MediaField(path, kind, form, reference, edits, hint)


def refuse(message: str, path: Path) -> Never:
    """Say what is wrong with the reference at `path`.

    Raises:
        InvalidReference: Always.
    """
    raise InvalidReference(message, param=json_path(path))


def refuse_beside(members: Mapping[str, Any], names: Collection[str], path: Path) -> None:
    """Refuse keys that an edit is going to write, or that name media again, beside a file id; in any case of letters.

    Raises:
        InvalidReference: One of them is there.
    """
    for key in members:
        if key.casefold() in names:
            refuse("This stands beside a file_id that names the media already.", (*path, key))


class _Walk:
    """Collects fields; refuses at the first thing that may not pass. Recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, wall: Wall, judge: Judge) -> None:
        self.fields: list[MediaField] = []
        self._wall = wall
        self._engine_judges = judge is Judge.ENGINE
        self._taken: set[Path] = set()

    def visit(self, members: dict[str, Any], path: Path, *, within: str) -> None:
        """Any object of the body; `within`: the folded key that holds it, alone or in arrays."""
        declared = members.get("type")
        part_type = declared if isinstance(declared, str) else ""
        takes = within in _TAKING_WITHIN
        if takes:
            self._translate(part_type, members, path)
        is_media, kind = _media(part_type)
        # Nobody looks at the `type` of the body itself: there it must hide nothing.
        is_tool_use = bool(path) and part_type in _TOOL_USES
        is_opaque = bool(path) and part_type in _OPAQUE
        for key, value in members.items():
            name, here = key.casefold(), (*path, key)
            if here in self._taken or (is_tool_use and name == "input"):
                continue
            if _media(name)[0]:
                self._named(value, here, name, accepts=takes and key == name)
            elif name.endswith(_BASE64_ENDINGS) and isinstance(value, str | list):
                # Of whatever object: transformers serve opens `assets.<any name>.data_base64`.
                self._source(value, here, kind, Form.BASE64, accepts=False, may_be_bare=True)
            elif name in _HOLDERS and isinstance(value, dict):
                owner = part_type if is_media else name
                self._media_object(value, here, owner, kind, accepts=False)
            elif not (is_media or within in _PARTS):
                self._other(value, here, name)
            elif name in _URI_SOURCES or (name == "source" and is_media):
                accepts = takes and is_media and key == "url"
                self._source(value, here, kind, Form.URI, accepts=accepts)
            elif name in _DATA_SOURCES and not is_opaque:
                accepts = takes and is_media and key == "data"
                self._source(value, here, kind, Form.BASE64, accepts=accepts, may_be_bare=True)
            else:
                self._other(value, here, name)

    def _translate(self, part_type: str, members: dict[str, Any], path: Path) -> None:
        translate = self._wall.translations.get(part_type)
        if self._engine_judges and not _has_file_id(members):
            return
        field = translate(members, path) if translate else None
        if field is not None:
            self.fields.append(field)
            self._taken.add(field.path)

    def _named(self, value: object, path: Path, name: str, *, accepts: bool) -> None:
        """The value of a media key: a string, an object that holds one, or frames."""
        kind = _media(name)[1]
        match value:
            case dict():
                self._media_object(value, path, name, kind, accepts=accepts)
            case list():
                for i, item in enumerate(value):
                    self._named(item, (*path, i), name, accepts=accepts and name in _TAKING_LISTS)
            case _:
                may_be_bare = name in _BARE or name.endswith(_BARE_ENDINGS)
                accepts = accepts and name in _TAKING
                self._source(value, path, kind, Form.URI, accepts=accepts, may_be_bare=may_be_bare)

    def _media_object(
        self,
        media: dict[str, Any],
        path: Path,
        owner: str,
        kind: MediaKind | None,
        *,
        accepts: bool,
    ) -> None:
        is_text = owner == "source" and media.get("type") == "text"  # of a document (Messages)
        for key, value in media.items():
            name, here = key.casefold(), (*path, key)
            if here in self._taken or (is_text and key == "data"):
                continue
            if name in _DATA_SOURCES:
                edits = _format(media, here) if owner == "input_audio" else ()
                takes = accepts and key == "data"
                self._source(
                    value, here, kind, Form.BASE64, *edits, accepts=takes, may_be_bare=True
                )
            elif name in _URI_SOURCES:
                self._source(value, here, kind, Form.URI, accepts=accepts and key == "url")
            elif _media(name)[0]:
                self._named(value, here, name, accepts=False)
            elif name == "format" and isinstance(value, str):
                self._text(value, here, name)  # vLLM makes it part of a URL
            else:
                self._other(value, here, name)

    def _source(
        self,
        value: object,
        path: Path,
        kind: MediaKind | None,
        form: Form,
        *edits: Edit,
        accepts: bool,
        may_be_bare: bool = False,
    ) -> None:
        """The very value that an engine opens."""
        match value:
            case None:  # vLLM: media that it keeps under the `uuid` beside
                return
            case dict():
                self.visit(value, path, within="content")
                return
            case list():
                for i, item in enumerate(value):
                    self._source(
                        item, (*path, i), kind, form, accepts=False, may_be_bare=may_be_bare
                    )
                return
            case str():
                pass
            case _ if self._engine_judges:
                return
            case _:
                refuse("Media is named by a string.", path)
        is_reference = looks_like_reference(value)
        if is_reference and not (accepts and self._wall.takes_urls):
            refuse(self._wall.unexpected, path)
        if self._engine_judges and not is_reference:
            _check_handles(value, path)
            return
        parse = parse_data_reference if may_be_bare else parse_media_reference
        reference = parse(value, param=json_path(path))
        field = MediaField(path, kind, form, reference)
        if isinstance(reference, FileReference | AttachmentReference):
            field = replace(field, edits=(Edit(path, Place.VALUE, quoted(Slot.MEDIA)), *edits))
        self.fields.append(field)

    def _other(self, value: object, path: Path, name: str) -> None:
        """What stands under a key that means nothing to us."""
        if name in _UNREAD:
            return
        if name == "uuid":
            self._kept(value, path)
            return
        if name in {"file_id", "file_ids"} and value:
            refuse(self._wall.unexpected, path)
        match value:
            case str():
                self._text(value, path, name)
            case list():
                for i, item in enumerate(value):
                    # Told apart here and not in the next call: an array may hold a hundred thousand numbers.
                    if isinstance(item, _WALKED):
                        self._other(item, (*path, i), name)
            case dict():
                self.visit(value, path, within=name)

    def _kept(self, value: object, path: Path) -> None:
        """What vLLM's `uuid` names; wherever it stands, for only vLLM knows what it takes for a content part."""
        if value is not None:
            self.fields.append(MediaField(path, None, Form.URI, KeptReference(json.dumps(value))))

    def _text(self, value: str, path: Path, name: str) -> None:
        if name in _PROSE:
            return
        _check_handles(value, path)
        if not names_a_file(value):
            return
        if looks_like_reference(value):
            refuse(self._wall.unexpected, path)
        if not self._engine_judges:
            raise SourceNotAllowed("No file: URL may be named.", param=json_path(path))


def _has_file_id(members: dict[str, Any]) -> bool:
    """Whether an object, or one that it holds as a file or a source, has a `file_id`."""
    inner = (value for key, value in members.items() if key in _HOLDERS and isinstance(value, dict))
    return any(each.get("file_id") is not None for each in (members, *inner))


def _check_handles(value: str, path: Path) -> None:
    if names_a_handle(value):
        message = f"{HANDLE_SCHEME} may not be named. Upload media with POST /v1/files and name it by its id."
        raise SourceNotAllowed(message, param=json_path(path))


def _media(name: str) -> tuple[bool, MediaKind | None]:
    """Whether a folded key, or a `type`, means media, and of which kind."""
    match = _MEDIA_NAME.fullmatch(name)
    if match is None:
        return False, None
    return True, MediaKind(match[1]) if match[1] in _KINDS else None


def _format(audio: dict[str, Any], data: Path) -> tuple[Edit, ...]:
    """Makes `format` tell the truth: what the bytes are, whatever the client thought."""
    if "format" in audio:
        return (Edit((*data[:-1], "format"), Place.VALUE, quoted(Slot.FORMAT)),)
    return (Edit(data, Place.AFTER, (b',"format":', *quoted(Slot.FORMAT))),)
