"""Is this head a sound? One judge a format; each answers the type or None."""

from collections.abc import Callable

from mediagate.media.fields import big, little


def flac(head: bytes, _: bool) -> str | None:
    """STREAMINFO comes first and is 34 bytes; then well-formed blocks, then a frame (RFC 9639 §8)."""
    if len(head) < 46 or head[4] & 0x7F or big(head, 5, 3) != 34:
        return None
    smallest, largest, rate = big(head, 8, 2), big(head, 10, 2), big(head, 18, 3) >> 4
    frames = big(head, 12, 3), big(head, 15, 3)
    is_measured = frames[0] <= frames[1] or not frames[1]
    if not (16 <= smallest <= largest and rate and is_measured):
        return None
    at, is_last = 42, head[4] & 0x80
    while not is_last and at + 8 <= len(head):
        judge = _FLAC_BLOCKS.get(head[at] & 0x7F)
        length = big(head, at + 1, 3)
        if not judge or not judge(head[at + 4 : at + 4 + length], length):
            return None
        is_last = head[at] & 0x80
        at += 4 + length
    is_frame = not is_last or at + 2 > len(head) or big(head, at, 2) & ~1 == 0xFFF8
    return "audio/flac" if is_frame else None


_FLAC_BLOCKS: dict[int, Callable[[bytes, int], bool]] = {
    1: lambda body, _: not body.strip(b"\0"),  # padding
    2: lambda body, _: body[:4].isalnum(),  # application: its id
    3: lambda body, length: (
        length % 18 == 0 and body[:1] in b"\0\xff"
    ),  # seek table: 36 bits, or a placeholder
    4: lambda body, length: 8 + little(body, 0, 4) <= length,  # Vorbis comment: the vendor's name
    5: lambda body, length: length >= 396 and body[:128].isascii(),  # cue sheet: a catalogue number
    6: lambda body, _: big(body, 0, 4) <= 20,  # picture: its purpose
}
"""Whether a metadata block of a type can be one; given what is in sight of its body, and its length."""


_AMR_SIZES = (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0)
_AMR_WIDE_SIZES = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)


def amr(head: bytes, _: bool) -> str | None:
    """Adaptive multi-rate, the telephone's."""
    return "audio/amr" if _is_amr(head, 6, _AMR_SIZES) else None


def amr_wide(head: bytes, _: bool) -> str | None:
    """The same for twice the band; its frames are longer."""
    return "audio/amr-wb" if _is_amr(head, 9, _AMR_WIDE_SIZES) else None


def _is_amr(head: bytes, at: int, sizes: tuple[int, ...]) -> bool:
    """Frames without end, each begun by a byte whose spare bits are zero (RFC 4867 §5.3)."""
    frames = 0
    while at < len(head):
        mode = head[at] >> 3 & 15
        if head[at] & 0x83 or (not sizes[mode] and mode < 14):
            return False
        at += 1 + sizes[mode]
        frames += 1
    return frames >= 3


_KBITS = {
    # (MPEG-1 or later half rates, layer): by bitrate index
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mpeg_frame(word: int, _: int) -> int:
    """Length of the MPEG audio frame that the first four bytes begin; 0: they begin none (ISO 11172-3 §2.4.1.3)."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate, padding = word >> 12 & 15, word >> 10 & 3, word >> 9 & 1
    is_reserved = version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3 or word & 3 == 2
    if word >> 21 != 0x7FF or is_reserved:
        return 0
    bits = 1000 * _KBITS[version == 3, layer][bitrate - 1]
    hertz = (44_100, 48_000, 32_000)[rate] >> (2, 0, 1, 0)[version]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def _adts_frame(word: int, rest: int) -> int:
    """Length of the AAC frame that the first six bytes begin; 0: they begin none (ISO 13818-7 §6.2)."""
    is_header = word >> 20 == 0xFFF and not word >> 17 & 3 and word >> 10 & 15 < 13
    length = (word & 3) << 11 | rest >> 5
    return length if is_header and length >= 7 else 0


_FRAMES: tuple[tuple[str, Callable[[int, int], int], int], ...] = (
    # the bits that stay the same from frame to frame: version, layer, rate; for AAC profile and channels too
    ("audio/mpeg", _mpeg_frame, 0xFFFE0C00),
    ("audio/aac", _adts_frame, 0xFFFEFDC0),
)


def sound_frames(head: bytes, is_whole: bool, start: int = 0) -> str | None:
    """Three frames of one kind in a row.

    Two do if they fill a file, or if the third lies behind the head; one does where a tag leaves room for no more.
    """
    for name, measure, constant in _FRAMES:
        at, count, end = start, 0, len(head)
        while at + 6 <= end and count < 3:
            word = big(head, at, 4)
            length = measure(word, big(head, at + 4, 2))
            if not length or (word ^ big(head, start, 4)) & constant:
                break
            at += length
            count += 1
        is_closed = count == 2 and (at == end or head.startswith((b"TAG", b"APETAGEX"), at))
        is_cut = at + 6 > end and count >= (1 if start else 2)
        if count == 3 or (is_closed if is_whole else is_cut):
            return name
    return None


def tagged(head: bytes, is_whole: bool) -> str | None:
    """An ID3v2 tag, and what it is a tag of (ID3v2.4 §3, 4)."""
    version, flags = big(head, 3, 1), big(head, 5, 1)
    reserved = {2: 0x7F, 3: 0x1F, 4: 0x0F}.get(version, 0xFF)
    if len(head) < 20 or head[4] == 0xFF or flags & reserved or big(head, 6, 4) & 0x80808080:
        return None
    size = _syncsafe(head, 6)
    end = 10 + size + (10 if flags & 0x10 else 0)
    goes_on = end + 8 > len(head)
    is_padding = not goes_on and not head[10:end].strip(b"\0")
    if not is_padding and not _is_tag_frame(
        head, version, 10 + _extension(head, version, flags), end
    ):
        return None
    if goes_on:
        return None if is_whole else "audio/mpeg"
    start = len(head) - len(head[end:].lstrip(b"\0"))  # some writers pad behind the size they tell
    if head.startswith(b"fLaC", start):
        return flac(head[start:], is_whole)
    return sound_frames(head, is_whole, start)


def _syncsafe(head: bytes, at: int) -> int:
    """Four bytes of seven bits each."""
    return head[at] << 21 | head[at + 1] << 14 | head[at + 2] << 7 | head[at + 3]


def _extension(head: bytes, version: int, flags: int) -> int:
    """Length of the extended header, which counts itself since version 4."""
    if not flags & 0x40:
        return 0
    return _syncsafe(head, 10) if version == 4 else 4 + big(head, 10, 4)


def _is_tag_frame(head: bytes, version: int, at: int, end: int) -> bool:
    """A name of capitals and digits, and a length that fits into the tag."""
    width = 3 if version == 2 else 4
    name, length = head[at : at + width], big(head, at + width, width)
    if version == 4 and len(head) >= at + 8:
        length = min(
            length, _syncsafe(head, at + 4)
        )  # one writer in use forgot to make it syncsafe
    is_name = len(name) == width and name.isalnum() and name == name.upper()
    return is_name and 0 < length <= end - at
