from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.errors import BodyTooLarge, MalformedBody
from mediagate.dialects import anthropic_messages, openai_chat, openai_responses
from mediagate.dialects.fields import Dialect, Judge
from mediagate.gateway.media_endpoints import (
    body_too_large,
    check_encoding,
    form_conversation,
    media_dialect,
)

CHAT, RESPONSES, MESSAGES = openai_chat.find, openai_responses.find, anthropic_messages.find

ENDPOINTS = {
    b"/v1/chat/completions": CHAT,
    b"/chat/completions": CHAT,
    b"/v1/chat/completions/batch": CHAT,
    b"/v1/chat/completions/render": CHAT,
    b"/root/v1/chat/completions": CHAT,
    b"/api/chat": CHAT,
    b"/cohere/v2/chat": CHAT,
    b"/v1/responses": RESPONSES,
    b"/responses": RESPONSES,
    b"/v1/responses/render": RESPONSES,
    b"/v1/responses/input_tokens": RESPONSES,
    b"/v1/messages": MESSAGES,
    b"/v1/messages/count_tokens": MESSAGES,
    b"/v1/messages/render": MESSAGES,
    b"/v1/messages/batches": MESSAGES,
    b"/v1/completions": CHAT,
    b"/v1/completions/render": CHAT,
    b"/completion": CHAT,
    b"/infill": CHAT,
    b"/apply-template": CHAT,
    b"/generate": CHAT,
    b"/generate_stream": CHAT,
    b"/api/generate": CHAT,
    b"/inference/v1/generate": CHAT,
    b"/vertex_generate": CHAT,
    b"/generative_scoring": CHAT,
    b"/v1/embeddings": CHAT,
    b"/embedding": CHAT,
    b"/v2/embed": CHAT,
    b"/api/embed": CHAT,
    b"/encode": CHAT,
    b"/v1/encode": CHAT,
    b"/pooling": CHAT,
    b"/classify": CHAT,
    b"/v1/classify": CHAT,
    b"/score": CHAT,
    b"/v1/score": CHAT,
    b"/rerank": CHAT,
    b"/v2/rerank": CHAT,
    b"/reranking": CHAT,
    b"/tokenize": CHAT,
    b"/v1/tokenize": CHAT,
    b"/v1/decisions": CHAT,
    b"/v1/systemone": CHAT,
    b"/invocations": CHAT,
}

DISGUISED = [
    b"/v1/chat/completions/",
    b"/v1/chat/completions//",
    b"//v1//chat///completions",
    b"/v1/./chat/completions",
    b"/v1/x/../chat/completions",
    b"/../../v1/chat/completions",
    b"/v1/chat/completions/.",
    b"/v1/chat/completions/x/..",
    b"/V1/Chat/COMPLETIONS",
    b"/v1/%63hat/completions",
    b"/v1/%2563hat/completions",
    b"/v1/%252563hat/completions",
    b"/v1%2Fchat%2fcompletions",
    b"/v1%252fchat/completions",
    b"/v1/x/%2e%2e/chat/completions",
    b"/v1/x/%252e%252e/chat/completions",
    b"/v1/x%2f..%2fchat/completions",
    b"/v1;a=b/chat;c/completions;d=e",
    b"/v1/x/..;/chat/completions",
    b"/v1/chat/completions%3Bx",
    b"/v1/chat/completions?x=1",
    b"/v1/chat/completions%3Fx=1",
    b"/v1/chat/completions#x",
    b"/v1/chat/completions%23x",
    b"/v1/chat/completions%00",
    b"/v1/chat/completions%00.png",
    b"/x#/../v1/chat/completions",
    b"/x%3F/../v1/chat/completions",
    b"/x%23/../v1/chat/completions",
    b"/x%00/../v1/chat/completions",
    b"/v1\\chat\\completions",
    b"/v1%5Cchat%5ccompletions",
    b"/v1/chat/completions%20",
    b"/v1/%09chat/comp%0Aletions",
    b"v1/chat/completions",
    b"http://host/v1/chat/completions",
    "/v1/chat/completion\u017f".encode(),
]


@pytest.mark.parametrize("method", ["POST", "post", "PUT", "PATCH", "DELETE", "QUERY", "X"])
@pytest.mark.parametrize("path", DISGUISED)
def test_a_chat_request_is_read_however_it_is_spelt(method: str, path: bytes) -> None:
    assert media_dialect(method, path) is CHAT


