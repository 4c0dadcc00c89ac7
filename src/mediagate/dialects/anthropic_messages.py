"""Messages (Anthropic), counting of their tokens, and batches of them: blocks that hold a `source`.

    {"type": "image", "source": {"type": "file", "file_id": …}}     its source becomes type base64

In a message, in `system`, and in what a tool returned. As base64, whatever the delivery: that is what vLLM, SGLang,
LMDeploy, llama-server and Ollama have in common; Ollama takes no URL.

Only images: no server that was looked at takes anything else. vLLM and SGLang refuse other blocks in a message;
llama-server drops them, and vLLM, LMDeploy and llama-server drop them from the results of tools, and answer as if
there had been none. So a video or a document by id is refused here.
"""

from collections.abc import Sequence
from typing import Any

from mediagate.core.files import MediaKind
from mediagate.dialects.fields import Edit, Form, Judge, MediaField, Place, Slot, quoted
from mediagate.dialects.strict_json import Path
from mediagate.dialects.wall import Wall, refuse_beside, stored_file

_HINT = "Name videos and sounds in video_url and audio_url of POST /v1/chat/completions."


def find(body: dict[str, Any], /, *, judge: Judge = Judge.WALL) -> Sequence[MediaField]:
    """The media fields of the body; a `Dialect`.

    Raises:
        InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
        SourceNotAllowed: A path, or a scheme that no client may name.
    """
    return _WALL.find(body, judge=judge)


def _image(block: dict[str, Any], path: Path) -> MediaField | None:
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") != "file":
        return None
    here = (*path, "source")
    at = (*here, "file_id")
    refuse_beside(source, {"data", "media_type", "url"}, here)
    return stored_file(
        source.get("file_id"),
        at,
        Edit((*here, "type"), Place.VALUE, (b'"base64"',)),
        Edit(at, Place.KEY, (b'"data"',)),
        Edit(at, Place.VALUE, quoted(Slot.MEDIA)),
        Edit(at, Place.AFTER, (b',"media_type":', *quoted(Slot.MIME_TYPE))),
        kind=MediaKind.IMAGE,
        form=Form.BASE64,
        hint=_HINT,
    )


_WALL = Wall(
    translations={"image": _image},
    unexpected=(
        'No file is taken here. Name an image with {"type": "image", "source": {"type": "file", '
        '"file_id": "file-…"}}. ' + _HINT
    ),
    takes_urls=False,
)
