"""Tenants: who is who, by header or by key; what one of them can see of another, and take from another."""

import contextlib
import functools
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import Answer, RawClient, Server
from upstreams import ThreadedUpstream

MIB = 1024**2
CHAT = "/v1/chat/completions"
PNG = corpus.png_pixel()
UNKNOWN = "file-" + "0" * 32
HEADER = "X-Consumer-ID"


def padded(size_bytes: int) -> bytes:
    return PNG + bytes(size_bytes - len(PNG))


class Tenant:
    """One tenant of a server, as `headers` make it known."""

    def __init__(self, server: Server, headers: Mapping[str, str]) -> None:
        self.server = server
        self.headers = dict(headers)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        also: Mapping[str, str] | None = None,
    ) -> Answer:
        headers = self.headers | dict(also or {})
        return servers.request(self.server, method, target, body, headers=headers)

    def is_let_in(self) -> bool:
        return self.request("GET", "/v1/files").status == 200

    def put(self, data: bytes = PNG) -> Answer:
        return self.request("PUT", "/v1/files?filename=a.png", data)

    def upload(self, data: bytes = PNG) -> str:
        """The id."""
        answer = self.put(data)
        assert answer.status == 200, answer
        return str(answer.json()["id"])

    def chat(self, file_id: str) -> Answer:
        content = [{"type": "image_url", "image_url": {"url": f"vllm-file://{file_id}"}}]
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return self.request("POST", CHAT, json.dumps(body).encode())

    def ids(self) -> list[str]:
        answer = self.request("GET", "/v1/files")
        assert answer.status == 200, answer
        return [file["id"] for file in answer.json()["data"]]

    def has(self, file_id: str) -> bool:
        return self.request("GET", f"/v1/files/{file_id}").status == 200

    def empty(self) -> None:
        for file_id in self.ids():
            assert self.request("DELETE", f"/v1/files/{file_id}").status == 200


def named(server: Server, scope: str, *, header: str = HEADER) -> Tenant:
    return Tenant(server, {header: scope})


def with_key(server: Server, key: str) -> Tenant:
    return Tenant(server, {"authorization": f"Bearer {key}"})


def same(answer: Answer) -> tuple[int, Sequence[tuple[str, str]], bytes]:
    """Everything but what differs between any two answers."""
    own = {"date", "x-request-id"}
    return answer.status, [line for line in answer.headers if line[0] not in own], answer.body


class Upstream(ThreadedUpstream):
    def __init__(self) -> None:
        super().__init__()
        for path in (CHAT, "/v1/models", "/v1/completions"):
            self.server.handlers[path] = self._answer

    @property
    def flags(self) -> tuple[str, ...]:
        """Of a server in front, which is told what this is, as it would ask otherwise."""
        return ("--upstream", self.server.url, "--engine", "openai")

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        await request.answer(b'{"ok":true}', headers=b"content-type: application/json\r\n")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-scope-header", HEADER, *upstream.flags)
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server, upstream: Upstream) -> Iterator[Server]:
    upstream.server.received.clear()
    yield shared
    for scope in ("alice", "bob"):
        named(shared, scope).empty()
    servers.until(lambda: not shared.on_disk(), timeout_s=10)
    assert "Traceback" not in shared.log()


@pytest.fixture
def alice(gateway: Server) -> Tenant:
    return named(gateway, "alice")


@pytest.fixture
def bob(gateway: Server) -> Tenant:
    return named(gateway, "bob")


# the header ----------------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/files"),
    ("PUT", "/v1/files"),
    ("GET", "/v1/files"),
    ("HEAD", "/v1/files"),
    ("GET", f"/v1/files/{UNKNOWN}"),
    ("DELETE", f"/v1/files/{UNKNOWN}"),
    ("GET", f"/v1/files/{UNKNOWN}/content"),
    ("POST", "/v1/uploads"),
    ("POST", CHAT),
    ("GET", "/v1/models"),
    ("POST", "/anything/else"),
]


@pytest.mark.parametrize(("method", "target"), ROUTES)
def test_request_that_names_no_tenant_is_refused(
    gateway: Server, upstream: Upstream, method: str, target: str
) -> None:
    """H65: 400 that names the header, never the files of all; on every route, and where files are referenced."""
    answer = servers.request(gateway, method, target, PNG if method in {"POST", "PUT"} else None)

    assert answer.status == 400
    if method != "HEAD":
        assert answer.code == (400, "invalid_scope")
        assert answer.error["param"] == HEADER
        assert HEADER in answer.error["message"]
    assert upstream.server.received == []


