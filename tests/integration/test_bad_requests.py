"""Requests that must be refused before anything is done: framing, headers, paths, JSON, references."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import corpus
import servers
from servers import RawClient, Server

pytestmark = pytest.mark.media

PNG = corpus.png_pixel()
CHAT = "/v1/chat/completions"
UNKNOWN = "file-" + "0" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.serving("--max-json-mb", "1", store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server) -> Iterator[Server]:
    """However bad a request was, the next one is answered and nothing is left."""
    yield shared
    assert servers.get(shared, "/ready").status == 200
    servers.empty(shared)
    assert "Traceback" not in shared.log()


# heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"x" * 1_000_000,
        b"\r\n".join(b"X-%d: y" % n for n in range(80_000)),
        b"X" * 1_000_000 + b": y",
    ],
    ids=["one line", "many lines", "name"],
)
def test_header_of_a_megabyte_is_431(gateway: Server, head: bytes) -> None:
    """The issue: a 1 MB header."""
    with RawClient(gateway) as client:
        client.send_while_taken(b"GET /v1/files HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")

        answer = client.read_answer()

    assert answer.code == (431, "headers_too_large")
    assert answer.header("connection") == "close"


def test_request_line_of_a_megabyte_is_refused(gateway: Server) -> None:
    with RawClient(gateway) as client:
        client.send_while_taken(b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")

        assert client.read_answer().code == (431, "headers_too_large")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 67", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 67"),
        ("Content-Length: 67", "Content-Length: 68"),
        ("Content-Length: +67",),
        ("Content-Length: 6 7",),
        ("Content-Length: 67, 67",),
        ("Content-Length: 0x43",),
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length : 67",),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Host: other", "Content-Length: 67"),
    ],
)
def test_ambiguous_framing_is_refused_and_the_connection_ends(
    gateway: Server, lines: tuple[str, ...]
) -> None:
    """The issue: CL and TE together, and the other ways to be read in two ways."""
    with RawClient(gateway) as client:
        client.send_head("PUT", "/v1/files", *lines)
        with contextlib.suppress(ConnectionError):
            client.send(PNG + b"GET /v1/files HTTP/1.1\r\nHost: x\r\n\r\n")

        answer = client.read_answer()
        rest = b""
        with contextlib.suppress(ConnectionResetError):
            rest = client.read_rest()

    assert answer.status in {400, 501}
    assert answer.error["type"] in {"invalid_request_error", "server_error"}
    assert answer.header("connection") == "close"
    assert rest == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    ],
)
def test_what_is_no_request_is_a_400_in_json(gateway: Server, raw: bytes) -> None:
    """H92."""
    with RawClient(gateway) as client:
        client.send(raw)

        assert client.read_answer().code == (400, "malformed_body")


# paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/v1/filesx",
        "/v1/files//",
        "/v1//files",
        "/v1/files/a/b",
        "/v1/files/a/content/b",
        "/v1/files/../../etc/passwd",
        "/V1/FILES",
    ],
)
def test_unknown_path_is_404(gateway: Server, target: str) -> None:
    """H92."""
    answer = servers.get(gateway, target)

    assert answer.status == 404
    assert answer.error["code"] in {"route_not_found", "file_not_found"}


@pytest.mark.parametrize(
    "file_id",
    ["..%2F..%2Findex.sqlite3", "%2e%2e%2f.mediagate-store", "a%00b", UNKNOWN + "%2F..%2Fx", "%2F"],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_hostile_id_touches_nothing(gateway: Server, file_id: str, method: str) -> None:
    """H95."""
    kept = servers.upload(gateway, PNG)

    for suffix in ("", "/content") if method == "GET" else ("",):
        answer = servers.request(gateway, method, f"/v1/files/{file_id}{suffix}")
        assert answer.code == (404, "file_not_found")

    assert (gateway.store / "index.sqlite3").exists()
    assert (gateway.store / ".mediagate-store").exists()
    assert servers.list_ids(gateway) == [kept["id"]]


def test_query_of_very_many_fields_is_refused(gateway: Server) -> None:
    query = "&".join(f"a{n}=1" for n in range(101))

    assert servers.get(gateway, f"/v1/files?{query}").code == (400, "invalid_value")
    assert servers.put_file(gateway, PNG, **{f"a{n}": "1" for n in range(101)}).code == (
        400,
        "invalid_value",
    )


def test_raw_bytes_in_a_path_or_query_are_answered(gateway: Server) -> None:
    with RawClient(gateway) as client:
        client.send(b"GET /v1/files?after=\xc3\xbc\xff HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer().status == 400


# JSON ----------------------------------------------------------------------------------------------------


def one_part(part: object) -> dict[str, Any]:
    return {"model": "mediagate-inspector", "messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"{",
        b'{"messages": []} x',
        b"{'messages': []}",
        b'{"messages": [], "messages": []}',
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
        b'{"messages": [], "\\u006dessages": []}',
        json.dumps(one_part({"type": "text", "text": "x"})).encode("utf-16"),
        json.dumps(one_part({"type": "text", "text": "x"})).encode("utf-16-le"),
        json.dumps(one_part({"type": "text", "text": "x"})).encode("utf-32"),
        b"\xef\xbb\xbf" + json.dumps(one_part({"type": "text", "text": "x"})).encode(),
        b'{"messages": "\xff\xfe"}',
        b'{"a": NaN, "messages": []}',
        b"[" * 100_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_not_one_json_object_is_refused(gateway: Server, body: bytes) -> None:
    """The issue: JSON that is not an object, duplicate keys, UTF-16."""
    assert servers.post_json(gateway, CHAT, body).code == (400, "malformed_body")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json; charset=utf-7"},
    ],
)
def test_body_in_another_encoding_is_refused(gateway: Server, headers: dict[str, str]) -> None:
    body = json.dumps(one_part({"type": "text", "text": "x"}))

    answer = servers.request(gateway, "POST", CHAT, body, headers=headers)

    assert answer.code == (400, "malformed_body")


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_json_over_the_limit_says_how_to_upload_instead(gateway: Server, framing: str) -> None:
    data = json.dumps(one_part({"type": "text", "text": "x" * 1024**2})).encode()
    with RawClient(gateway) as client:
        if framing == "length":
            client.send_head("POST", CHAT, f"Content-Length: {len(data)}")
        else:
            client.send_head("POST", CHAT, "Transfer-Encoding: chunked")
            client.send_while_taken(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

        answer = client.read_answer()

    assert answer.code == (413, "body_too_large")
    assert "/v1/files" in answer.error["message"]


# references ----------------------------------------------------------------------------------------------

MALFORMED = [
    "file-",
    "file-0",
    "file-" + "A" * 32,
    "file-" + "0" * 31,
    "file-" + "0" * 33,
    UNKNOWN + "\n",
    " " + UNKNOWN,
    UNKNOWN + "/../x",
    "FILE-" + "0" * 32,
    "vllm-file://",
    "vllm-file://x",
    "vllm-file:" + UNKNOWN,
    "vllm-file:///" + UNKNOWN,
    "vllm-file://" + "0" * 32,
    "VLLM-FILE://" + UNKNOWN,
    "vllm-file://vllm-file://" + UNKNOWN,
]


@pytest.mark.parametrize("url", MALFORMED)
def test_malformed_reference_is_a_400_that_names_its_place(gateway: Server, url: str) -> None:
    """H77."""
    for key in ("image_url", "video_url", "audio_url"):
        answer = servers.chat(gateway, {"type": key, key: {"url": url}})

        assert answer.code == (400, "invalid_reference")
        assert answer.error["param"] == f"messages[0].content[1].{key}.url"
    answer = servers.chat(gateway, {"type": "file", "file": {"file_id": url}})
    assert answer.code == (400, "invalid_reference")
    assert answer.error["param"] == "messages[0].content[1].file.file_id"


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "etc/passwd.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://127.0.0.1/x",
        "blob.png",
        "",
        "mediagate-media:" + "0" * 32,
        "data:image/png,plain",
        "javascript:alert(1)",
    ],
)
@pytest.mark.parametrize("key", ["image_url", "video_url", "audio_url"])
def test_path_or_other_scheme_is_refused(gateway: Server, url: str, key: str) -> None:
    """Part 7: client paths never reach the upstream."""
    answer = servers.chat(gateway, {"type": key, key: {"url": url}})

    assert answer.code == (400, "media_source_not_allowed")
    assert answer.error["param"] == f"messages[0].content[1].{key}.url"


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "text", "text": "x", "file_id": UNKNOWN}, "file_id"),
        ({"type": "text", "text": "x", "extra": {"file_id": UNKNOWN}}, "extra.file_id"),
        ({"type": "x", "deep": [{"image_url": {"url": UNKNOWN}}]}, "deep[0].image_url.url"),
        ({"type": "x", "anything": "vllm-file://" + UNKNOWN}, "anything"),
        ({"type": "file", "file": {"file_id": UNKNOWN, "file_data": "x"}}, "file"),
        ({"type": "file", "file": {}}, "file"),
        ({"type": "file", "file": UNKNOWN}, "file"),
        ({"type": "file", "file": {"file_id": 7}}, "file.file_id"),
        ({"type": "file", "file": {"file_id": None}}, "file"),
        ({"type": "file", "file": {"file_id": [UNKNOWN]}}, "file.file_id"),
        ({"type": "image_url", "image_url": {"path": UNKNOWN}}, "image_url.path"),
        ({"type": "image_url", "Image_URL": {"url": UNKNOWN}}, "Image_URL.url"),
    ],
)
def test_reference_at_an_unexpected_place_is_refused(
    gateway: Server, part: dict[str, Any], place: str
) -> None:
    """The issue: refused, never passed on unresolved."""
    answer = servers.chat(gateway, part)

    assert answer.code == (400, "invalid_reference")
    assert answer.error["param"] == f"messages[0].content[1].{place}"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/%63hat/completions",
        "/V1/Chat/Completions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions;x=1",
        "/chat/completions",
        "/v1/chat/completions/batch",
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_wall_stands_on_every_spelling_of_the_path(
    gateway: Server, target: str, content_type: str
) -> None:
    body = json.dumps(one_part({"type": "image_url", "image_url": {"url": "/etc/passwd"}}))

    answer = servers.request(
        gateway,
        "POST",
        target,
        body,
        headers={"content-type": content_type} if content_type else {},
    )

    assert answer.code == (400, "media_source_not_allowed")


def test_two_keys_of_one_meaning_are_refused(gateway: Server) -> None:
    """The issue: duplicate keys."""
    for body in (
        '{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA",'
        '"url":"/etc/passwd"}}]}]}',
        '{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"/etc/passwd"},'
        '"image_url":{"url":"data:image/png;base64,AAAA"}}]}]}',
    ):
        assert servers.post_json(gateway, CHAT, body.encode()).code == (400, "malformed_body")


def test_errors_quote_nothing_of_a_library_or_of_this_machine(gateway: Server) -> None:
    """P13's other half: no library's text, no path."""
    answers = [
        servers.post_json(gateway, CHAT, b"{"),
        servers.post_form(gateway, b"nonsense"),
        servers.get(gateway, "/v1/files/x"),
        servers.put_file(gateway, b"%PDF-1.7" + bytes(100)),
    ]

    for answer in answers:
        message = answer.error["message"]
        for word in ("Traceback", "Error", "python", "sqlite", str(gateway.store), "Expecting"):
            assert word not in message
