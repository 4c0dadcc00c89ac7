"""Tenants in front of vLLM: each has a part of the prefix cache for itself; where there are none nothing changes."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.gateway.proxy import Proxy
from mediagate.testing.upstream import Received, RecordingUpstream, echo, hang
from servers import Answer, Server
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
BODY = b'{ "model":"m", "temperature":1.0,"messages":[{"role":"user","content":"caf\\u00e9"}] }'
TENANTS = ("--file-upload-scope-header", "X-Tenant")


def models(owner: str) -> Callable[[Received], Any]:
    """`GET /v1/models` as an engine of that name answers it."""

    async def answer(request: Received) -> None:
        await request.read_body()
        body = json.dumps({"object": "list", "data": [{"id": "m", "root": "m", "owned_by": owner}]})
        await request.answer(body.encode(), headers=b"content-type: application/json\r\n")

    return answer


class Engine(ThreadedUpstream):
    """It says what it is, and echoes everything else."""

    def __init__(self) -> None:
        super().__init__()
        paths = ("chat/completions", "completions", "responses", "messages", "embeddings")
        self.server.handlers.update({f"/v1/{path}": echo for path in paths})
        self.server.handlers["/pooling"] = echo
        self.server.handlers["/tokenize"] = echo

        self.server.handlers["/v1/models"] = models("vllm")

    @property
    def asked(self) -> Sequence[Received]:
        """The questions what it is."""
        return [r for r in self.server.received if r.path == "/v1/models"]

    @property
    def received(self) -> Sequence[Received]:
        """All others."""
        return [r for r in self.server.received if r.path != "/v1/models"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """For tests that count what it is asked."""
    with Engine() as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Server]]:
    with Engine() as engine:
        flags = ("--upstream", engine.server.url, *TENANTS)
        with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
            yield engine, server
            assert "Traceback" not in server.log()


@pytest.fixture
def vllm(shared: tuple[Engine, Server]) -> Engine:
    shared[0].server.received.clear()
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[Engine, Server]) -> Server:
    """In front of `vllm`."""
    return shared[1]


def post(server: Server, path: str, body: bytes, tenant: str | None = "alice") -> Answer:
    headers = {"Content-Type": "application/json"} | (
        {} if tenant is None else {"X-Tenant": tenant}
    )
    return servers.request(server, "POST", path, body, headers=headers)


def salt_of(answer: Answer) -> str:
    salt: str = answer.json()["cache_salt"]
    assert re.fullmatch("[0-9a-f]{64}", salt)
    return salt


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/pooling",
    ],
)
def test_tenants_request_carries_its_salt_and_all_else_stays_byte_for_byte(
    gateway: Server, vllm: Engine, path: str
) -> None:
    body = b'{ "model":"m", "temperature":1.0,"x":"caf\\u00e9" }'

    answer = post(gateway, path, body)

    salt = salt_of(answer)
    assert answer.body == body.replace(b"{", b'{"cache_salt":"%b",' % salt.encode(), 1)
    (received,) = vllm.received
    assert received.values("content-length") == [str(len(received.body))]


def test_no_two_tenants_share_a_salt_and_none_can_choose_anothers(
    gateway: Server, vllm: Engine
) -> None:
    def salt(tenant: str, own: str | None) -> str:
        extra = {} if own is None else {"cache_salt": own}
        body = json.dumps({"model": "m", "messages": []} | extra).encode()
        return salt_of(post(gateway, CHAT, body, tenant))

    alice, again, bob = salt("alice", None), salt("alice", None), salt("bob", None)
    chosen = [salt("alice", "x"), salt("bob", "x"), salt("bob", alice), salt("bob", "alice")]

    assert alice == again
    assert len({alice, bob, *chosen}) == 6
    assert b'"x"' not in b"".join(received.body for received in vllm.received)


def test_request_that_names_a_file_is_salted_too(gateway: Server, vllm: Engine) -> None:
    headers = {"X-Tenant": "alice"}
    png = corpus.png_pixel()
    uploaded = servers.request(gateway, "PUT", "/v1/files?purpose=vision", png, headers=headers)
    part = {"type": "image_url", "image_url": {"url": uploaded.json()["id"]}}
    body = {"messages": [{"role": "user", "content": [part]}], "cache_salt": None}

    answer = post(gateway, CHAT, json.dumps(body).encode())

    sent = answer.json()
    assert salt_of(answer) != ""
    assert sent["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png")


@pytest.mark.parametrize("own", [b'""', b"1", b"[]"])
def test_salt_that_is_none_is_refused(gateway: Server, vllm: Engine, own: bytes) -> None:
    answer = post(gateway, CHAT, b'{"messages":[],"cache_salt":' + own + b"}")

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "cache_salt"
    assert vllm.received == []


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"a":1,"a":2}'])
def test_body_that_cannot_be_salted_is_refused(gateway: Server, vllm: Engine, body: bytes) -> None:
    answer = post(gateway, "/v1/completions", body)

    assert answer.code == (400, "malformed_body")
    assert vllm.received == []


def test_endpoints_without_a_cache_pass_unread(gateway: Server, vllm: Engine) -> None:
    answer = post(gateway, "/v1/echo-of-nothing", b"no JSON")

    assert answer.body == b"not found"
    assert [(r.path, r.body) for r in vllm.received] == [("/v1/echo-of-nothing", b"no JSON")]


def test_upstream_is_asked_once_and_with_its_own_key(engine: Engine, tmp_path: Path) -> None:
    flags = ("--upstream", engine.server.url + "/v1", *TENANTS)
    env = {"MEDIAGATE_UPSTREAM_API_KEY": "key-of-vllm"}
    with servers.serving(*flags, store=tmp_path / "store", env=env) as server:
        before = len(engine.server.received)
        for _ in range(3):
            salt_of(post(server, CHAT, BODY))

    assert before == 0
    assert [r.values("authorization") for r in engine.asked] == [["Bearer key-of-vllm"]]
    assert engine.asked[0].values("x-tenant") == []


def test_upstream_that_is_not_vllm_gets_what_the_client_sent(
    engine: Engine, tmp_path: Path
) -> None:
    """H79."""
    engine.server.handlers["/v1/models"] = models("somebody")
    with servers.serving("--upstream", engine.server.url, *TENANTS, store=tmp_path / "s") as server:
        answers = [post(server, path, BODY) for path in (CHAT, CHAT, "/v1/completions")]

    assert [answer.body for answer in answers] == [BODY] * 3
    assert len(engine.asked) == 1


@pytest.mark.parametrize("flags", [(), ("--engine", "vllm")])
def test_without_tenants_nothing_is_asked_and_nothing_changed(
    engine: Engine, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """H79: the client's own salt too is what it was."""
    body = BODY.replace(b"{", b'{"cache_salt":"own",', 1)
    with servers.serving("--upstream", engine.server.url, *flags, store=tmp_path / "s") as server:
        answers = [post(server, path, body, None) for path in (CHAT, "/v1/completions")]

    assert [answer.body for answer in answers] == [body, body]
    assert engine.asked == []


