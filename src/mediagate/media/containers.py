"""Is this head a container of pictures and sound? One judge a format; each answers the type or None."""

from collections.abc import Iterator

from mediagate.media.fields import big, little

# RIFF ---------------------------------------------------------------------------------------------

_UNMEASURED = (0, 0xFFFFFFFF)
"""Sizes that a writer leaves behind which could not seek back."""


_WAV_CHUNKS = frozenset(
    {
        *(b"JUNK", b"junk", b"PAD ", b"FLLR", b"LIST", b"bext", b"iXML", b"ds64", b"fact", b"PEAK"),
        *(b"cue ", b"id3 ", b"ID3 ", b"axml", b"chna", b"cart", b"DISP", b"smpl", b"inst", b"_PMX"),
        *(b"minf", b"elm1", b"regn", b"umid", b"levl"),
    }
)


def wav(head: bytes, is_whole: bool) -> str | None:
    """Known chunks in a row up to a sound format that can be played."""
    if head[:4] not in (b"RIFF", b"RF64"):
        return None
    at = 12
    while at + 24 <= len(head):
        kind, length = head[at : at + 4], little(head, at + 4, 4)
        if kind == b"fmt ":
            tag, channels = little(head, at + 8, 2), little(head, at + 10, 2)
            rate, block = little(head, at + 12, 4), little(head, at + 20, 2)
            is_format = tag and 0 < channels <= 1024 and 0 < rate < 1 << 23 and block
            return "audio/wav" if 14 <= length <= 4096 and is_format else None
        if kind not in _WAV_CHUNKS:
            return None
        at += 8 + length + length % 2
    return "audio/wav" if at > 12 and not is_whole else None


def avi(head: bytes, _: bool) -> str | None:
    """The list of headers, the main one, and a list for a stream behind it."""
    size, header_list = little(head, 4, 4), little(head, 16, 4)
    is_header = (
        head[:4] == b"RIFF"
        and head[12:16] == b"LIST"
        and head[20:32] == b"hdrlavih\x38\0\0\0"
        and (size in _UNMEASURED or size >= header_list + 12)
        and header_list >= 4 + 8 + 56
        and 0 < little(head, 56, 4) <= 100  # streams
        and head[88:92] in (b"LIST", b"JUNK")
    )
    return "video/x-msvideo" if is_header else None


# ISO base media -----------------------------------------------------------------------------------

_BRANDS = {
    b"qt  ": "video/quicktime",
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "), "audio/mp4"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "image/heic"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic-sequence"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf"), "image/heif"),
    **dict.fromkeys((b"M4V ", b"M4VH", b"M4VP", b"f4v ", b"F4V ", b"F4P "), "video/mp4"),
    **dict.fromkeys((b"mp41", b"mp42", b"mp71", b"mmp4", b"avc1", b"hvc1", b"hev1"), "video/mp4"),
    **dict.fromkeys((b"av01", b"dash", b"cmfc", b"cmf2", b"piff", b"msdh", b"msix"), "video/mp4"),
    **dict.fromkeys((b"MSNV", b"NDAS", b"NDSC", b"NDSH", b"NDSM", b"NDSP", b"NDSS"), "video/mp4"),
    **dict.fromkeys((b"NDXC", b"NDXH", b"NDXM", b"NDXP", b"NDXS", b"XAVC", b"CAEP"), "video/mp4"),
    **dict.fromkeys((b"caqv", b"niko", b"pana", b"dby1", b"MPPI"), "video/mp4"),
}

_TOP_BOXES = frozenset(
    {
        *(b"moov", b"mdat", b"meta", b"free", b"skip", b"wide", b"uuid", b"pdin", b"moof", b"mfra"),
        *(b"sidx", b"ssix", b"styp", b"prft", b"emsg", b"pnot", b"PICT", b"udta", b"idat", b"beam"),
    }
)
_MOVIE_BOXES = frozenset(
    {
        *(b"mvhd", b"trak", b"iods", b"udta", b"meta", b"mvex", b"cmov", b"rmra", b"pssh", b"uuid"),
        *(b"free", b"mdra"),
    }
)


