"""Two gateways, each a server of its own, on one directory: what one knows, the other knows."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import Answer, Server
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
PNG = corpus.png_pixel()


class FetchingUpstream(ThreadedUpstream):
    """It fetches the media of a request from both gateways, whichever sent it, and answers with nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.server.handlers[CHAT] = self._answer
        self.ports: list[int] = []
        self.path = ""
        self.fetched: list[Answer] = []

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        (part,) = json.loads(request.body)["messages"][0]["content"]
        url = part["image_url"]["url"]
        self.path = "/v1/media/" + url.rpartition("/")[2]
        self.fetched += [await asyncio.to_thread(self.fetch, port) for port in self.ports]
        await request.answer(b"{}", headers=b"content-type: application/json\r\n")

    def fetch(self, port: int) -> Answer:
        """The last URL, from the gateway at `port`."""
        return servers.request_at("127.0.0.1", port, "GET", self.path)


@pytest.fixture
def upstream() -> Iterator[FetchingUpstream]:
    with FetchingUpstream() as started:
        yield started


@pytest.fixture
def gateways(upstream: FetchingUpstream, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    flags = (
        *("--upstream", upstream.server.url, "--delivery", "url", "--engine", "vllm"),
        *("--file-upload-scope-header", "X-Tenant"),
    )
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(servers.serving(*flags, store=tmp_path / "store")) for _ in range(2)
        )
        upstream.ports = [a.port, b.port]
        yield a, b


def ask(server: Server, method: str, path: str, body: bytes | str | None = None) -> Answer:
    return servers.request(server, method, path, body, headers={"X-Tenant": "alice"})


def question(file_id: str) -> str:
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": file_id}}
    return json.dumps({"messages": [{"role": "user", "content": [part]}]})


def test_file_uploaded_to_one_is_named_to_the_other_and_fetched_from_either(
    gateways: tuple[Server, Server], upstream: FetchingUpstream
) -> None:
    """H100: upload on A, reference on B; the URL that B made is answered by A, until B's request is over."""
    a, b = gateways
    file_id = ask(a, "PUT", "/v1/files?purpose=vision", PNG).json()["id"]

    answer = ask(b, "POST", CHAT, question(file_id))

    assert answer.status == 200
    assert [(fetched.status, fetched.body) for fetched in upstream.fetched] == [(200, PNG)] * 2
    servers.until(lambda: upstream.fetch(b.port).status == 404, timeout_s=10)
    assert upstream.fetch(a.port).status == 404


def test_what_one_deletes_is_gone_for_the_other(
    gateways: tuple[Server, Server], upstream: FetchingUpstream
) -> None:
    """H100."""
    a, b = gateways
    file_id = ask(a, "PUT", "/v1/files?purpose=vision", PNG).json()["id"]
    before = ask(b, "GET", f"/v1/files/{file_id}/content")

    deleted = ask(b, "DELETE", f"/v1/files/{file_id}")

    assert (before.status, before.body, deleted.status) == (200, PNG, 200)
    assert ask(a, "GET", f"/v1/files/{file_id}").code == (404, "file_not_found")
    assert ask(a, "POST", CHAT, question(file_id)).code == (404, "file_not_found")
    assert upstream.server.received == []


def test_both_give_a_tenant_the_same_salt(
    gateways: tuple[Server, Server], upstream: FetchingUpstream
) -> None:
    """H100: a tenant keeps its prefix cache, whichever gateway its requests come through."""
    for server in gateways:
        answer = ask(server, "POST", "/v1/completions", '{"prompt":"p"}')
        assert answer.status == 404  # such is the upstream

    one, other = (json.loads(received.body) for received in upstream.server.received)
    assert one == other
    assert len(one["cache_salt"]) == 64
