"""Delivery by URL: a real upstream fetches what it was given while it answers, and nobody can any more afterwards."""

import asyncio
import base64
import contextlib
import io
import json
import random
import re
import wave
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import corpus
import servers
from mediagate.testing.upstream import SSE_HEAD, Received
from servers import Answer, RawClient, Server
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
PNG = corpus.png_pixel()
MIB = 1024**2
UNKNOWN = "file-" + "0" * 32

_TOKEN = "[0-9a-f]{100}"  # noqa: S105 - a pattern

Work = Callable[[list[str]], Awaitable[None]]


class FetchingUpstream(ThreadedUpstream):
    """It answers a chat once `work` is done with the media URLs of the request, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.server.handlers[CHAT] = self._answer
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.server.received.clear()
        self.urls: list[str] = []
        self.fetched: list[Answer] = []
        self.work: Work = self.fetch_all

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        body = json.loads(request.body)
        self.urls = [part[part["type"]]["url"] for part in body["messages"][0]["content"]]
        if body.get("stream"):
            await request.write(SSE_HEAD)
            await request.write_event("1")
            await self.work(self.urls)
            await request.write_event("2")
            await request.write(b"0\r\n\r\n")
        else:
            await self.work(self.urls)
            await request.answer(b'{"ok":true}', headers=b"content-type: application/json\r\n")

    async def fetch_all(self, urls: list[str]) -> None:
        for url in urls:
            self.fetched.append(await asyncio.to_thread(fetch, url))


def fetch(url: str, method: str = "GET", **headers: str) -> Answer:
    """As an inference server does it: an HTTP client that knows the URL and nothing else."""
    host, port, path = address_of(url)
    return servers.request_at(host, port, method, path, headers=headers)


def address_of(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    assert parts.scheme == "http"
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port, parts.path


@pytest.fixture(scope="module")
def upstream() -> Iterator[FetchingUpstream]:
    with FetchingUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def shared(
    upstream: FetchingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ("--upstream", upstream.server.url, "--engine", "openai", "--delivery", "url")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server, upstream: FetchingUpstream) -> Iterator[Server]:
    upstream.forget()
    yield shared
    servers.empty(shared)
    assert "Traceback" not in shared.log()


def image(file_id: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": file_id}}


def ask(server: Server, *parts: dict[str, Any], **fields: Any) -> tuple[bytes, Answer]:
    """The body as it was sent, and the answer."""
    body = {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **fields}
    raw = json.dumps(body, separators=(",", ":")).encode()
    return raw, servers.post_json(server, CHAT, raw)


def gone(url: str) -> bool:
    """Whether it leads nowhere: the answer is that to a token that never was one, byte for byte."""
    answer = fetch(url)
    if answer.status != 404:
        return False
    host, port, _ = address_of(url)
    unknown = servers.request_at(host, port, "GET", f"/v1/media/{'0' * 100}")
    return answer.code == (404, "file_not_found") and answer.body == unknown.body


# what the upstream gets ----------------------------------------------------------------------------------


def test_upstream_gets_a_url_and_nothing_else_changes(
    gateway: Server, upstream: FetchingUpstream
) -> None:
    file_id = servers.upload(gateway, PNG)["id"]

    sent, answer = ask(gateway, image(f"vllm-file://{file_id}"), temperature=0.5)

    assert (answer.status, answer.body) == (200, b'{"ok":true}')
    (received,) = upstream.server.received
    (url,) = upstream.urls
    assert re.fullmatch(re.escape(gateway.url) + f"/v1/media/{_TOKEN}", url)
    assert received.body == sent.replace(f"vllm-file://{file_id}".encode(), url.encode())
    assert received.values("content-length") == [str(len(received.body))]
    assert [fetched.body for fetched in upstream.fetched] == [PNG]


def test_url_answers_as_often_as_it_is_asked_while_the_request_runs(
    gateway: Server, upstream: FetchingUpstream
) -> None:
    """HEAD, ranges and repeats: engines ask for the size first, read piece by piece, and try again."""
    file = servers.upload(gateway, PNG)
    answers: dict[str, Answer] = {}

    async def work(urls: list[str]) -> None:
        (url,) = urls
        for name, method, headers in (
            ("head", "HEAD", {}),
            ("whole", "GET", {}),
            ("part", "GET", {"Range": "bytes=1-3"}),
            ("end", "GET", {"Range": "bytes=-4"}),
            ("behind", "GET", {"Range": "bytes=100000-"}),
            ("post", "POST", {}),
            ("again", "GET", {}),
        ):
            answers[name] = await asyncio.to_thread(fetch, url, method, **headers)

    upstream.work = work
    _, answer = ask(gateway, image(file["id"]))

    assert answer.status == 200
    for name, status, body in (
        ("head", 200, b""),
        ("whole", 200, PNG),
        ("part", 206, PNG[1:4]),
        ("end", 206, PNG[-4:]),
        ("again", 200, PNG),
    ):
        found = answers[name]
        assert (name, found.status, found.body) == (name, status, body)
        assert found.header("content-type") == "image/png"
        assert found.header("x-content-type-options") == "nosniff"
        assert found.header("cache-control") == "private, no-store"
        assert found.header("accept-ranges") == "bytes"
        assert file["filename"] not in str(found.headers)
    assert answers["head"].header("content-length") == str(len(PNG))
    assert answers["part"].header("content-range") == f"bytes 1-3/{len(PNG)}"
    assert answers["behind"].code == (416, "range_not_satisfiable")
    assert answers["post"].code == (405, "method_not_allowed")


def test_every_file_has_a_url_of_its_own(gateway: Server, upstream: FetchingUpstream) -> None:
    """H80: the same one for the same file."""
    blobs = [PNG + bytes([n]) for n in range(5)]
    ids = [servers.upload(gateway, blob)["id"] for blob in blobs]

    _, answer = ask(gateway, *map(image, [*ids, ids[0]]))

    assert answer.status == 200
    assert [fetched.body for fetched in upstream.fetched] == [*blobs, blobs[0]]
    assert len(set(upstream.urls)) == len(ids)
    assert upstream.urls[0] == upstream.urls[-1]


def test_bare_base64_stays_inline(gateway: Server, upstream: FetchingUpstream) -> None:
    """Where a format takes bytes and no URL, a URL would be taken for bytes."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", ""))
        writer.writeframes(bytes(1600))
    file_id = servers.upload(gateway, sound.getvalue(), filename="a.wav")["id"]
    received: list[Any] = []

    async def echo(request: Received) -> None:
        await request.read_body()
        received.append(json.loads(request.body)["messages"][0]["content"][0])
        await request.answer(b"{}")

    upstream.server.handlers["/root" + CHAT] = echo
    part = {"type": "input_audio", "input_audio": {"data": file_id, "format": "wav"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}

    answer = servers.post_json(gateway, "/root" + CHAT, body)

    assert answer.status == 200
    data = received[0]["input_audio"]["data"]
    assert base64.b64decode(data, validate=True) == sound.getvalue()


# when it ends ------------------------------------------------------------------------------------------


def test_url_is_dead_when_the_answer_has_ended(gateway: Server, upstream: FetchingUpstream) -> None:
    file_id = servers.upload(gateway, PNG)["id"]

    ask(gateway, image(file_id))

    (url,) = upstream.urls
    assert [fetched.status for fetched in upstream.fetched] == [200]
    assert servers.until(lambda: gone(url), timeout_s=10)
    assert fetch(url).body == servers.get(gateway, f"/v1/files/{UNKNOWN}/content").body
    assert fetch(url, "HEAD").status == 404
    assert fetch(url, Range="bytes=0-3").status == 404
    assert servers.get(gateway, f"/v1/files/{file_id}/content").body == PNG


def test_url_lives_for_as_long_as_the_stream(gateway: Server, upstream: FetchingUpstream) -> None:
    file_id = servers.upload(gateway, PNG)["id"]

    _, answer = ask(gateway, image(file_id), stream=True)

    assert answer.body == b"data: 1\n\ndata: 2\n\n"
    assert [fetched.body for fetched in upstream.fetched] == [PNG]
    assert servers.until(lambda: gone(upstream.urls[0]), timeout_s=10)


def test_the_next_request_gets_another_url(gateway: Server, upstream: FetchingUpstream) -> None:
    file_id = servers.upload(gateway, PNG)["id"]
    ask(gateway, image(file_id))
    (first,) = upstream.urls
    replayed: list[Answer] = []

    async def replay(urls: list[str]) -> None:
        replayed.extend([await asyncio.to_thread(fetch, url) for url in (first, *urls)])

    upstream.work = replay
    ask(gateway, image(file_id))

    assert upstream.urls != [first]
    assert [answer.status for answer in replayed] == [404, 200]


def test_url_is_dead_when_the_client_has_left(gateway: Server, upstream: FetchingUpstream) -> None:
    file_id = servers.upload(gateway, PNG)["id"]
    seen: list[str] = []

    async def wait_for_the_end(urls: list[str]) -> None:
        seen.extend(urls)
        while not all([await asyncio.to_thread(gone, url) for url in urls]):
            await asyncio.sleep(0.01)

    upstream.work = wait_for_the_end
    raw = json.dumps({"messages": [{"role": "user", "content": [image(file_id)]}]})
    with RawClient(gateway) as client:
        client.send_head("POST", CHAT, f"Content-Length: {len(raw)}")
        client.send(raw.encode())
        servers.until(lambda: seen)
        assert fetch(seen[0]).status == 200

    assert servers.until(lambda: gone(seen[0]), timeout_s=10)
    servers.until(lambda: gateway.leases() == 0, timeout_s=10)


def test_file_that_is_deleted_meanwhile_stays_for_the_request(
    gateway: Server, upstream: FetchingUpstream
) -> None:
    """H53, P5."""
    file_id = servers.upload(gateway, PNG)["id"]

    async def delete_then_fetch(urls: list[str]) -> None:
        await asyncio.to_thread(servers.delete, gateway, f"/v1/files/{file_id}")
        await upstream.fetch_all(urls)

    upstream.work = delete_then_fetch
    ask(gateway, image(file_id))

    assert [fetched.body for fetched in upstream.fetched] == [PNG]
    servers.until(gateway.is_clean, timeout_s=10)
    assert gone(upstream.urls[0])


def test_download_under_way_ends_whole_though_its_request_is_over(
    gateway: Server, upstream: FetchingUpstream
) -> None:
    """H51: what was opened is read to its end, even when the file's bytes have left the disk meanwhile."""
    data = PNG + random.Random(1).randbytes(32 * MIB)
    file_id = servers.put_file(gateway, data).json()["id"]

    with contextlib.ExitStack() as stack:

        async def begin(urls: list[str]) -> None:
            client = stack.enter_context(RawClient(gateway, receive_buffer=4096))
            clients.append(client)
            client.send_head("GET", address_of(urls[0])[2])
            assert client.read_head().status == 200

        clients: list[RawClient] = []
        upstream.work = begin
        ask(gateway, image(file_id))
        assert servers.until(lambda: gone(upstream.urls[0]), timeout_s=10)
        servers.delete(gateway, f"/v1/files/{file_id}")
        servers.until(gateway.is_clean, timeout_s=10)

        assert clients[0].receive_exactly(len(data)) == data


# who may fetch --------------------------------------------------------------------------------------------


def test_token_that_was_changed_is_an_unknown_file(
    gateway: Server, upstream: FetchingUpstream
) -> None:
    file_id = servers.upload(gateway, PNG)["id"]
    refused: list[bool] = []

    async def tamper(urls: list[str]) -> None:
        base, _, token = urls[0].rpartition("/")
        places = [0, 31, 32, 35, 36, 99]  # of the lease, the position, the signature
        changed = [
            token[:at] + ("0" if token[at] != "0" else "f") + token[at + 1 :] for at in places
        ]
        changed += [token[:-1], token + "0", token.upper(), "x" * 100, file_id]
        refused.extend([await asyncio.to_thread(gone, f"{base}/{wrong}") for wrong in changed])
        await upstream.fetch_all(urls)

    upstream.work = tamper
    ask(gateway, image(file_id))

    assert refused == [True] * 11
    assert [fetched.status for fetched in upstream.fetched] == [200]


def test_url_needs_neither_key_nor_scope_and_gives_no_more_than_its_file(
    upstream: FetchingUpstream, tmp_path: Path
) -> None:
    """H65, H68: the upstream is no tenant; the tenant that may not name the file gets no URL of it."""
    upstream.forget()
    flags = (
        *("--upstream", upstream.server.url, "--delivery", "url", "--engine", "openai"),
        *("--api-key", "secret", "--file-upload-scope-header", "X-Tenant"),
    )
    with servers.serving(*flags, store=tmp_path / "store") as server:

        def as_tenant(name: str, method: str, path: str, body: bytes) -> Answer:
            headers = {"Authorization": "Bearer secret", "X-Tenant": name}
            return servers.request(server, method, path, body, headers=headers)

        file_id = as_tenant("alice", "PUT", "/v1/files?purpose=vision", PNG).json()["id"]
        raw = json.dumps({"messages": [{"role": "user", "content": [image(file_id)]}]}).encode()

        theirs = as_tenant("bob", "POST", CHAT, raw)
        asked = len(upstream.server.received)
        ours = as_tenant("alice", "POST", CHAT, raw)

        assert theirs.code == (404, "file_not_found")
        assert asked == 0
        assert ours.status == 200
        assert [fetched.body for fetched in upstream.fetched] == [PNG]
        assert servers.until(lambda: gone(upstream.urls[0]), timeout_s=10)


def test_any_worker_answers_a_url(upstream: FetchingUpstream, tmp_path: Path) -> None:
    """The signing key is the store's: a URL does not know which process made it, nor does its end."""
    upstream.forget()
    flags = (
        "--upstream",
        upstream.server.url,
        "--engine",
        "openai",
        "--delivery",
        "url",
        "--workers",
        "2",
    )

    async def fetch_often(urls: list[str]) -> None:
        await upstream.fetch_all(urls * 20)

    with servers.serving(*flags, store=tmp_path / "store") as server:
        file_id = servers.upload(server, PNG)["id"]
        upstream.work = fetch_often
        ask(server, image(file_id))

        assert [fetched.body for fetched in upstream.fetched] == [PNG] * 20
        assert servers.until(lambda: gone(upstream.urls[0]), timeout_s=10)
        assert all(gone(upstream.urls[0]) for _ in range(20))


def test_token_is_in_no_log(upstream: FetchingUpstream, tmp_path: Path) -> None:
    """P13: while it lives it is a permission."""
    upstream.forget()
    flags = ("--upstream", upstream.server.url, "--engine", "openai", "--delivery", "url")
    with servers.serving(*flags, store=tmp_path / "store") as server:
        ask(server, image(servers.upload(server, PNG)["id"]))
        servers.until(lambda: gone(upstream.urls[0]))
        servers.until(lambda: "GET /v1/media/{id} 404" in server.log())
        log = server.log()

    token = upstream.urls[0].rpartition("/")[2]
    assert "GET /v1/media/{id} 200" in log
    assert token not in log
    assert token[:32] not in log


# where it leads -----------------------------------------------------------------------------------------


def test_url_begins_with_what_is_advertised(upstream: FetchingUpstream, tmp_path: Path) -> None:
    upstream.forget()
    upstream.work = _nothing
    flags = ("--upstream", upstream.server.url, "--engine", "openai", "--delivery", "url")
    advertised = ("--advertise-url", "https://gate.example:8443/media/gate/v1/")
    with servers.serving(*flags, *advertised, store=tmp_path / "store") as server:
        ask(server, image(servers.upload(server, PNG)["id"]))

    (url,) = upstream.urls
    assert re.fullmatch(rf"https://gate\.example:8443/media/gate/v1/media/{_TOKEN}", url)


def test_server_on_all_addresses_names_the_one_that_was_reached(
    upstream: FetchingUpstream, tmp_path: Path
) -> None:
    upstream.forget()
    flags = ("--upstream", upstream.server.url, "--engine", "openai", "--delivery", "url")
    everywhere = ("--host", "0.0.0.0")  # noqa: S104
    with servers.serving(*flags, *everywhere, store=tmp_path / "store") as server:
        ask(server, image(servers.upload(server, PNG)["id"]))

        assert upstream.urls[0].startswith(f"http://127.0.0.1:{server.port}/v1/media/")
        assert [fetched.body for fetched in upstream.fetched] == [PNG]


async def _nothing(_urls: list[str]) -> None: ...


def test_other_deliveries_have_no_such_route(upstream: FetchingUpstream, tmp_path: Path) -> None:
    upstream.forget()
    flags = ("--upstream", upstream.server.url, "--delivery", "inline")
    with servers.serving(*flags, store=tmp_path / "store") as server:
        answer = servers.get(server, f"/v1/media/{'0' * 100}")

    assert (answer.status, answer.body) == (404, b"not found")
    assert [received.path for received in upstream.server.received] == [f"/v1/media/{'0' * 100}"]
