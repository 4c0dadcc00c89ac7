"""Our values ↔ OpenAI's JSON: every required key, and what clients may send."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediagate.core.errors import InvalidValue
from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.scopes import Scope
from mediagate.index.driver import Order, Page
from mediagate.web import wire

FILE = FileObject(
    id=FileId("file-" + "1" * 32),
    scope=Scope("tenant"),
    blob=BlobKey("2" * 32),
    filename="ü.png",
    purpose=Purpose.VISION,
    mime_type="image/png",
    size_bytes=67,
    digest=Digest("blake3:" + "3" * 64),
    created_at=1000,
    last_used_at=1234.5,
    expires_at=4834.5,
    ttl_s=3600,
)


def test_file_has_every_key_and_no_secret() -> None:
    """H32: neither scope nor blob nor digest leave the server."""
    assert wire.file_json(FILE) == {
        "id": FILE.id,
        "object": "file",
        "bytes": 67,
        "created_at": 1000,
        "filename": "ü.png",
        "purpose": "vision",
        "status": "processed",
        "mime_type": "image/png",
        "expires_at": 4834,
    }


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (Page((), has_more=False), (None, None, False)),
        (Page((FILE,), has_more=True), (FILE.id, FILE.id, True)),
    ],
)
def test_page_has_every_key(page: Page, expected: tuple[str | None, str | None, bool]) -> None:
    """H40."""
    body = wire.page_json(page)

    assert body["object"] == "list"
    assert [file["id"] for file in body["data"]] == [file.id for file in page.files]
    assert (body["first_id"], body["last_id"], body["has_more"]) == expected


@given(st.integers(1, 10_000))
def test_every_limit_in_range_is_taken(limit: int) -> None:
    """H41."""
    assert wire.parse_limit(str(limit)) == limit


@given(st.text() | st.integers().map(str))
@example("\u0663")
@example("\u00b2")
@example("9" * 5000)
def test_any_other_limit_is_refused(text: str) -> None:
    """H41: never with an error of another kind."""
    if text == "10000" or re.fullmatch(r"0*[1-9][0-9]{0,3}", text, re.ASCII):
        return
    with pytest.raises(InvalidValue) as caught:
        wire.parse_limit(text)

    assert caught.value.param == "limit"


def test_absent_parameters_have_openais_defaults() -> None:
    """H6."""
    assert wire.parse_limit(None) == 10_000
    assert wire.parse_order(None) is Order.DESC
    assert wire.parse_purpose(None) is Purpose.USER_DATA
    assert wire.parse_expires_after(None, None, max_seconds=10) is None


@pytest.mark.parametrize("text", ["", "DESC", "up", "asc "])
def test_bad_order_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        wire.parse_order(text)

    assert caught.value.param == "order"


@pytest.mark.parametrize("text", ["", "batch", "Vision", "user_data "])
def test_unknown_purpose_is_refused_with_the_known_ones(text: str) -> None:
    """H5."""
    with pytest.raises(InvalidValue, match="user_data, vision") as caught:
        wire.parse_purpose(text)

    assert caught.value.param == "purpose"


def test_who_comes_for_a_batch_api_is_told_what_hides_it() -> None:
    """H101: an upstream's own routes on the path are behind ours."""
    with pytest.raises(InvalidValue) as caught:
        wire.parse_purpose("batch")

    assert "batch API" in str(caught.value)
    assert "--enable-file-uploads" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "max_seconds", "granted"),
    [(3600, None, 3600), (2_592_000, None, 2_592_000), (7200, 5000, 5000), (3600, 60, 60)],
)
def test_expires_after_is_fixed_and_clamped(
    seconds: int, max_seconds: float | None, granted: float
) -> None:
    """H25, H27."""
    lifetime = wire.parse_expires_after("created_at", str(seconds), max_seconds=max_seconds)

    assert lifetime is not None
    assert (lifetime.seconds, lifetime.is_sliding) == (granted, False)


@given(anchor=st.none() | st.text(max_size=12), seconds=st.none() | st.text(max_size=12))
def test_any_other_expires_after_is_refused(anchor: str | None, seconds: str | None) -> None:
    """H26."""
    if anchor is None and seconds is None:
        return
    with pytest.raises(InvalidValue) as caught:
        wire.parse_expires_after(anchor, seconds, max_seconds=None)

    assert caught.value.param == "expires_after"
