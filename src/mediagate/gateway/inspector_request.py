"""What the inspector reads in a chat completions body; everything else in it is the business of a language model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mediagate.core.errors import InvalidValue, ModelNotFound
from mediagate.core.files import MediaKind
from mediagate.dialects.strict_json import Path, json_path

MODEL = "mediagate-inspector"
MAX_MEDIA = 64
"""Files that one request may name: each costs a process."""

_MEDIA_PARTS: Mapping[str, tuple[MediaKind, str]] = {
    "image_url": (MediaKind.IMAGE, "url"),
    "video_url": (MediaKind.VIDEO, "url"),
    "audio_url": (MediaKind.AUDIO, "url"),
    "input_audio": (MediaKind.AUDIO, "data"),
}
"""Type of a content part → the kind of media it takes, and the key inside that names it."""

_TEXT_PARTS: Mapping[str, str] = {"text": "text", "refusal": "refusal"}


@dataclass(frozen=True, slots=True)
class MediaField:
    """A place in the body that names media.

    Attributes:
        kind: What the content part takes.
        value: A handle, a `data:` URI, an address, or bare base64 in `input_audio`.
        is_bare: The value may be base64 without `data:`.
        param: JSON path of the value.
    """

    kind: MediaKind
    value: str
    is_bare: bool
    param: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completions body.

    Attributes:
        is_streamed: The answer is wanted as server-sent events.
        includes_usage: A last event with the usage is wanted.
        media: In the order of the messages.
    """

    is_streamed: bool
    includes_usage: bool
    media: tuple[MediaField, ...]


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Read a body.

    Raises:
        InvalidValue: A field that is read here has the wrong type or value.
        ModelNotFound: Another model is asked.
    """
    check_model(body.get("model"))
    is_streamed = _flag(body, "stream", ("stream",))
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("an object", ("stream_options",))
    count = body.get("n")
    if count is not None and (type(count) is not int or count != 1):
        raise InvalidValue("The inspector gives one answer: leave n out or let it be 1.", param="n")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("a list of at least one message", ("messages",))
    media = tuple(
        field for i, message in enumerate(messages) for field in _message(message, ("messages", i))
    )
    if len(media) > MAX_MEDIA:
        raise InvalidValue(f"One request may name {MAX_MEDIA} files at most.", param="messages")
    return ChatRequest(
        is_streamed=is_streamed,
        includes_usage=_flag(options or {}, "include_usage", ("stream_options", "include_usage")),
        media=media,
    )


def check_model(name: object) -> None:
    """Accept the one model there is; a request without a model means that one.

    Raises:
        InvalidValue: It is no text.
        ModelNotFound: There is no such model.
    """
    if name is None or name == MODEL:
        return
    if not isinstance(name, str):
        raise _wrong("a text", ("model",))
    raise ModelNotFound(
        f"There is no such model. The built-in inspector answers as {MODEL}.", param="model"
    )


def _message(message: object, path: Path) -> Iterator[MediaField]:
    if not isinstance(message, dict):
        raise _wrong("an object", path)
    if not isinstance(message.get("role"), str):
        raise _wrong("a text", (*path, "role"))
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _wrong("a text or a list of content parts", (*path, "content"))
    for i, part in enumerate(content):
        yield from _part(part, (*path, "content", i))


def _part(part: object, path: Path) -> Iterator[MediaField]:
    if not isinstance(part, dict):
        raise _wrong("an object", path)
    name = part.get("type")
    if isinstance(name, str) and name in _TEXT_PARTS:
        if not isinstance(part.get(_TEXT_PARTS[name]), str):
            raise _wrong("a text", (*path, _TEXT_PARTS[name]))
        return
    if not isinstance(name, str) or name not in _MEDIA_PARTS:
        known = ", ".join([*_MEDIA_PARTS, "text"])
        message = f"The inspector knows these content parts: {known}."
        raise InvalidValue(message, param=json_path((*path, "type")))
    kind, key = _MEDIA_PARTS[name]
    holder = part.get(name)
    if not isinstance(holder, dict):
        raise _wrong("an object", (*path, name))
    value = holder.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong("a text that names the media", (*path, name, key))
    yield MediaField(kind, value, key == "data", json_path((*path, name, key)))


def _flag(fields: Mapping[str, Any], key: str, path: Path) -> bool:
    value = fields.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong("true or false", path)
    return bool(value)


def _wrong(wanted: str, path: Path) -> InvalidValue:
    param = json_path(path)
    return InvalidValue(f"{param} must be {wanted}.", param=param)