def test_form_with_a_question_that_names_no_tenant_is_refused(
    gateway: Server, upstream: Upstream
) -> None:
    """H65: the other way to send a file."""
    body = servers.form(
        servers.part("payload", b'{"model":"m","messages":[{"role":"user","content":"?"}]}'),
        servers.part("file", PNG, "a.png"),
    )

    answer = servers.request(
        gateway, "POST", CHAT, body, headers={"content-type": servers.FORM_TYPE}
    )

    assert answer.code == (400, "invalid_scope")
    assert upstream.server.received == []
    assert gateway.on_disk() == []


@pytest.mark.parametrize("target", ["/health", "/ready"])
def test_health_belongs_to_no_tenant(gateway: Server, target: str) -> None:
    assert servers.get(gateway, target).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        (f"{HEADER}:",),
        (f"{HEADER}:  \t ",),
        (f"{HEADER}: {'x' * 257}",),
        (f"{HEADER}: alice", f"{HEADER}: bob"),
        (f"{HEADER}: alice", f"{HEADER}: alice"),
        (f"{HEADER}: alice", "x-consumer-id: bob"),
        (f"{HEADER}: alice", "X_Consumer_ID: bob"),
        ("X_Consumer_ID: bob", f"{HEADER}: alice"),
        ("X_Consumer_ID: alice",),
        ("X-Consumer_ID: alice",),
        (f"{HEADER}: alice, bob",),
        (f"{HEADER}: al\tice",),
        (f"{HEADER}: alicé",),
    ],
)
def test_header_that_could_be_read_in_two_ways_is_refused(
    gateway: Server, upstream: Upstream, lines: tuple[str, ...]
) -> None:
    """H69, H70: on the wire, where no client library tidies it up."""
    for target in ("/v1/files", "/v1/models"):
        with RawClient(gateway) as client:
            client.send_head("GET", target, *lines)
            answer = client.read_answer()

        assert answer.code == (400, "invalid_scope")
        assert answer.error["param"] == HEADER
    assert upstream.server.received == []


@pytest.mark.parametrize("char", ["\x01", "\x00", "\x0b", "\x7f"])
def test_control_character_in_the_header_is_refused(gateway: Server, char: str) -> None:
    """H69: some of them by the parser of heads, before anybody looks at the header."""
    with RawClient(gateway) as client:
        client.send_head("GET", "/v1/files", f"{HEADER}: al{char}ice")
        answer = client.read_answer()

    assert answer.status == 400


def test_case_of_the_name_makes_no_other_tenant_and_that_of_the_value_does(
    gateway: Server, alice: Tenant
) -> None:
    """H70."""
    file_id = alice.upload()

    for spelling in ("x-consumer-id", "X-CONSUMER-ID"):
        assert named(gateway, " alice ", header=spelling).ids() == [file_id]
    assert named(gateway, "Alice").ids() == []


def test_upstream_never_hears_of_the_tenant(alice: Tenant, upstream: Upstream) -> None:
    """H71: neither where a body is read nor where it passes."""
    file_id = alice.upload()
    assert alice.chat(file_id).status == 200
    assert alice.request("GET", "/v1/models").status == 200
    assert alice.request("POST", "/v1/completions", b"{}").status == 200

    for received in upstream.server.received:
        assert b"alice" not in received.head
        assert b"consumer" not in received.head.lower()
    assert len(upstream.server.received) == 3


