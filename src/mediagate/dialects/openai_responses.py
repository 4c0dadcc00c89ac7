"""Responses: the same objects in messages, in shorthand ones, in earlier items and in what tools returned.

    {"type": "input_image", "file_id": …}             its image_url becomes the media, a plain string here
    {"type": "input_file", "file_id": …}              becomes an input_image, with a detail
    {"type": "computer_screenshot", "file_id": …}     as an input_image

Only images: an `input_file` is an error in vLLM and llama-server, and nothing in the others. Servers that read the
parts of chat completions here too get videos and sounds from `video_url` and `audio_url`, which the wall knows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mediagate.core.files import MediaKind
from mediagate.dialects.fields import Edit, Judge, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path
from mediagate.dialects.wall import Wall, refuse_beside, stored_file

_HINT = "Name videos and sounds in video_url and audio_url of POST /v1/chat/completions."
_SOURCES = ("image_url", "file_data", "file_url")


def find(body: dict[str, Any], /, *, judge: Judge = Judge.WALL) -> Sequence[MediaField]:
    """The media fields of the body; a `Dialect`.

    Raises:
        InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
        SourceNotAllowed: A path, or a scheme that no client may name.
    """
    return _WALL.find(body, judge=judge)


def _image(part: dict[str, Any], path: Path) -> MediaField | None:
    if part.get("file_id") is None:
        return None
    # Items of an earlier answer have all keys, those that say nothing as null.
    named = {key: value for key, value in part.items() if key not in _SOURCES or value is not None}
    refuse_beside(named, _SOURCES, path)
    at, image_url = (*path, "file_id"), (*path, "image_url")
    media = (
        (Edit(image_url, Place.VALUE, quoted(Slot.MEDIA)), Edit(at, Place.VALUE, (b"null",)))
        if "image_url" in part
        else (
            Edit(at, Place.KEY, (b'"image_url"',)),
            Edit(at, Place.VALUE, quoted(Slot.MEDIA)),
        )
    )
    return stored_file(part["file_id"], at, *media, kind=MediaKind.IMAGE, hint=_HINT)


def _file(part: dict[str, Any], path: Path) -> MediaField | None:
    field = _image(part, path)
    if field is None:
        return None
    becomes = Edit((*path, "type"), Place.VALUE, (b'"input_image"',))
    return replace(field, edits=(becomes, *field.edits, *_detail(part, path)))


def _detail(part: dict[str, Any], path: Path) -> tuple[Edit, ...]:
    """What an `input_image` must have (vLLM, SGLang and LMDeploy refuse it otherwise) and an `input_file` need not."""
    if part.get("detail") is not None:
        return ()
    if "detail" in part:
        return (Edit((*path, "detail"), Place.VALUE, (b'"auto"',)),)
    return (Edit((*path, "file_id"), Place.AFTER, (b',"detail":"auto"',)),)


_WALL = Wall(
    translations={"input_image": _image, "computer_screenshot": _image, "input_file": _file},
    unexpected=(
        "No file is taken here. Name an image as the image_url or the file_id of an input_image. "
        + _HINT
    ),
)
