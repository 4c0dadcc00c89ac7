"""Names for what is no accepted media, so that a refusal can say what was sent."""

import re

_BINARIES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"MZ", "application/vnd.microsoft.portable-executable"),
    *((0, b"%c\xfa\xed\xfe" % first, "application/x-mach-binary") for first in (0xCE, 0xCF)),
    (0, b"\xca\xfe\xba\xbe", "application/java-vm"),
    (0, b"\0asm", "application/wasm"),
    *((0, b"PK" + kind, "application/zip") for kind in (b"\3\4", b"\5\6", b"\7\10")),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\7", "application/vnd.rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\xc5\xd0\xd3\xc6", "application/postscript"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (4, b"jP  \r\n\x87\n", "image/jp2"),
    (4, b"ftypjp2 ", "image/jp2"),
    (0, b"\xff\x4f\xff\x51", "image/x-jp2-codestream"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"\0\0\1\0\1\0", "image/vnd.microsoft.icon"),
    (0, b"\xd7\xcd\xc6\x9a", "image/wmf"),
)

_TEXTS: tuple[tuple[str, str], ...] = (
    ("#!", "text/x-script"),
    ("<?php", "text/x-php"),
    ("#extm3u", "application/vnd.apple.mpegurl"),
    ("ffconcat", "application/x-ffconcat"),
    ("[playlist]", "audio/x-scpls"),
    ("v=0\no=", "application/sdp"),
    ("v=0\r\no=", "application/sdp"),
    ("push graphic-context", "image/x-mvg"),
    ("viewbox ", "image/x-mvg"),
    ("%!ps", "application/postscript"),
    ("{\\rtf", "application/rtf"),
    ("/* xpm", "image/x-xpixmap"),
    *((f"p{digit}{space}", "image/x-portable-anymap") for digit in "1234567" for space in "\n "),
    ('{"', "application/json"),
)

_ROOTS = {
    "svg": "image/svg+xml",
    "mpd": "application/dash+xml",
    "smil": "application/smil+xml",
    "asx": "video/x-ms-asf",
    "playlist": "application/xspf+xml",
    **dict.fromkeys(("html", "head", "body", "title", "script", "style", "iframe"), "text/html"),
}

_PROLOG = re.compile(r"\s*(?:<\?.*?\?>|<!--.*?-->|<!doctype[^>\[]*(?:\[.*?\]\s*)?>)", re.DOTALL)
_ROOT = re.compile(r"\s*<(?:[\w.-]+:)?([a-z][\w.-]*)")

REFUSED_TYPES: frozenset[str] = frozenset(
    {
        *(name for _, _, name in _BINARIES),
        *(name for _, name in _TEXTS),
        *_ROOTS.values(),
        *("application/pdf", "application/xml", "inode/x-empty"),
    }
)
"""What `sniff` can name and never takes for media: some of it runs, some fetches, some crashes decoders."""


def name_of(head: bytes) -> str:
    """A name for what is no media; it goes into error messages, so a wrong one does no harm."""
    if not head:
        return "inode/x-empty"
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
    text = head.removeprefix(b"\xef\xbb\xbf").decode(encoding, "replace").lstrip().lower()
    for start, name in _TEXTS:
        if text.startswith(start):
            return name
    if text.startswith("<"):
        return _markup(text)
    for offset, magic, name in _BINARIES:
        if head.startswith(magic, offset):
            return name
    is_text = encoding == "utf-16" or not _CONTROLS.search(head)
    return "text/plain" if is_text else "application/octet-stream"


_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f\xff]")


def _markup(text: str) -> str:
    at = 0
    while prolog := _PROLOG.match(text, at):
        if prolog.group().lstrip().startswith("<!doctype html"):
            return "text/html"
        at = prolog.end()
    root = _ROOT.match(text, at)
    if root:
        return _ROOTS.get(root.group(1), "application/xml")
    return "image/svg+xml" if "<svg" in text else "application/xml"