@pytest.mark.parametrize(("network", "is_trusted"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
def test_tenant_is_taken_from_a_trusted_proxy_only(
    tmp_path: Path, network: str, is_trusted: bool
) -> None:
    """H72."""
    flags = ("--file-upload-scope-header", HEADER, "--trusted-proxy", "192.0.2.1")
    with servers.serving(*flags, "--trusted-proxy", network, store=tmp_path) as server:
        answer = named(server, "alice").request("GET", "/v1/files")
        assert servers.get(server, "/v1/files").code == (400, "invalid_scope")

    if is_trusted:
        assert answer.status == 200
    else:
        assert answer.code == (403, "scope_not_allowed")
        assert answer.error["param"] == HEADER


# what one tenant sees of another -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("GET", "/content"), ("DELETE", ""), ("HEAD", "")]
)
def test_anothers_file_is_answered_as_one_that_never_was(
    alice: Tenant, bob: Tenant, method: str, suffix: str
) -> None:
    """H66: byte for byte."""
    file_id = alice.upload()

    of_alice = bob.request(method, f"/v1/files/{file_id}{suffix}")
    of_nobody = bob.request(method, f"/v1/files/{UNKNOWN}{suffix}")

    assert of_alice.status == 404
    assert same(of_alice) == same(of_nobody)
    assert alice.has(file_id)


@pytest.mark.parametrize(
    "target",
    ["//v1/files", "/v1/%66iles", "/v1/x/../files", f"/v1/files/{UNKNOWN}/", "/V1/Uploads/"],
)
def test_files_of_the_upstream_are_nobodys(alice: Tenant, upstream: Upstream, target: str) -> None:
    """H67, H95: it knows no tenants, so no spelling of the path leads to a Files API that it may have."""
    for method in ("GET", "PUT"):
        assert alice.request(method, target, PNG).code == (404, "route_not_found")
    assert upstream.server.received == []


def test_listing_has_ones_own_files_only(alice: Tenant, bob: Tenant) -> None:
    """H67."""
    of_alice = [alice.upload() for _ in range(2)]
    of_bob = bob.upload()

    assert sorted(alice.ids()) == sorted(of_alice)
    assert bob.ids() == [of_bob]
    cursors = [
        bob.request("GET", f"/v1/files?after={file_id}") for file_id in (of_alice[0], UNKNOWN)
    ]
    assert cursors[0].code == (400, "invalid_value")
    assert same(cursors[0]) == same(cursors[1])


def test_reference_to_anothers_file_is_answered_as_one_to_nothing(
    alice: Tenant, bob: Tenant, upstream: Upstream
) -> None:
    """H68: in the request body too; and it is no use of the file."""
    file_id = alice.upload()
    before = alice.request("GET", f"/v1/files/{file_id}").body

    of_alice, of_nobody = bob.chat(file_id), bob.chat(UNKNOWN)

    assert of_alice.code == (404, "file_not_found")
    assert same(of_alice) == same(of_nobody)
    assert upstream.server.received == []
    assert alice.request("GET", f"/v1/files/{file_id}").body == before
    assert alice.server.leases() == 0
    assert alice.chat(file_id).status == 200


def test_project_of_the_official_client_is_a_tenant(tmp_path: Path) -> None:
    """H102: `OpenAI-Project`, from the client's own `project=`."""
    with servers.serving("--file-upload-scope-header", "OpenAI-Project", store=tmp_path) as server:

        def client(project: str | None) -> openai.OpenAI:
            return openai.OpenAI(
                base_url=f"{server.url}/v1", api_key="any", project=project, max_retries=0
            )

        with client("alice") as alice, client("bob") as bob, client(None) as nobody:
            file_id = alice.files.create(file=("a.png", PNG), purpose="vision").id
            part: Any = {"type": "image_url", "image_url": {"url": f"vllm-file://{file_id}"}}
            messages: Any = [{"role": "user", "content": [part]}]
            answer = alice.chat.completions.create(model="mediagate-inspector", messages=messages)

            assert answer.choices[0].message.content
            assert [file.id for file in alice.files.list()] == [file_id]
            assert list(bob.files.list()) == []
            with pytest.raises(openai.NotFoundError):
                bob.files.retrieve(file_id)
            with pytest.raises(openai.NotFoundError):
                bob.chat.completions.create(model="mediagate-inspector", messages=messages)
            with pytest.raises(openai.BadRequestError) as caught:
                nobody.files.list()
            assert caught.value.param == "OpenAI-Project"


# keys ----------------------------------------------------------------------------------------------------


def write_keys(path: Path, **scopes: list[str]) -> None:
    """As an operator should: whole, then into its place."""
    lines = ["[scopes]", *(f"{scope} = {json.dumps(keys)}" for scope, keys in scopes.items())]
    path.with_suffix(".new").write_text("\n".join(lines))
    path.with_suffix(".new").rename(path)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def guarded_server(
    key_file: Path, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    write_keys(key_file, alice=["sk-alice"])
    flags = ("--file-upload-scope-header", HEADER, *upstream.flags)
    flags += ("--api-key-file", str(key_file))
    env = {"MEDIAGATE_API_KEY": "sk-gateway"}
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store"), env=env) as server:
        yield server


@pytest.fixture
def guarded(guarded_server: Server, key_file: Path, upstream: Upstream) -> Iterator[Server]:
    """`sk-gateway` opens every scope, `sk-alice` and `sk-bob` one each."""
    write_keys(key_file, alice=["sk-alice"], bob=["sk-bob"])
    for key in ("sk-alice", "sk-bob"):
        tenant = with_key(guarded_server, key)
        servers.until(tenant.is_let_in, timeout_s=10)
    upstream.server.received.clear()
    yield guarded_server
    for scope in ("alice", "bob"):
        Tenant(guarded_server, {"authorization": "Bearer sk-gateway", HEADER: scope}).empty()
    log = guarded_server.log()
    assert "Traceback" not in log
    for secret in ("sk-gateway", "sk-alice", "sk-bob", "alice"):
        assert secret not in log


def test_key_opens_its_own_scope_and_no_other(guarded: Server) -> None:
    """H66, H67: without any header."""
    alice, bob = with_key(guarded, "sk-alice"), with_key(guarded, "sk-bob")
    file_id = alice.upload()

    assert alice.ids() == [file_id]
    assert bob.ids() == []
    assert not bob.has(file_id)
    assert bob.chat(file_id).code == (404, "file_not_found")
    assert alice.chat(file_id).status == 200


def test_header_may_repeat_the_scope_of_the_key_and_not_change_it(guarded: Server) -> None:
    """H72: 403; and a key without a scope of its own speaks for whom the header names."""
    file_id = with_key(guarded, "sk-alice").upload()
    gateway = with_key(guarded, "sk-gateway")

    with_header = with_key(guarded, "sk-alice")
    assert with_header.request("GET", "/v1/files", also={HEADER: "alice"}).status == 200
    refused = with_header.request("GET", f"/v1/files/{file_id}", also={HEADER: "bob"})
    assert refused.code == (403, "scope_not_allowed")
    assert refused.error["param"] == HEADER
    seen = gateway.request("GET", f"/v1/files/{file_id}", also={HEADER: "alice"})
    assert seen.status == 200
    assert gateway.request("GET", f"/v1/files/{file_id}", also={HEADER: "bob"}).status == 404
    assert gateway.request("GET", "/v1/files").code == (400, "invalid_scope")


def test_keys_of_the_file_stay_here(guarded: Server, upstream: Upstream) -> None:
    """Neither the key nor the tenant goes to the upstream."""
    alice = with_key(guarded, "sk-alice")
    assert alice.request("GET", "/v1/models", also={HEADER: "alice"}).status == 200
    assert alice.chat(alice.upload()).status == 200

    assert len(upstream.server.received) == 2
    for received in upstream.server.received:
        assert b"authorization" not in received.head.lower()
        assert b"alice" not in received.head


def test_key_that_is_taken_out_of_the_file_stops_to_work(guarded: Server, key_file: Path) -> None:
    """The issue: the file is read again when it changes; without a restart."""
    alice = with_key(guarded, "sk-alice")
    file_id = alice.upload()

    write_keys(key_file, alice=["sk-alice-2"], bob=["sk-bob"])

    servers.until(lambda: alice.request("GET", "/v1/files").status == 401, timeout_s=10)
    assert with_key(guarded, "sk-alice-2").ids() == [file_id]


def test_key_file_that_turns_wrong_changes_nothing_and_is_told_of(
    guarded: Server, key_file: Path
) -> None:
    lines = guarded.log().count("key file")
    key_file.write_text("[scopes]\nalice = ['sk-alice', 'sk-added'\n")
    servers.until(
        lambda: with_key(guarded, "sk-bob").ids() == [] and "is no TOML" in guarded.log(),
        timeout_s=10,
    )

    assert with_key(guarded, "sk-alice").ids() == []
    assert with_key(guarded, "sk-added").request("GET", "/v1/files").status == 401
    assert guarded.log().count("key file") == lines + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("sk-alice = 'alice'", "has no table [scopes]"),
        ("[scopes]\nalice = ['sk-gateway']", "--api-key"),
    ],
)
def test_wrong_key_file_stops_the_start_with_one_line(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)

    done = start_in_vain("--api-key-file", str(path), "--api-key", "sk-gateway", store=tmp_path)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--api-key-file" in line
    assert str(path) in line
    assert reason in line
    assert "sk-" not in line
    assert not (tmp_path / "store").exists()