def test_engine_that_is_told_is_not_asked(engine: Engine, tmp_path: Path) -> None:
    told: dict[str, bytes] = {}
    for name in ("vllm", "openai"):
        flags = ("--upstream", engine.server.url, "--engine", name, *TENANTS)
        with servers.serving(*flags, store=tmp_path / name) as server:
            told[name] = post(server, CHAT, BODY).body

    assert engine.asked == []
    assert told["openai"] == BODY
    assert b'"cache_salt":' in told["vllm"]


def test_key_of_a_tenant_salts_as_its_header_would(engine: Engine, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[scopes]\nalice = ["a1", "a2"]\nbob = ["b1"]\n')
    flags = ("--upstream", engine.server.url, "--api-key", "c1", "--api-key-file", str(keys))
    with servers.serving(*flags, store=tmp_path / "store") as server:
        answers = [
            servers.request(server, "POST", CHAT, BODY, headers={"Authorization": f"Bearer {key}"})
            for key in ("a1", "a2", "b1", "c1")
        ]

    *salted, plain = answers
    a1, a2, b1 = map(salt_of, salted)
    assert a1 == a2 != b1
    assert plain.body == BODY


def test_upstream_that_does_not_say_is_taken_for_vllm_and_the_log_says_so(
    engine: Engine, tmp_path: Path
) -> None:
    """An unsalted request would tell tenants of each other, silently; a salted one at worst is refused, aloud."""
    del engine.server.handlers["/v1/models"]
    with servers.serving("--upstream", engine.server.url, *TENANTS, store=tmp_path / "s") as server:
        answers = [post(server, CHAT, BODY) for _ in range(3)]
        log = server.log()

    assert len({salt_of(answer) for answer in answers}) == 1
    assert len(engine.asked) == 1
    assert log.count("--engine") == 1


# asking --------------------------------------------------------------------------------------------------


async def answer_large(request: Received) -> None:
    await request.answer(b"x" * 101)


async def answer_by_redirect(request: Received) -> None:
    await request.answer(status=b"307 Temporary Redirect", headers=b"location: /small\r\n")


async def answer_brokenly(request: Received) -> None:
    await request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf")
    request.close()


async def answer_no_http(request: Received) -> None:
    await request.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    request.close()


async def answer_small(request: Received) -> None:
    await request.answer(b"x" * 100)


async def test_only_a_whole_and_prompt_answer_counts() -> None:
    async with RecordingUpstream() as upstream:
        upstream.handlers |= {
            "/large": answer_large,
            "/moved": answer_by_redirect,
            "/broken": answer_brokenly,
            "/no-http": answer_no_http,
            "/small": answer_small,
            "/never": hang,
        }
        proxy = Proxy(upstream=upstream.url)
        await proxy.start()

        answers = {
            path: await proxy.fetch(path, timeout_s=0.2 if path == "/never" else 30, max_bytes=100)
            for path in (*upstream.handlers, "/missing")
            if path in {"/large", "/moved", "/broken", "/no-http", "/small", "/never", "/missing"}
        }
        await proxy.close()

    assert {path for path, answer in answers.items() if answer is not None} == {"/small"}


async def test_nobody_there_is_no_answer() -> None:
    async with RecordingUpstream() as upstream:
        url = upstream.url
    proxy = Proxy(upstream=url)
    await proxy.start()

    assert await proxy.fetch("/v1/models", timeout_s=30, max_bytes=100) is None
    await proxy.close()
