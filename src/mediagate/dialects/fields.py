"""What a dialect finds: the media fields of a request body, and what to write over them once the file is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from mediagate.core.files import MediaKind
from mediagate.core.references import Base64Reference, KeptReference, MediaReference
from mediagate.dialects.strict_json import Path, json_path


class Judge(Enum):
    """Who judges what is named and is no file of ours: paths, URLs, inline data."""

    WALL = auto()
    """We do: engines open any path that a client names."""
    ENGINE = auto()
    """The engine, which guards itself: all that does not name a file of ours is its own business."""


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
        reference: What it names. A `Base64Reference` still has to be judged by its decoded bytes, and a
            `KeptReference` told apart from those of other tenants.
        edits: What makes the upstream understand a file reference; none for other references.
        hint: What to do with media of another kind.
    """

    path: Path
    kind: MediaKind | None
    form: Form
    reference: MediaReference | Base64Reference | KeptReference
    edits: tuple[Edit, ...] = ()
    hint: str = ""

    @property
    def param(self) -> str:
        """JSON path of the reference, for errors."""
        return json_path(self.path)


class Dialect(Protocol):
    """Finds the media fields of a body."""

    def __call__(
        self, body: dict[str, Any], /, *, judge: Judge = Judge.WALL
    ) -> Sequence[MediaField]:
        """The media fields of a body that `strict_json.parse_object` read.

        Args:
            body: The body.
            judge: If that is not the wall, only what names files of ours, or what an engine keeps, is found and judged.

        Raises:
            InvalidReference: A malformed reference, one where none is taken, or no string where one belongs.
            SourceNotAllowed: A path, or a scheme that no client may name.
        """


def quoted(slot: Slot) -> tuple[bytes | Slot, ...]:
    """`slot` as a JSON string of its own."""
    return (b'"', slot, b'"')
