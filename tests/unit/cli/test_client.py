"""The client: what it sends, what it makes of answers, how it fails."""

import json
from collections.abc import Callable, Iterator

import httpx2
import pytest

from mediagate.cli.client import Client
from mediagate.cli.failure import CommandFailed

ID = "file-" + "0" * 32
Handler = Callable[[httpx2.Request], httpx2.Response]


def client_of(handler: Handler, *, server: str = "http://gate:1", key: str | None = None) -> Client:
    return Client(server=server, api_key=key, transport=httpx2.MockTransport(handler))


def answering(answer: httpx2.Response) -> Client:
    return client_of(lambda _request: answer)


def test_upload_streams_a_raw_body_of_declared_length() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        request.read()
        seen.append(request)
        return httpx2.Response(200, json={"id": ID})

    def chunks() -> Iterator[bytes]:
        yield b"abc"
        yield b"de"

    with client_of(handler, key="k") as client:
        uploaded = client.upload(chunks(), size=5, filename="a &ü.mp4", purpose="vision")

    assert uploaded == {"id": ID}
    assert seen[0].method == "PUT"
    assert seen[0].url.path == "/v1/files"
    assert dict(seen[0].url.params) == {"filename": "a &ü.mp4", "purpose": "vision"}
    assert seen[0].content == b"abcde"
    assert seen[0].headers["content-length"] == "5"
    assert "transfer-encoding" not in seen[0].headers
    assert seen[0].headers["authorization"] == "Bearer k"


def test_upload_of_unknown_length_is_chunked_and_unnamed() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        request.read()
        seen.append(request)
        return httpx2.Response(200, json={"id": ID})

    with client_of(handler) as client:
        client.upload(iter([b"abc"]), size=None, filename=None, purpose="vision")

    assert seen[0].headers["transfer-encoding"] == "chunked"
    assert "filename" not in seen[0].url.params
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize("server", ["http://gate:1", "http://gate:1/", "http://gate:1/v1/"])
def test_server_may_end_in_v1_or_not(server: str) -> None:
    urls: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(200, json={"id": ID})

    with client_of(handler, server=server) as client:
        client.file(ID)

    assert urls == [f"http://gate:1/v1/files/{ID}"]


@pytest.mark.parametrize("server", ["gate:1", "ftp://gate", "http://", ""])
def test_server_that_is_no_url_is_named(server: str) -> None:
    with pytest.raises(CommandFailed, match="--server: "):
        Client(server=server, api_key=None)


def test_key_that_no_header_carries_fails_without_being_shown() -> None:
    with pytest.raises(CommandFailed) as caught:
        Client(server="http://gate", api_key="sécret")

    assert "sécret" not in str(caught.value)


def test_hostile_id_stays_one_path_segment() -> None:
    paths: list[bytes] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.raw_path)
        return httpx2.Response(200, json={"id": ID})

    with client_of(handler) as client:
        client.file("../../health?x")
        client.file(f"vllm-file://{ID}")

    assert paths == [b"/v1/files/..%2F..%2Fhealth%3Fx", f"/v1/files/{ID}".encode()]


def test_listing_follows_pages_to_the_last() -> None:
    ids = [f"file-{number:032x}" for number in range(5)]
    cursors: list[str | None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("after")
        cursors.append(after)
        start = ids.index(after) + 1 if after else 0
        page = ids[start : start + 2]
        data = [{"id": each} for each in page]
        return httpx2.Response(200, json={"data": data, "has_more": page[-1] != ids[-1]})

    with client_of(handler) as client:
        listed = [file["id"] for file in client.files()]

    assert listed == ids
    assert cursors == [None, ids[1], ids[3]]


def test_listing_without_has_more_ends() -> None:
    with answering(httpx2.Response(200, json={"data": [{"id": ID}]})) as client:
        assert len(list(client.files())) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json=[1]),
        httpx2.Response(200, json={"data": 1}),
        httpx2.Response(200, json={"data": [1]}),
        httpx2.Response(200, json={"data": [{"id": 1}], "has_more": True}),
    ],
    ids=["html", "list", "number", "numbers", "id-number"],
)
def test_listing_that_is_none_fails_in_one_line(answer: httpx2.Response) -> None:
    with answering(answer) as client, pytest.raises(CommandFailed) as caught:
        list(client.files())

    assert "\n" not in str(caught.value)


def test_refusal_shows_the_servers_message_without_what_steers_a_terminal() -> None:
    error = {"error": {"message": "No\x1b[2J such\nfile.", "code": "file_not_found"}}

    with (
        answering(httpx2.Response(404, json=error)) as client,
        pytest.raises(CommandFailed) as caught,
    ):
        client.file(ID)

    assert str(caught.value) == "No[2J such file. (404)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}', b"\xff"])
def test_refusal_without_a_message_shows_its_status(body: bytes) -> None:
    with (
        answering(httpx2.Response(502, content=body)) as client,
        pytest.raises(CommandFailed, match=r"^HTTP 502$"),
    ):
        client.file(ID)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx2.ConnectError("internals"), "cannot connect to http://gate:1"),
        (httpx2.ReadTimeout("internals"), "did not answer in time"),
        (httpx2.ReadError("internals"), "broke"),
        (httpx2.RemoteProtocolError("internals"), "broke"),
        (httpx2.LocalProtocolError("internals"), "changed while it was read"),
    ],
)
def test_network_failures_are_told_in_our_words(error: Exception, said: str) -> None:
    def handler(_request: httpx2.Request) -> httpx2.Response:
        raise error

    with client_of(handler) as client, pytest.raises(CommandFailed, match=said) as caught:
        client.delete(ID)

    assert "internals" not in str(caught.value)


def stream_of(*events: object, done: bool = True) -> httpx2.Response:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    if done:
        texts.append("[DONE]")
    body = ": a comment\n\n" + "".join(f"data: {text}\n\n" for text in texts)
    return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})


def delta(content: str | None) -> object:
    return {"choices": [{"delta": {"content": content}}]}


def test_chat_yields_the_pieces_of_the_answer() -> None:
    answer = stream_of(delta(None), delta("a "), {"choices": []}, delta("b"), {"usage": {}})

    with answering(answer) as client:
        assert list(client.chat({"model": "m"})) == ["a ", "b"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (stream_of(delta("a"), done=False), "broke off"),
        (stream_of({"error": {"message": "The file does not decode."}}), "does not decode"),
        (stream_of("{"), "no JSON"),
        (stream_of("[1]"), "no object"),
        (httpx2.Response(200, json={"choices": []}), "broke off"),
    ],
    ids=["cut", "error", "half", "list", "unstreamed"],
)
def test_chat_that_goes_wrong_says_how(answer: httpx2.Response, said: str) -> None:
    with answering(answer) as client, pytest.raises(CommandFailed, match=said):
        list(client.chat({"model": "m"}))


def test_default_model_is_the_first_listed() -> None:
    with answering(httpx2.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]})) as client:
        assert client.first_model() == "a"

    with (
        answering(httpx2.Response(200, json={"data": []})) as client,
        pytest.raises(CommandFailed, match="--model"),
    ):
        client.first_model()
