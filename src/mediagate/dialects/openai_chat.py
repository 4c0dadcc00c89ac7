"""Chat completions: where `messages[*].content[*]` names media, for every role.

Engines differ in what they read: some go by a part's `type`, some by whichever key is there, vLLM by the key as soon
as the part has a `uuid`, and those written in Go ignore the case of keys. So keys are judged by their folded names,
whatever `type` says:

    where                              a file reference           URL, data:     any path or other scheme
    a media key of a part              taken                      passes         refused
    `url`, `data` of a media object    taken                      passes         refused
    other source keys (`path` …)       refused                    passes         refused
    media keys further down            refused                    passes         refused
    any `file_id` but a file part's    refused
    other strings                      refused if `vllm-file:`    passes         refused if `file:`
    text, names, tool arguments        left alone: prose may contain or be anything

Nothing that looks like a reference and was not understood is ever passed on: engines drop unknown parts and answer 200.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Never

from mediagate.core.errors import InvalidReference, InvalidValue, SourceNotAllowed
from mediagate.core.files import MediaKind
from mediagate.core.references import (
    FileReference,
    looks_like_reference,
    names_a_file,
    parse_data_reference,
    parse_file_reference,
    parse_media_reference,
)
from mediagate.dialects.fields import Edit, Form, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path, json_path

_KINDS = {
    "image": MediaKind.IMAGE,
    "image_url": MediaKind.IMAGE,
    "images": MediaKind.IMAGE,
    "input_image": MediaKind.IMAGE,
    "video": MediaKind.VIDEO,
    "video_url": MediaKind.VIDEO,
    "videos": MediaKind.VIDEO,
    "input_video": MediaKind.VIDEO,
    "audio": MediaKind.AUDIO,
    "audio_url": MediaKind.AUDIO,
    "audios": MediaKind.AUDIO,
    "input_audio": MediaKind.AUDIO,
}
"""Keys, and values of `type`, that mean media."""

_DATA_OBJECTS = frozenset({"input_audio", "input_video", "images"})
"""Media keys whose own strings are bare base64 (`images`: Ollama's messages)."""

_URI_SOURCES = frozenset({"url", "uri", "path", "file_path", "file_url", "file_data"})
_DATA_SOURCES = frozenset({"data", "base64"})

_PROSE = frozenset(
    {"type", "text", "content", "thinking", "reasoning", "refusal", "name", "title", "context"}
    | {"filename", "id", "uuid", "signature"}
)
"""Keys whose strings mean themselves."""

_ARGUMENTS = frozenset({"input", "arguments"})
"""Keys that hold what a model or a tool said, in whatever shape."""

_RENAMED = frozenset({"image_url", "video_url", "audio_url"})

_UNEXPECTED = (
    "No file is taken here. Name it in image_url.url, video_url.url, audio_url.url, input_audio.data, "
    'or with {"type": "file", "file": {"file_id": "file-…"}}.'
)


def find(body: dict[str, Any]) -> Sequence[MediaField]:
    """The media fields of a chat completion body; a `Dialect`.

    Raises:
        InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
        SourceNotAllowed: A path, or a scheme that no client may name.
        InvalidValue: Messages or contents are no arrays of objects.
    """
    finder = _Finder()
    for key, value in body.items():
        if key.casefold() == "messages":
            finder.messages(value, (key,))
    return finder.fields


class _Finder:
    """Collects fields; refuses at the first thing that may not pass. Recursion is bounded by `MAX_DEPTH`."""

    def __init__(self) -> None:
        self.fields: list[MediaField] = []

    def messages(self, messages: object, path: Path) -> None:
        """The conversation, or a batch of them (vLLM `/v1/chat/completions/batch`)."""
        if path != ("messages",) or not isinstance(messages, list):
            _refuse_shape("`messages` is an array of objects, spelt in lower case.", path)
        for i, message in enumerate(messages):
            conversation = message if isinstance(message, list) else None
            if conversation is None:
                self._message(message, (*path, i))
            for j, member in enumerate(conversation or ()):
                self._message(member, (*path, i, j))

    def _message(self, message: object, path: Path) -> None:
        if not isinstance(message, dict):
            _refuse_shape("A message is an object.", path)
        for key, value in message.items():
            name = key.casefold()
            if name == "content":
                self._content(value, (*path, key))
            elif name in _KINDS and name != "audio":  # an earlier answer's sound, by OpenAI's id
                self._media(value, (*path, key), name, accepts=False)

    def _content(self, content: object, path: Path) -> None:
        if path[-1] != "content" or not isinstance(content, str | list | None):
            _refuse_shape("`content` is a string or an array of parts, spelt in lower case.", path)
        if isinstance(content, list):
            self._parts(content, path, accepts=True)

    def _parts(self, parts: list[Any], path: Path, *, accepts: bool) -> None:
        for i, part in enumerate(parts):
            if isinstance(part, dict):
                self._part(part, (*path, i), accepts=accepts)
            elif not isinstance(part, str):
                _refuse_shape("A content part is an object or a string.", (*path, i))

    def _part(self, part: dict[str, Any], path: Path, *, accepts: bool) -> None:
        taken = self._file_part(part, path) if accepts else None
        part_type = part.get("type")
        kind = _KINDS.get(part_type) if isinstance(part_type, str) else None
        for key, value in part.items():
            name, here = key.casefold(), (*path, key)
            is_exact = accepts and key == name
            if key == taken:
                continue
            if name in _KINDS:
                self._media(value, here, name, accepts=is_exact)
            elif name in {"file", "source"} and isinstance(value, dict):
                self._media_object(value, here, "", accepts=False)
            elif name in _URI_SOURCES or name == "file":
                takes = is_exact and kind is not None and name == "url"
                self._source(value, here, kind, Form.URI, accepts=takes)
            elif name in _DATA_SOURCES and part_type != "prompt_embeds":
                takes = is_exact and kind is not None and name == "data"
                self._source(value, here, kind, Form.BASE64, accepts=takes)
            else:
                self._other(value, here, name)

    def _file_part(self, part: dict[str, Any], path: Path) -> str | None:
        """Take the file id of a `file` part, or of Responses' flat `input_image`; the key that is done with."""
        match part.get("type"):
            case "file":
                return self._file(part, path)
            case "input_image" if part.get("file_id") is not None:
                self._input_image(part, path)
                return "file_id"
        return None

    def _file(self, part: dict[str, Any], path: Path) -> str:
        here, file = (*path, "file"), part.get("file")
        if not isinstance(file, dict):
            _refuse("A part of type file holds an object `file` with a file_id or file_data.", here)
        has_id, has_data = (file.get(key) is not None for key in ("file_id", "file_data"))
        if has_id == has_data:
            _refuse("A `file` holds either a file_id or file_data.", here)
        if has_id:
            # Both become keys of what the upstream reads, and a key may stand only once.
            _refuse_names(part, _RENAMED, path)
            _refuse_names(file, frozenset({"url"}), here)
            at = (*here, "file_id")
            url = (b'"', Slot.KIND, b'_url"')
            self._take_id(
                file["file_id"],
                at,
                None,
                Edit((*path, "type"), Place.VALUE, url),
                Edit(here, Place.KEY, url),
                Edit(at, Place.KEY, (b'"url"',)),
                Edit(at, Place.VALUE, quoted(Slot.MEDIA)),
            )
        rest = {key: value for key, value in file.items() if key != "file_id"}
        self._media_object(rest, here, "", accepts=False)
        return "file"

    def _input_image(self, part: dict[str, Any], path: Path) -> None:
        _refuse_names(part, _RENAMED, path)
        at = (*path, "file_id")
        self._take_id(
            part["file_id"],
            at,
            MediaKind.IMAGE,
            Edit((*path, "type"), Place.VALUE, (b'"image_url"',)),
            Edit(at, Place.KEY, (b'"image_url"',)),
            Edit(at, Place.VALUE, (b'{"url":', *quoted(Slot.MEDIA), b"}")),
        )

    def _take_id(self, value: object, path: Path, kind: MediaKind | None, *edits: Edit) -> None:
        if not isinstance(value, str):
            _refuse("A file_id is a string.", path)
        file_id = parse_file_reference(value, param=json_path(path))
        self.fields.append(MediaField(path, kind, Form.URI, FileReference(file_id), edits))

    def _media(self, value: object, path: Path, name: str, *, accepts: bool) -> None:
        """The value of a media key: a string, an object that holds one, or frames."""
        match value:
            case dict():
                self._media_object(value, path, name, accepts=accepts)
            case list():
                for i, item in enumerate(value):
                    self._media(item, (*path, i), name, accepts=False)
            case _:
                is_data = name in _DATA_OBJECTS
                form = Form.BASE64 if is_data else Form.URI
                self._source(value, path, _KINDS[name], form, accepts=accepts and not is_data)

    def _media_object(
        self, media: dict[str, Any], path: Path, owner: str, *, accepts: bool
    ) -> None:
        for key, value in media.items():
            name, here = key.casefold(), (*path, key)
            is_exact = accepts and key == name
            kind = _KINDS.get(owner)
            if name in _DATA_SOURCES:
                edits = _format(media, here) if owner == "input_audio" else ()
                takes = is_exact and name == "data"
                self._source(value, here, kind, Form.BASE64, *edits, accepts=takes)
            elif name in _URI_SOURCES or name in _KINDS:
                self._source(value, here, kind, Form.URI, accepts=is_exact and name == "url")
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
    ) -> None:
        """The very value that an engine opens."""
        if value is None:  # vLLM: media that it knows by its `uuid`
            return
        if not isinstance(value, str):
            _refuse("Media is named by a string.", path)
        if not accepts and looks_like_reference(value):
            _refuse(_UNEXPECTED, path)
        parse = parse_data_reference if form is Form.BASE64 else parse_media_reference
        reference = parse(value, param=json_path(path))
        field = MediaField(path, kind, form, reference)
        if isinstance(reference, FileReference):
            field = replace(field, edits=(Edit(path, Place.VALUE, quoted(Slot.MEDIA)), *edits))
        self.fields.append(field)

    def _other(self, value: object, path: Path, name: str) -> None:
        """What stands under a key that means nothing to us."""
        if name in _ARGUMENTS:
            return
        if name == "file_id" and value is not None:
            _refuse(_UNEXPECTED, path)
        match value:
            case str() if name not in _PROSE and names_a_file(value):
                if looks_like_reference(value):
                    _refuse(_UNEXPECTED, path)
                raise SourceNotAllowed("No file: URL may be named.", param=json_path(path))
            case list() if name == "content":
                self._parts(value, path, accepts=False)
            case list():
                for i, item in enumerate(value):
                    self._other(item, (*path, i), name)
            case dict():
                self._other_object(value, path)

    def _other_object(self, members: dict[str, Any], path: Path) -> None:
        for key, value in members.items():
            name, here = key.casefold(), (*path, key)
            if name in _KINDS:
                self._media(value, here, name, accepts=False)
            else:
                self._other(value, here, name)


def _format(audio: dict[str, Any], data: Path) -> tuple[Edit, ...]:
    """Makes `format` tell the truth: what the bytes are, whatever the client thought."""
    if "format" in audio:
        return (Edit((*data[:-1], "format"), Place.VALUE, quoted(Slot.FORMAT)),)
    return (Edit(data, Place.AFTER, (b',"format":', *quoted(Slot.FORMAT))),)


def _refuse_names(members: dict[str, Any], names: frozenset[str], path: Path) -> None:
    for key in members:
        if key.casefold() in names:
            _refuse("This stands beside a file_id that names the media already.", (*path, key))


def _refuse(message: str, path: Path) -> Never:
    raise InvalidReference(message, param=json_path(path))


def _refuse_shape(message: str, path: Path) -> Never:
    raise InvalidValue(message, param=json_path(path))
