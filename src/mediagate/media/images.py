"""Is this head an image? One judge a format; each answers the type or None, and reads as far as structure goes."""

import zlib
from itertools import pairwise
from typing import Literal

from mediagate.media.fields import big, little

_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def png(head: bytes, is_whole: bool) -> str | None:
    """IHDR with its checksum, and the header of the chunk behind it (PNG §11.2.2)."""
    if len(head) < 41 or head[8:16] != b"\0\0\0\rIHDR":
        return None
    depth, colour, compression, filtering, interlace = head[24:29]
    is_header = (
        0 < big(head, 16, 4) < 1 << 31
        and 0 < big(head, 20, 4) < 1 << 31
        and depth in _PNG_DEPTHS.get(colour, ())
        and (compression, filtering) == (0, 0)
        and interlace < 2
        and zlib.crc32(head[12:29]) == big(head, 29, 4)
    )
    is_chunk = head[37:41].isalpha() and head[37:41] != b"IEND" and big(head, 33, 4) < 1 << 31
    has_pixels = b"IDAT" in head or not is_whole
    return "image/png" if is_header and is_chunk and has_pixels else None


_JPEG_LABELS = (
    *(b"JFIF\0", b"JFXX\0", b"Exif\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/", b"MPF\0"),
    *(b"FPXR\0", b"Photoshop 3.0\0", b"Adobe", b"AVI1", b"Ducky"),
)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = _JPEG_FRAMES | frozenset(range(0xE0, 0xF0)) | {0xC4, 0xCC, 0xDB, 0xDD, 0xFE}


def jpeg(head: bytes, is_whole: bool) -> str | None:
    """Segments in a row up to a frame header (T.81 §B.2).

    Where they run on behind the head (EXIF with a thumbnail does), one of them must be well known.
    """
    at, is_known = 2, False
    while at + 4 <= len(head):
        marker, length = head[at + 1], big(head, at + 2, 2)
        if head[at] != 0xFF:
            return None
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in _JPEG_FRAMES and at + 10 <= len(head):
            return "image/jpeg" if _is_jpeg_frame(head, at + 4, length) else None
        if marker not in _JPEG_SEGMENTS or length < 2:
            return None
        is_known = is_known or head.startswith(_JPEG_LABELS, at + 4) or _is_jpeg_table(head, at)
        at += 2 + length
    return "image/jpeg" if is_known and not is_whole else None


def _is_jpeg_frame(head: bytes, body: int, length: int) -> bool:
    """Sample precision, a width, and as many components as the length says."""
    components = head[body + 5]
    return (
        head[body] in (8, 12, 16)
        and big(head, body + 3, 2) > 0
        and 1 <= components <= 4
        and length == 8 + 3 * components
    )


def _is_jpeg_table(head: bytes, at: int) -> bool:
    """A quantisation table of 64 bytes: one of four, and no divisor is zero."""
    table = head[at + 5 : at + 69]
    return (
        head[at + 1] == 0xDB
        and head[at + 4 : at + 5] < b"\4"
        and len(table) == 64
        and 0 not in table
    )


def gif(head: bytes, is_whole: bool) -> str | None:
    """The screen, its colour table, then extensions up to a frame (GIF89a §18 to 26)."""
    if len(head) < 13 or head[4:6] not in (b"7a", b"9a"):
        return None
    if not little(head, 6, 2) or not little(head, 8, 2):
        return None
    flags = head[10]
    first = at = 13 + ((6 << (flags & 7)) if flags & 0x80 else 0)
    while head.startswith(_GIF_EXTENSIONS, at):
        at += 2
        while at < len(head) and head[at]:  # blocks, each behind its length, up to an empty one
            at += 1 + head[at]
        at += 1
    if at + 11 > len(head):  # no frame in sight
        return "image/gif" if at > first and not is_whole else None
    return "image/gif" if _is_gif_frame(head, at) else None


