"""What the first 4 KiB of a file are: an exact MIME type, decided by structure.

A first word proves nothing: two bytes of every 65,536 random ones are an MP3 sync word, and `RIFF….AVI ` in front of
a playlist is still a playlist to a player. So every format is followed as far as the head goes: box lengths, chunk
sizes, checksums, a second and third frame where the first one says it is. A decoder may still refuse what passes here,
and bytes *behind* a well-formed head (a zip after a PNG) are not judged.

| bytes                                        | type                                                                  |
|----------------------------------------------|-----------------------------------------------------------------------|
| ISO media, by major brand                    | `video/mp4` (also M4V, F4V), `audio/mp4` (M4A, M4B, M4P, F4A, F4B),   |
|                                              | `video/quicktime`, `video/3gpp`, `video/3gpp2`, `image/avif`,         |
|                                              | `image/heic`, `image/heic-sequence`, `image/heif` (mif1, msf1: by the |
|                                              | first compatible brand that says more)                                |
| QuickTime from before `ftyp`                 | `video/quicktime`                                                     |
| Matroska, by DocType                         | `video/webm`, `video/x-matroska`                                      |
| RIFF, RF64                                   | `video/x-msvideo`, `audio/wav`, `image/webp`                          |
| MPEG transport stream, 188 or 192 byte cells | `video/mp2t`                                                          |
| MPEG program stream, 1 or 2                  | `video/mpeg`                                                          |
| Flash video                                  | `video/x-flv`                                                         |
| Ogg                                          | `video/ogg` if any stream is pictures, else `audio/ogg`               |
| FLAC                                         | `audio/flac`                                                          |
| MPEG audio, layers I to III                  | `audio/mpeg`                                                          |
| AAC in ADTS                                  | `audio/aac`                                                           |
| AMR, AMR wide band                           | `audio/amr`, `audio/amr-wb`                                           |
| JPEG PNG GIF BMP TIFF                        | `image/jpeg` `image/png` `image/gif` `image/bmp` `image/tiff`         |

Names are IANA's where it has one, in lower case; else the one that browsers and libmagic share (`video/x-msvideo`,
`video/x-flv`). `audio/wav` is WHATWG's name. Animated PNG and WebP stay `image/png` and `image/webp`.

A container that can hold pictures or sound counts as video (`video/mp4`, `video/3gpp`, `video/webm`,
`video/x-matroska`), unless the list of its tracks lies wholly within the head and names sound only; then it is
`audio/` of the same name. AVI, FLV and MPEG streams are video always. The part before the slash is the kind that
content parts are matched with.

An ID3v2 tag may be longer than any head (it holds cover art). A tag that runs on behind the head is `audio/mpeg` if its
header and every frame in sight are well formed; behind one that ends within, audio frames must follow.
"""

from collections.abc import Callable

from mediagate.media import containers, images, sounds
from mediagate.media.refused import name_of

HEAD_BYTES = 4096
"""What `sniff` looks at; a file of at least this length must be shown so much of it."""

MEDIA_TYPES: frozenset[str] = frozenset(
    {
        "audio/3gpp",
        "audio/aac",
        "audio/amr",
        "audio/amr-wb",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "audio/x-matroska",
        "image/avif",
        "image/bmp",
        "image/gif",
        "image/heic",
        "image/heic-sequence",
        "image/heif",
        "image/jpeg",
        "image/png",
        "image/tiff",
        "image/webp",
        "video/3gpp",
        "video/3gpp2",
        "video/mp2t",
        "video/mp4",
        "video/mpeg",
        "video/ogg",
        "video/quicktime",
        "video/webm",
        "video/x-flv",
        "video/x-matroska",
        "video/x-msvideo",
    }
)
"""All media that is known: the built-in list of accepted types. Each is image, audio or video."""

UNKNOWN_TYPES: frozenset[str] = frozenset({"application/octet-stream", "text/plain"})
"""What `sniff` answers when it knows no better name than "bytes" or "text"."""


def sniff(head: bytes, *, is_whole: bool = False) -> str:
    """The exact MIME type of a file.

    Pure; never raises.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a shorter one; more is not looked at.
        is_whole: The file ends where `head` does; goes without saying for a shorter one.

    Returns:
        One of `MEDIA_TYPES`, or a type that is none of them and tells what was sent instead
        (`image/svg+xml`, `text/html`, `application/zip` … `application/octet-stream`).
    """
    is_whole = len(head) < HEAD_BYTES or (is_whole and len(head) == HEAD_BYTES)
    head = head[:HEAD_BYTES]
    for offset, magic, judge in _MEDIA:
        if head.startswith(magic, offset) and (found := judge(head, is_whole)):
            return found
    return name_of(head)


Judge = Callable[[bytes, bool], str | None]
"""Looks at a head, and at whether it is all of the file; the type, or None if the structure is not that."""

_MEDIA: tuple[tuple[int, bytes, Judge], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", images.png),
    (0, b"\xff\xd8\xff", images.jpeg),
    (0, b"GIF8", images.gif),
    (0, b"BM", images.bmp),
    *((0, magic, images.tiff) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (8, b"WEBP", images.webp),
    (8, b"WAVE", containers.wav),
    (8, b"AVI ", containers.avi),
    (4, b"ftyp", containers.iso_media),
    *((4, magic, containers.quicktime) for magic in (b"moov", b"wide", b"free", b"skip", b"pnot")),
    (0, b"\x1aE\xdf\xa3", containers.matroska),
    (0, b"OggS", containers.ogg),
    (0, b"FLV\1", containers.flash),
    (0, b"\0\0\1\xba", containers.program_stream),
    (0, b"fLaC", sounds.flac),
    (0, b"ID3", sounds.tagged),
    (0, b"#!AMR\n", sounds.amr),
    (0, b"#!AMR-WB\n", sounds.amr_wide),
    (0, b"\xff", sounds.sound_frames),
    (0, b"G", containers.transport_stream),
    (4, b"G", containers.blu_ray_stream),
)