def start_in_vain(*flags: str, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(servers.MEDIAGATE, "serve", "--port", "0"),
            *("--file-upload-dir", str(store / "store"), *flags),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )


# what one tenant can take from another -------------------------------------------------------------------


@contextlib.contextmanager
def ceilings(
    store: Path, *flags: str, total_mib: float, **scope: float
) -> Iterator[tuple[Server, Tenant, Tenant]]:
    """A small store with two tenants, who may keep `mib` and `files` each."""
    all_flags = [
        *("--file-upload-scope-header", HEADER),
        *("--file-upload-max-total-gb", str(total_mib / 1024)),
        *flags,
    ]
    if "mib" in scope:
        all_flags += ["--file-upload-scope-max-gb", str(scope["mib"] / 1024)]
    if "files" in scope:
        all_flags += ["--file-upload-scope-max-files", str(scope["files"])]
    with servers.serving(*all_flags, store=store) as server:
        yield server, named(server, "alice"), named(server, "bob")
        assert "Traceback" not in server.log()


def test_tenant_at_its_ceiling_loses_its_own_files_and_nobody_elses(tmp_path: Path) -> None:
    """H62, H59: B's file is the least recently used one of all, and stays."""
    with ceilings(tmp_path, total_mib=64, mib=24) as (server, alice, bob):
        of_bob = bob.upload(padded(20 * MIB))
        first, second = (alice.upload(padded(10 * MIB)) for _ in range(2))
        assert alice.request("GET", f"/v1/files/{first}/content").status == 200

        third = alice.upload(padded(10 * MIB))

        assert [alice.has(file_id) for file_id in (first, second, third)] == [True, False, True]
        assert bob.has(of_bob)
        assert server.usage() == (40 * MIB, 3)