def _is_gif_frame(head: bytes, at: int) -> bool:
    """A size, no reserved bit, and behind the frame's own colours a code size of LZW."""
    flags = head[at + 9]
    data = at + 10 + ((6 << (flags & 7)) if flags & 0x80 else 0)
    has_size = head[at] == 0x2C and little(head, at + 5, 2) and little(head, at + 7, 2)
    has_code = data >= len(head) or 1 <= head[data] <= 8
    return bool(has_size) and not flags & 0x18 and has_code


_GIF_EXTENSIONS = (b"!\xf9\4", b"!\xff\x0b", b"!\1\x0c", b"!\xfe")
"""Graphic control, application, plain text, each with its size; comments have any."""


def bmp(head: bytes, _: bool) -> str | None:
    """The length of the second header names its kind; planes are one, and pixels lie behind it."""
    header, pixels = little(head, 14, 4), little(head, 10, 4)
    size, at = (2, 22) if header == 12 else (4, 26)  # the first kind counts in 16 bits
    is_header = (
        header in (12, 40, 52, 56, 64, 108, 124)
        and 14 + header <= pixels < 1 << 20
        and len(head) >= 30
        and 0 < little(head, 18, size) < 1 << 31
        and little(head, 18 + size, size) > 0
        and little(head, at, 2) == 1
        and little(head, at + 2, 2) in (1, 2, 4, 8, 16, 24, 32)
    )
    return "image/bmp" if is_header else None


_TIFF_FAR = 1 << 29
"""Text has letters above this address, in either byte order."""


def tiff(head: bytes, is_whole: bool) -> str | None:
    """A directory with rising tags, width and height among them (TIFF 6.0 §2).

    Many writers put the directory behind the pixels, where the head does not show it. Then nothing but its address is
    left to judge: it is below 512 MiB, which text never is, and one noise in eight.
    """
    order: Literal["little", "big"] = "little" if head[:1] == b"I" else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(head[start : start + size], order)

    is_big = number(2, 2) == 43
    if len(head) < 16 or head[8:10] == b"CR" or (is_big and (number(4, 2), number(6, 2)) != (8, 0)):
        return None  # CR: Canon's raw files, whose pixels are no TIFF's
    at = number(8, 8) if is_big else number(4, 4)
    if at < 8:  # odd ones are against the rule, and FFmpeg writes them
        return None
    if at + 2 > len(head):
        return "image/tiff" if at < _TIFF_FAR and not is_whole else None
    count, start, stride = (number(at, 8), at + 8, 20) if is_big else (number(at, 2), at + 2, 12)
    in_sight = min(count, (len(head) - start) // stride)
    tags = [number(start + stride * each, 2) for each in range(in_sight)]
    kinds = [number(start + stride * each + 2, 2) for each in range(in_sight)]
    is_directory = (
        2 <= count < 1 << 12
        and all(low < high for low, high in pairwise(tags))
        and all(1 <= kind <= 18 for kind in kinds)
        and ((in_sight < count and not is_whole) or {256, 257} <= set(tags))
    )
    return "image/tiff" if is_directory else None


_WEBP_CHUNKS = frozenset({b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP "})


def webp(head: bytes, is_whole: bool) -> str | None:
    """RIFF, the first chunk's own header, and lengths that fit into each other (RFC 9649 §2)."""
    size, length = little(head, 4, 4), little(head, 16, 4)
    if len(head) < 30 or head[:4] != b"RIFF" or size < 12 + length:
        return None
    if is_whole and size + 8 > len(head):
        return None
    kind, body = head[12:16], head[20:30]
    is_lossy = body[3:6] == b"\x9d\1\x2a" and not body[0] & 1 and little(body, 6, 2) & 0x3FFF
    is_lossless = body[0] == 0x2F and body[4] >> 5 == 0
    is_extended = length == 10 and not body[0] & 0xC1 and head[30:34] in _WEBP_CHUNKS
    is_header = {b"VP8 ": is_lossy, b"VP8L": is_lossless, b"VP8X": is_extended}.get(kind)
    return "image/webp" if is_header else None
