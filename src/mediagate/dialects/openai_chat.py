"""Chat completions, and all that takes the same messages and parts: embeddings, pooling, scores, plain prompts.

Beside the keys that the wall knows, two objects name a file in a way of their own:

    {"type": "file", "file": {"file_id": …}}     becomes the part for the file's kind: image_url, video_url, audio_url
    {"type": "input_image", "file_id": …}        becomes an image_url part
"""

from collections.abc import Sequence
from typing import Any

from mediagate.core.files import MediaKind
from mediagate.dialects.fields import Edit, Judge, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path
from mediagate.dialects.wall import Wall, refuse, refuse_beside, stored_file

_WRITTEN = frozenset({"image_url", "video_url", "audio_url"})


def find(body: dict[str, Any], /, *, judge: Judge = Judge.WALL) -> Sequence[MediaField]:
    """The media fields of the body; a `Dialect`.

    Raises:
        InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
        SourceNotAllowed: A path, or a scheme that no client may name.
    """
    return _WALL.find(body, judge=judge)


def _file(part: dict[str, Any], path: Path) -> MediaField | None:
    here, file = (*path, "file"), part.get("file")
    if not isinstance(file, dict):
        refuse("A part of type file holds an object `file` with a file_id or file_data.", here)
    has_id, has_data = (file.get(key) is not None for key in ("file_id", "file_data"))
    if has_id == has_data:
        refuse("A `file` holds either a file_id or file_data.", here)
    if has_data:
        return None
    # Both become keys of what the upstream reads, and a key may stand only once.
    refuse_beside(part, _WRITTEN, path)
    refuse_beside(file, {"url"}, here)
    at = (*here, "file_id")
    url = (b'"', Slot.KIND, b'_url"')
    return stored_file(
        file["file_id"],
        at,
        Edit((*path, "type"), Place.VALUE, url),
        Edit(here, Place.KEY, url),
        Edit(at, Place.KEY, (b'"url"',)),
        Edit(at, Place.VALUE, quoted(Slot.MEDIA)),
    )


def _input_image(part: dict[str, Any], path: Path) -> MediaField | None:
    if part.get("file_id") is None:
        return None
    refuse_beside(part, _WRITTEN, path)
    at = (*path, "file_id")
    return stored_file(
        part["file_id"],
        at,
        Edit((*path, "type"), Place.VALUE, (b'"image_url"',)),
        Edit(at, Place.KEY, (b'"image_url"',)),
        Edit(at, Place.VALUE, (b'{"url":', *quoted(Slot.MEDIA), b"}")),
        kind=MediaKind.IMAGE,
    )


_WALL = Wall(
    translations={"file": _file, "input_image": _input_image},
    unexpected=(
        "No file is taken here. Name it in image_url.url, video_url.url, audio_url.url, input_audio.data, "
        'or with {"type": "file", "file": {"file_id": "file-…"}}.'
    ),
)