def test_tenant_at_its_number_of_files_loses_its_oldest(tmp_path: Path) -> None:
    """H62."""
    with ceilings(tmp_path, total_mib=64, files=2) as (_, alice, bob):
        of_bob = bob.upload()
        ids = [alice.upload() for _ in range(4)]

        assert sorted(alice.ids()) == sorted(ids[2:])
        assert bob.ids() == [of_bob]


def test_file_beyond_the_ceiling_of_a_tenant_is_refused_before_anything_goes(
    tmp_path: Path,
) -> None:
    """H60, H62: at once where its length is declared, and nothing is evicted for it."""
    with ceilings(tmp_path, total_mib=64, mib=24) as (server, alice, _):
        kept = alice.upload(padded(20 * MIB))
        with RawClient(server) as client:
            length = f"Content-Length: {25 * MIB}"
            client.send_head("PUT", "/v1/files", f"{HEADER}: alice", length)
            answer = client.read_answer()

        assert answer.code == (507, "insufficient_storage")
        assert answer.header("x-should-retry") == "false"
        assert alice.ids() == [kept]


def test_no_tenant_can_keep_another_from_its_ceiling(tmp_path: Path) -> None:
    """H62: where the ceilings of all fit the store, each is sure of its own, however the others fill theirs."""
    with ceilings(tmp_path, total_mib=48, mib=24) as (server, alice, bob):
        of_bob = bob.upload(padded(8 * MIB))
        for _ in range(6):
            alice.upload(padded(12 * MIB))
        more_of_bob = [bob.upload(padded(8 * MIB)) for _ in range(2)]

        assert sorted(bob.ids()) == sorted([of_bob, *more_of_bob])
        assert len(alice.ids()) == 2
        assert server.usage() == (48 * MIB, 5)


