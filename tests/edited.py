"""What a dialect's edits make of a body, with plain words where the file's own data go."""

import json
from collections.abc import Sequence
from typing import Any

from mediagate.core.references import FileReference
from mediagate.dialects.fields import MediaField, Place, Slot
from mediagate.dialects.strict_json import parse_object, spans

WORDS = {
    Slot.MEDIA: b"<media>",
    Slot.KIND: b"video",
    Slot.FORMAT: b"mp3",
    Slot.MIME_TYPE: b"image/png",
}


def edited(body: dict[str, Any], fields: Sequence[MediaField]) -> dict[str, Any]:
    """The body for the upstream; reading it proves that it is JSON, without a key that stands twice."""
    raw = json.dumps(body).encode()
    edits = [edit for field in fields for edit in field.edits]
    assert all(isinstance(field.reference, FileReference) for field in fields if field.edits)
    where = spans(raw, [edit.path for edit in edits])
    changes = []
    for edit in edits:
        span = where[edit.path]
        start, stop = {
            Place.VALUE: (span.start, span.stop),
            Place.KEY: (span.key_start, span.key_stop),
            Place.AFTER: (span.stop, span.stop),
        }[edit.place]
        new = b"".join(WORDS[each] if isinstance(each, Slot) else each for each in edit.content)
        changes.append((start, stop, new))
    for start, stop, new in sorted(changes, reverse=True):
        raw = raw[:start] + new + raw[stop:]
    return parse_object(raw)