def _boxes(head: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of each box whose header is in sight; a bad length ends the row with b""."""
    while at + 8 <= min(end, len(head)):
        size, body = big(head, at, 4), at + 8
        if size == 1:
            if at + 16 > len(head):
                return
            size, body = big(head, at + 8, 8), at + 16
        stop = at + size if size else end
        if stop < body or stop > end:
            yield b"", at, at
            return
        yield head[at + 4 : at + 8], body, stop
        at = stop


_ENDLESS = 1 << 63


def _top_boxes(head: bytes, at: int, is_whole: bool) -> list[tuple[bytes, int, int]]:
    """The boxes of the file from `at` on; none if one in sight does not belong there or is longer than the file."""
    boxes = list(_boxes(head, at, _ENDLESS))
    for kind, body, stop in boxes:
        child = head[body + 4 : body + 8]
        if kind not in _TOP_BOXES or (is_whole and len(head) < stop < _ENDLESS):
            return []
        if kind == b"moov" and len(child) == 4 and child not in _MOVIE_BOXES:
            return []
    return boxes


def iso_media(head: bytes, is_whole: bool) -> str | None:
    """Brands, the boxes behind them, and the tracks if they are in sight (ISO 14496-12 §4.3)."""
    size = big(head, 0, 4)
    if not 16 <= size <= 1024 or size % 4:
        return None
    boxes = _top_boxes(head, size, is_whole)
    brands = [head[8:12], *(head[each : each + 4] for each in range(16, size, 4))]
    types = [found for found in map(_brand_type, brands) if found]
    if not boxes or not types:
        return None
    found = types[0]
    if found == "image/heif":
        return next((each for each in types if each.startswith("image/") and each != found), found)
    movie = next(((body, stop) for kind, body, stop in boxes if kind == b"moov"), None)
    if found in _SOUND_ONLY and movie and _is_sound_only(head, *movie):
        return _SOUND_ONLY[found]
    return found


def _brand_type(brand: bytes) -> str | None:
    if brand[:2] == b"3g":
        return "video/3gpp2" if brand[2:3] == b"2" else "video/3gpp"
    return "video/mp4" if brand[:3] == b"iso" else _BRANDS.get(brand)


_SOUND_ONLY = {
    "video/mp4": "audio/mp4",
    "video/3gpp": "audio/3gpp",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
}


def _is_sound_only(head: bytes, start: int, end: int) -> bool:
    """Whether a movie that lies wholly within the head has tracks of sound and none of pictures."""
    if end > len(head):
        return False
    handlers = {
        head[body + 8 : body + 12]
        for track, track_start, track_end in _boxes(head, start, end)
        if track == b"trak"
        for media, media_start, media_end in _boxes(head, track_start, track_end)
        if media == b"mdia"
        for kind, body, _ in _boxes(head, media_start, media_end)
        if kind == b"hdlr"
    }
    return b"soun" in handlers and b"vide" not in handlers


def quicktime(head: bytes, is_whole: bool) -> str | None:
    """QuickTime before `ftyp`: a movie with its header, or data behind the `wide` that keeps room for a long size."""
    boxes = _top_boxes(head, 0, is_whole)
    is_movie = any(
        kind == b"moov" and head[body + 4 : body + 8] in (b"mvhd", b"cmov")
        for kind, body, _stop in boxes
    )
    is_data = [kind for kind, _body, _stop in boxes[:2]] == [b"wide", b"mdat"]
    return "video/quicktime" if is_movie or is_data else None


# Matroska -----------------------------------------------------------------------------------------

_EBML, _DOCTYPE, _SEGMENT, _VOID, _CRC = 0x1A45DFA3, 0x4282, 0x18538067, 0xEC, 0xBF
_TRACKS, _TRACK, _TRACK_KIND = 0x1654AE6B, 0xAE, 0x83
_SEGMENT_CHILDREN = frozenset(
    {
        *(0x114D9B74, 0x1549A966, _TRACKS, 0x1F43B675, 0x1C53BB6B, 0x1254C367, 0x1043A770),
        *(0x1941A469, _VOID, _CRC),
    }
)
_DOCTYPES = {b"webm": "video/webm", b"matroska": "video/x-matroska"}


def _elements(head: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Id, start and end of the body of each element whose header is in sight (RFC 8794 §5, 6)."""
    while at < min(end, len(head)):
        id_width = 9 - head[at].bit_length()
        size_at = at + id_width
        if id_width > 4 or size_at >= len(head):
            return
        width = 9 - head[size_at].bit_length()
        body = size_at + width
        if width > 8 or body > len(head):
            return
        all_ones = (1 << 7 * width) - 1  # says: as long as its parent
        size = big(head, size_at, width) & all_ones
        stop = end if size == all_ones else body + size
        yield big(head, at, id_width), body, stop
        at = stop


def matroska(head: bytes, _: bool) -> str | None:
    """The EBML header with its DocType, then the segment and a child that belongs there."""
    rows = _elements(head, 0, _ENDLESS)
    _id, start, end = next(rows, (0, 0, 0))
    fields = {name: head[body:stop] for name, body, stop in _elements(head, start, end)}
    found = _DOCTYPES.get(fields.get(_DOCTYPE, b"").rstrip(b"\0"))
    segment = next((row for row in rows if row[0] not in (_VOID, _CRC)), None)
    if not found or end > 256 or segment is None or segment[0] != _SEGMENT:
        return None
    children = list(_elements(head, *segment[1:]))
    if not children or children[0][0] not in _SEGMENT_CHILDREN:
        return None
    tracks = next((row for row in children if row[0] == _TRACKS and row[2] <= len(head)), None)
    kinds = {
        head[body:stop]
        for name, start, end in (_elements(head, *tracks[1:]) if tracks else ())
        if name == _TRACK
        for field, body, stop in _elements(head, start, end)
        if field == _TRACK_KIND
    }
    return _SOUND_ONLY[found] if b"\2" in kinds and b"\1" not in kinds else found


# Streams ------------------------------------------------------------------------------------------

_OGG_PICTURES = (b"\x80theora\3", b"OVP80\1", b"BBCD\0", b"\1video\0\0\0")
_OGG_SOUND = (b"\1vorbis\0\0\0\0", b"OpusHead\1", b"\x7fFLAC\1", b"Speex   ", b"fLaC\0")


def ogg(head: bytes, _: bool) -> str | None:
    """The pages that begin a stream come first of all (RFC 3533 §4); each begins with its codec's name."""
    at, has_sound, has_pictures = 0, False, False
    while head.startswith(b"OggS\0", at) and len(head) > at + 27:
        body = at + 27 + head[at + 26]
        if not head[at + 5] & 2 or head[at + 6 : at + 14] != bytes(8):
            break
        has_sound = has_sound or head.startswith(_OGG_SOUND, body)
        has_pictures = has_pictures or head.startswith(_OGG_PICTURES, body)
        at = body + sum(head[at + 27 : body])
    if not (has_sound or has_pictures) or head[at : at + 4] != b"OggS"[: max(len(head) - at, 0)]:
        return None
    return "video/ogg" if has_pictures else "audio/ogg"


def flash(head: bytes, _: bool) -> str | None:
    """Version 1, no unknown flag, and a tag with the length repeated behind it (FLV §E.2 to E.4)."""
    if len(head) < 24 or head[4] & ~5 or head[5:13] != b"\0\0\0\x09\0\0\0\0":
        return None
    after = 24 + big(head, 14, 3)
    is_tag = head[13] in (8, 9, 18) and head[21:24] == b"\0\0\0"
    is_closed = after + 4 > len(head) or big(head, after, 4) == after - 13
    return "video/x-flv" if is_tag and is_closed and after > 24 else None


def transport_stream(head: bytes, _: bool, *, stride: int = 188, first: int = 0) -> str | None:
    """Five packets in a row; one begins a section or a PES packet, or counters run on (ISO 13818-1 §2.4.3)."""
    places = range(first, len(head) - 3, stride)
    counters: dict[int, int] = {}
    begins, runs = 0, 0
    for at in places:
        word = big(head, at, 4)
        pid, control = word >> 8 & 0x1FFF, word >> 4 & 3
        if word >> 24 != 0x47 or word & 0x800000 or not control:
            return None
        payload = at + 4 + (1 + big(head, at + 4, 1) if control & 2 else 0)
        if word & 0x400000 and control & 1:
            begins += head.startswith((b"\0\0\1", b"\0\0\xb0", b"\0\2\xb0", b"\0\x42\xf0"), payload)
        if control & 1 and pid != 0x1FFF:
            runs += counters.get(pid) == (word - 1) & 15
            counters[pid] = word & 15
    return "video/mp2t" if len(places) >= 5 and (begins or runs >= 8) else None


def blu_ray_stream(head: bytes, is_whole: bool) -> str | None:
    """Transport packets with four bytes of time in front of each."""
    return transport_stream(head, is_whole, stride=192, first=4)


def program_stream(head: bytes, is_whole: bool) -> str | None:
    """A pack header with its marker bits, then packets in a row (ISO 11172-1 §2.4.3, 13818-1 §2.5.3)."""
    if len(head) < 20:
        return None
    markers = ((6, 1), (8, 1), (9, 0x80), (11, 1)), ((6, 4), (8, 4), (9, 1), (12, 3))
    is_first = head[4] & 0xF1 == 0x21 and all(head[at] & mask == mask for at, mask in markers[0])
    is_second = head[4] & 0xC4 == 0x44 and all(head[at] & mask == mask for at, mask in markers[1])
    at = 12 if is_first else 14 + (head[13] & 7)
    packets = 0
    while at + 6 <= len(head) and head[at : at + 3] == b"\0\0\1" and head[at + 3] > 0xBA:
        length = big(head, at + 4, 2)
        if head[at + 3] == 0xBB and length > 6 + 3 * 68:  # the system header: three bytes a stream
            return None
        at += 6 + length
        packets += 1
    is_row = head.startswith((b"\0\0\1\xba", b"\0\0\1\xb9"), at) or at + 6 > len(head)
    is_stream = (is_first or is_second) and packets and is_row and not (is_whole and at > len(head))
    return "video/mpeg" if is_stream else None
