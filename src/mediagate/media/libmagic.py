"""A second opinion on a file's type, by libmagic (`--file-upload-libmagic`).

Our own sniffer decides; libmagic may refuse, and may name what ours does not know:

| ours            | libmagic                                | recorded                                           |
|-----------------|-----------------------------------------|----------------------------------------------------|
| anything        | nothing (`application/octet-stream`)    | ours                                               |
| a media type    | the same, an alias, or its family's     | ours: it is the more exact one                     |
| a media type    | anything else                           | `<ours> or <libmagic's>`: no MIME type, so refused |
| bytes or text   | a type that we know                     | ours: its structure was looked for, and is not there |
| bytes or text   | any other that the operator allowed     | libmagic's                                         |
| bytes or text   | any other                               | ours                                               |
| a refused type  | whatever                                | ours                                               |

Libmagic has no structure for half of what it names: two bytes and noise are an MP3 to it, a playlist behind `AVI ` is
a film, SVG is `image/`. So its word never admits a type that is in our own table.
"""

import re
from collections.abc import Collection, Mapping

from mediagate.media.refused import REFUSED_TYPES
from mediagate.media.sniff import MEDIA_TYPES, UNKNOWN_TYPES

NO_OPINION: frozenset[str] = frozenset(
    {"application/octet-stream", "application/x-empty", "data", "inode/x-empty"}
)
"""What libmagic says when it does not know."""

ALIASES: Mapping[str, str] = {
    "application/mp4": "video/mp4",
    "application/ogg": "video/ogg",
    "application/x-matroska": "video/x-matroska",
    "audio/aacp": "audio/aac",
    "audio/mp3": "audio/mpeg",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-aac": "audio/aac",
    "audio/x-flac": "audio/flac",
    "audio/x-hx-aac-adts": "audio/aac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-mp4a-latm": "audio/mp4",
    "audio/x-wav": "audio/wav",
    "image/heif-sequence": "image/heif",
    "image/jpg": "image/jpeg",
    "image/x-bmp": "image/bmp",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
    "image/x-tiff": "image/tiff",
    "video/avi": "video/x-msvideo",
    "video/flv": "video/x-flv",
    "video/matroska": "video/x-matroska",
    "video/mpeg4-generic": "video/mp4",
    "video/msvideo": "video/x-msvideo",
    "video/vnd.avi": "video/x-msvideo",
    "video/x-m4v": "video/mp4",
}
"""Other names of types in `MEDIA_TYPES`, as versions of libmagic write them; keys are in lower case."""

FAMILIES: tuple[frozenset[str], ...] = (
    # one box format; libmagic's brand table is another than ours, and it does not look at tracks
    frozenset(
        {"audio/3gpp", "audio/mp4", "video/3gpp", "video/3gpp2", "video/mp4", "video/quicktime"}
    ),
    frozenset({"image/avif", "image/heic", "image/heic-sequence", "image/heif"}),
    # one element format; libmagic does not look at tracks
    frozenset({"audio/webm", "audio/x-matroska", "video/webm", "video/x-matroska"}),
    frozenset({"audio/ogg", "video/ogg"}),
    # one frame format: MPEG audio and AAC share their sync word; AMR's bands share a name
    frozenset({"audio/aac", "audio/mpeg"}),
    frozenset({"audio/amr", "audio/amr-wb"}),
)
"""Types that libmagic tells apart less well than we do: inside one family there is no contradiction."""

_KNOWN = MEDIA_TYPES | REFUSED_TYPES
_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]{0,99}")


class LibmagicMissing(ImportError):
    """The second opinion was asked for, and python-magic or libmagic itself is not installed."""


class LibmagicOpinion:
    """What libmagic takes the first bytes of a file for.

    May be called from any thread: python-magic holds a lock around its cookie, and a call takes well under a
    millisecond of CPU on a head of 4 KiB, without I/O.

    Raises:
        LibmagicMissing: At construction.
    """

    def __init__(self) -> None:
        # Another distribution, file-magic, has a module of the same name and no such class.
        try:
            import magic

            self._magic = magic.Magic(mime=True)
        except (ImportError, AttributeError) as error:
            raise LibmagicMissing(
                "the second opinion on types needs the libmagic library and the package python-magic: "
                "install mediagate[libmagic]"
            ) from error
        self._errors = magic.MagicException

    def __call__(self, head: bytes) -> str | None:
        """A MIME type in lower case, or None if it knows none."""
        try:
            opinion = str(self._magic.from_buffer(head)).lower()
        except self._errors:  # it could not read the bytes: no opinion
            return None
        return None if opinion in NO_OPINION or not _TYPE.fullmatch(opinion) else opinion


def decide(own: str, opinion: str | None, allowed: Collection[str]) -> str:
    """The type to record, given ours and libmagic's; see the table above.

    Args:
        own: What `sniff` says.
        opinion: What `LibmagicOpinion` says.
        allowed: The exact types that are accepted.

    Returns:
        A type that the caller looks up in `allowed`; a contradiction comes back as no MIME type at all.
    """
    if opinion is None or opinion in NO_OPINION:
        return own
    meant = ALIASES.get(opinion, opinion)
    if own in MEDIA_TYPES:
        is_agreed = own == meant or any({own, meant} <= family for family in FAMILIES)
        return own if is_agreed else f"{own} or {opinion}"
    is_news = own in UNKNOWN_TYPES and meant not in _KNOWN
    return opinion if is_news and opinion in allowed else own
