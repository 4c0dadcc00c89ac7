"""Ids nobody can guess, and filenames that can do no harm."""

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediagate.core.files import (
    FALLBACK_FILENAME,
    MAX_FILENAME_BYTES,
    BlobKey,
    Digest,
    FileId,
    FileObject,
    MediaKind,
    Purpose,
    new_blob_key,
    new_file_id,
    parse_file_id,
    sanitise_filename,
)
from mediagate.core.scopes import DEFAULT_SCOPE


def test_ten_thousand_ids_are_unique_and_uniform() -> None:
    """H24: each of the 32 places takes each of the 16 digits about equally often."""
    ids = [new_file_id() for _ in range(10_000)]

    assert len(set(ids)) == 10_000
    for place in range(5, 37):
        counts = Counter(file_id[place] for file_id in ids)
        # χ² with 15 degrees of freedom exceeds 80 once in 10^10.
        assert sum((counts[d] - 625) ** 2 / 625 for d in "0123456789abcdef") < 80


def test_blob_key_says_nothing_about_the_id() -> None:
    """P13's other half: who lists a directory learns no capability."""
    keys = {new_blob_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(re.fullmatch(r"[0-9a-f]{32}", key) for key in keys)


@given(st.from_regex(r"file-[0-9a-f]{32}", fullmatch=True))
def test_well_formed_id_is_itself(text: str) -> None:
    assert parse_file_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file-",
        "file-" + "0" * 31,
        "file-" + "0" * 33,
        "file-" + "A" * 32,
        "File-" + "0" * 32,
        " file-" + "0" * 32,
        "file-" + "0" * 32 + "\n",
        "file-" + "\u0660" * 32,
        "0" * 32,
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    """H95."""
    assert parse_file_id(text) is None


@given(st.text(max_size=400))
@example("ü" * 200)
@example("x" * 254 + "é")
def test_filename_is_harmless_whatever_was_sent(raw: str) -> None:
    """H18, H19: and sanitising twice changes nothing."""
    kept = sanitise_filename(raw)

    assert kept
    assert len(kept.encode()) <= MAX_FILENAME_BYTES
    assert not set(kept) & set("/\\\0\r\n")
    assert kept not in {".", ".."}
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in kept)
    assert sanitise_filename(kept) == kept


@pytest.mark.parametrize("raw", [None, "", ".", "..", "...", " ", "a/", "a\\", "\0", "\u202e"])
def test_nothing_left_is_the_fallback(raw: str | None) -> None:
    assert sanitise_filename(raw) == FALLBACK_FILENAME


@pytest.mark.parametrize(
    ("mime_type", "kind"),
    [
        ("image/png", MediaKind.IMAGE),
        ("audio/wav", MediaKind.AUDIO),
        ("video/mp4", MediaKind.VIDEO),
    ],
)
def test_kind_is_the_family_of_the_type(mime_type: str, kind: MediaKind) -> None:
    file = FileObject(
        id=FileId("file-" + "0" * 32),
        scope=DEFAULT_SCOPE,
        blob=BlobKey("0" * 32),
        filename="a",
        purpose=Purpose.VISION,
        mime_type=mime_type,
        size_bytes=1,
        digest=Digest("blake3:" + "0" * 64),
        created_at=0,
        last_used_at=0,
        expires_at=None,
        ttl_s=None,
    )

    assert file.kind is kind


def test_id_fits_every_dialect() -> None:
    """Contract part D: at most 40 characters, `[a-z0-9-]`."""
    assert re.fullmatch(r"[a-z0-9-]{1,40}", new_file_id())
