"""What a dialect finds: the media fields of a request body, and what to write over them once the file is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from mediagate.core.files import MediaKind
from mediagate.core.references import Base64Reference, MediaReference
from mediagate.dialects.strict_json import Path, json_path


class Form(Enum):
    """How a field takes media."""

    URI = auto()
    """As a URL, `data:` included."""
    BASE64 = auto()
    """As bare base64."""


class Slot(Enum):
    """What is known only when the file is; stands inside a JSON string."""

    MEDIA = auto()
    """The media, in the field's form."""
    KIND = auto()
    """`image`, `audio` or `video`."""
    FORMAT = auto()
    """OpenAI's `input_audio.format`: `mp3`, `wav` …"""
    MIME_TYPE = auto()
    """The file's type: `image/png` …"""


class Place(Enum):
    """Where an edit goes."""

    VALUE = auto()
    """Over the value."""
    KEY = auto()
    """Over the key, quotes included."""
    AFTER = auto()
    """Behind the value."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to the body at the value that `path` leads to; everything around it stays byte for byte."""

    path: Path
    place: Place
    content: tuple[bytes | Slot, ...]


@dataclass(frozen=True, slots=True)
class MediaField:
    """One place of a body that names media, and passed the wall.

    Attributes:
        path: Where the reference stands.
        kind: What the place takes; None: any.
        form: How it takes it.
        reference: What it names. A `Base64Reference` still has to be judged by its decoded bytes.
        edits: What makes the upstream understand a file reference; none for other references.
        hint: What to do with media of another kind.
    """

    path: Path
    kind: MediaKind | None
    form: Form
    reference: MediaReference | Base64Reference
    edits: tuple[Edit, ...] = ()
    hint: str = ""

    @property
    def param(self) -> str:
        """JSON path of the reference, for errors."""
        return json_path(self.path)


Dialect = Callable[[dict[str, Any]], Sequence[MediaField]]
"""Finds the media fields of a body that `strict_json.parse_object` read.

Raises an `InvalidRequest` if a media field holds what no client may name, or a reference stands where none is taken.
"""


def quoted(slot: Slot) -> tuple[bytes | Slot, ...]:
    """`slot` as a JSON string of its own."""
    return (b'"', slot, b'"')
