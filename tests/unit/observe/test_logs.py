"""The access log: one line a request, and nothing in it that must not be."""

import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.events import ReceiveBegan, RequestEnded
from mediagate.observe.logs import log_access, mask_path, mask_target, mask_text

FILE_ID = "file-0123456789abcdef0123456789abcdef"
TOKEN = "0123456789" * 10


@pytest.mark.parametrize(
    ("path", "masked"),
    [
        ("/v1/files", "/v1/files"),
        (f"/v1/files/{FILE_ID}", "/v1/files/{id}"),
        (f"/v1/files/{FILE_ID}/content", "/v1/files/{id}/content"),
        ("/v1/files/anything at all/content", "/v1/files/{id}/content"),
        (f"/proxy/{FILE_ID}/x", "/proxy/{id}/x"),
        (f"/v1/media/{TOKEN}", "/v1/media/{id}"),
        (f"/x/mediagate-media:{FILE_ID[5:]}", "/x/{id}"),
        ("/v1/media/no-token", "/v1/media/{id}"),
        (f"/v1/medi%61/{TOKEN}", "/v1/medi%61/{id}"),
        (f"/v1//files/{FILE_ID}", "/v1//files/{id}"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/a\nb\x1b[2Jc", "/a?b?[2Jc"),
        ("/ü", "/?"),
    ],
)
def test_ids_and_control_characters_are_masked(path: str, masked: str) -> None:
    """P13."""
    assert mask_path(path) == masked


@pytest.mark.parametrize(
    "disguised",
    [
        FILE_ID.upper(),
        quote(FILE_ID).replace("-", "%2D"),
        "%66" + FILE_ID[1:],
        "%2566" + FILE_ID[1:],
        "".join(f"%{ord(c):02x}" for c in FILE_ID),
        "a%2F" + FILE_ID,
        "%252566" + FILE_ID[1:],
        f"file-{'0' * 32}/%66" + FILE_ID[1:],
    ],
)
def test_id_in_disguise_is_masked(disguised: str) -> None:
    """P13: an upstream may decode what we do not."""
    masked = mask_path(f"/x/{disguised}")

    assert FILE_ID[10:] not in masked.lower()
    assert disguised not in masked


@pytest.mark.parametrize(
    ("target", "masked"),
    [
        ("/v1/files", "/v1/files"),
        (f"/v1/files/{FILE_ID}/content", "/v1/files/{id}/content"),
        (f"/v1/files?after={FILE_ID}", "/v1/files?{query}"),
        ("/v1/files?filename=a.mp4?b", "/v1/files?{query}"),
        ("/x?", "/x?{query}"),
    ],
)
def test_query_is_masked(target: str, masked: str) -> None:
    """P13: filenames and tenants may stand there."""
    assert mask_target(target) == masked


def test_ids_in_any_text_are_masked() -> None:
    """P13."""
    text = f'{{"url": "vllm-file://{FILE_ID}"}} and {FILE_ID.upper()}, not file-1'

    assert mask_text(text) == '{"url": "vllm-file://{id}"} and {id}, not file-1'


@given(st.text(max_size=2000))
def test_line_stays_one_short_line(path: str) -> None:
    masked = mask_path("/" + path)

    assert len(masked) <= 200
    assert masked.isascii()
    assert masked.isprintable()


def test_line_says_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mediagate.access"):
        log_access(ReceiveBegan())
        log_access(
            RequestEnded(
                request_id="req_1",
                method="POST\r\nX",
                raw_path=f"/v1/files/{FILE_ID}",
                status=200,
                received_bytes=5,
                sent_bytes=7,
                elapsed_s=0.0123,
            )
        )

    (record,) = caplog.records
    assert record.getMessage() == "POST??X /v1/files/{id} 200 in=5 out=7 12.3ms id=req_1"