def test_store_that_is_full_of_anothers_files_costs_nobody_a_file(tmp_path: Path) -> None:
    """H62: without ceilings it may come to that; the newcomer is refused, and loses nothing in vain."""
    with ceilings(tmp_path, total_mib=32) as (server, alice, bob):
        of_bob = bob.upload(padded(4 * MIB))
        of_alice = [alice.upload(padded(9 * MIB)) for _ in range(3)]

        refused = bob.put(padded(6 * MIB))

        assert refused.code == (507, "insufficient_storage")
        assert refused.header("x-should-retry") == "false"
        assert bob.ids() == [of_bob]
        assert sorted(alice.ids()) == sorted(of_alice)
        instead = bob.upload(padded(5 * MIB))
        assert bob.ids() == [instead]
        assert sorted(alice.ids()) == sorted(of_alice)
        assert server.usage() == (32 * MIB, 4)


def test_expired_files_of_anybody_make_room_first(tmp_path: Path) -> None:
    """H56, H62: nobody sees them any more, so nobody loses anything; and no sweep has to come before."""
    with ceilings(tmp_path, "--file-upload-ttl-seconds", "1", total_mib=32) as (_, alice, bob):
        for _ in range(3):
            alice.upload(padded(10 * MIB))
        time.sleep(1.1)

        of_bob = [bob.upload(padded(10 * MIB)) for _ in range(2)]

        assert len(of_bob) == 2


def has_files(server: Server, count: int) -> bool:
    """Arriving ones included."""
    return server.usage()[1] == count


def test_no_tenant_takes_all_slots(tmp_path: Path) -> None:
    """H23, H62, H94: of four, one may hold two."""
    with (
        ceilings(tmp_path, "--file-upload-max-concurrent", "4", total_mib=64) as (
            server,
            alice,
            bob,
        ),
        contextlib.ExitStack() as stack,
    ):
        for number in range(2):
            client = stack.enter_context(RawClient(server))
            client.send_head("PUT", "/v1/files", f"{HEADER}: alice", f"Content-Length: {MIB}")
            client.send(padded(8192))
            servers.until(functools.partial(has_files, server, number + 1))

        refused = alice.put()

        assert refused.code == (503, "too_many_uploads")
        assert 1 <= int(refused.header("retry-after") or 0) <= 120
        assert bob.put().status == 200


# listing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (403, "listing_disabled")),
        (("--file-upload-listing-status", "403"), (403, "listing_disabled")),
        (("--file-upload-listing-status", "404"), (404, "route_not_found")),
    ],
)
def test_listing_can_be_switched_off(
    tmp_path: Path, flags: tuple[str, ...], expected: tuple[int, str]
) -> None:
    """H45: 403, which nobody takes for a server without a Files API, or the 404 of the pull request."""
    with servers.serving("--file-upload-disable-listing", *flags, store=tmp_path) as server:
        file_id = servers.upload(server, PNG)["id"]

        for target in ("/v1/files", "/v1/files?limit=nonsense"):
            answer = servers.get(server, target)
            assert answer.code == expected
            assert answer.error["message"].startswith("File listing is disabled on this server")
        assert servers.request(server, "HEAD", "/v1/files").status == expected[0]
        assert servers.get(server, f"/v1/files/{file_id}").status == 200
        assert servers.delete(server, f"/v1/files/{file_id}").status == 200


# other vendors' clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("target", ["/v1/files", f"/v1/files/{UNKNOWN}", "/v1/uploads/x/parts"])
def test_other_vendors_clients_are_told_so_in_their_own_words(
    guarded: Server, method: str, target: str
) -> None:
    """H87: before the key, the tenant and the body are looked at."""
    body = PNG if method == "POST" else None

    anthropic = servers.request(
        guarded, method, target, body, headers={"anthropic-version": "2023-06-01"}
    )
    google = servers.request(guarded, method, target, body, headers={"x-goog-api-key": "k"})

    assert anthropic.status == google.status == 404
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"]["type"] == "not_found_error"
    assert anthropic.json()["request_id"] == anthropic.header("x-request-id")
    assert google.json()["error"]["status"] == "NOT_FOUND"


def test_other_vendors_headers_mean_nothing_elsewhere(guarded: Server, upstream: Upstream) -> None:
    alice = with_key(guarded, "sk-alice")

    answer = alice.request("GET", "/v1/models", also={"anthropic-version": "2023-06-01"})

    assert answer.status == 200
    assert upstream.server.received[0].values("anthropic-version") == ["2023-06-01"]