@pytest.mark.parametrize(("path", "dialect"), ENDPOINTS.items())
def test_every_endpoint_that_takes_media_is_read(path: bytes, dialect: Dialect) -> None:
    assert media_dialect("POST", path) is dialect
    assert media_dialect("PUT", path + b"/") is dialect


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "get"])
def test_a_method_without_a_body_is_not_read(method: str) -> None:
    assert media_dialect(method, b"/v1/chat/completions") is None


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/v1/models",
        b"/v1/files",
        b"/v1/uploads",
        b"/v1/batches",
        b"/v1/chatcompletions",
        b"/v1/chat-completions",
        b"/v1/audio/transcriptions",
        b"/v1/audio/speech",
        b"/v1/images/generations",
        b"/v1/load_lora_adapter",
        b"/detokenize",
        b"/reset_mm_cache",
        b"/metrics?x=/v1/chat/completions",
        b"/v1/x\xffchat/completion\xff",
    ],
)
def test_other_requests_pass_unread(path: bytes) -> None:
    assert media_dialect("POST", path) is None


@st.composite
def disguises(draw: st.DrawFn) -> tuple[bytes, Dialect]:
    """A media endpoint as a client may spell it, so that some server still understands it; and how it is read."""
    detours = st.sampled_from(["", "./", "/", "x/../", "a/b/../../", "y;z/../"])
    endings = st.sampled_from(["", ";", ";a=b"])
    path = ""
    endpoint, dialect = draw(st.sampled_from(list(ENDPOINTS.items())))
    for segment in endpoint.decode().strip("/").split("/"):
        path += "/" + draw(detours) + segment + draw(endings)
    path = _mixed(path + draw(st.sampled_from(["", "/", "/.", "//"])), draw(MASKS), str.upper)
    for mask in draw(st.lists(MASKS, max_size=3)):
        path = _mixed(path, mask, lambda c: f"%{ord(c):02x}", always="%")
    return (path + draw(st.sampled_from(["", "?q=1", "#f"]))).encode(), dialect


MASKS = st.integers(0, 2**64 - 1)


def _mixed(text: str, mask: int, change: Callable[[str], str], *, always: str = "") -> str:
    """`text` with those characters changed whose bit is set in `mask`."""
    return "".join(
        change(c) if c in always or mask >> i % 64 & 1 else c for i, c in enumerate(text)
    )


@given(disguises())
def test_no_disguise_hides_a_media_endpoint(disguised: tuple[bytes, Dialect]) -> None:
    path, dialect = disguised

    assert media_dialect("POST", path) is dialect


@given(st.binary(), st.text())
def test_any_path_and_method_is_judged(path: bytes, method: str) -> None:
    assert media_dialect(method, path) in {None, CHAT, RESPONSES, MESSAGES}


def test_endless_encoding_costs_no_endless_work() -> None:
    assert media_dialect("POST", b"/%" + b"25" * 20 + b"41") is None
    assert media_dialect("POST", b"/" + b"%25" * 100_000) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-encoding", b"gzip")],
        [(b"Content-Encoding", b"DEFLATE")],
        [(b"content-encoding", b"identity, br")],
        [(b"content-encoding", b"identity"), (b"content-encoding", b"zstd")],
        [(b"content-encoding", b"x")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"Content-Type", b'application/json;CHARSET = "UTF-7"')],
        [(b"content-type", b"application/json; charset*=utf-8''utf-7")],
        [(b"content-type", b"text/x;charset=utf-8"), (b"content-type", b"text/x;charset=utf-7")],
        [(b"content-type", b"text/x;charset=utf-8;charset=utf-7")],
    ],
)
def test_a_body_that_others_would_read_differently_is_refused(
    headers: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(MalformedBody):
        check_encoding(headers)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-encoding", b"identity"), (b"content-length", b"5")],
        [(b"content-encoding", b"")],
        [(b"content-type", b"application/json")],
        [(b"content-type", b"application/json; charset=UTF-8")],
        [(b"content-type", b'text/plain; charset="utf-8"')],
        [(b"content-type", b"image/png"), (b"content-type", b"nonsense")],
        [(b"accept-encoding", b"gzip"), (b"accept-charset", b"utf-16")],
    ],
)
def test_plain_json_is_read_whatever_it_is_called(headers: list[tuple[bytes, bytes]]) -> None:
    check_encoding(headers)


def test_a_body_over_the_limit_is_told_what_to_do_instead() -> None:
    error = body_too_large(64 * 1024**2)

    assert isinstance(error, BodyTooLarge)
    assert "67108864 bytes" in error.message
    assert "POST /v1/files" in error.message


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/responses"])
def test_engine_that_guards_itself_takes_forms_at_its_own_paths(path: bytes) -> None:
    assert form_conversation(path, judge=Judge.ENGINE) is form_conversation(path) is not None


@pytest.mark.parametrize(
    "path", [*DISGUISED, b"/chat/completions", b"/root/v1/responses", b"/v1/responses/"]
)
def test_engine_that_guards_itself_takes_forms_nowhere_else(path: bytes) -> None:
    """Paths that it does not know it lets pass without a key: files must not get into the store there."""
    assert form_conversation(path, judge=Judge.ENGINE) is None
