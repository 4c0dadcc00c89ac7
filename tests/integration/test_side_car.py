"""nginx of `examples/` in front of a side-car for files and of an engine, which share a directory and nothing else.

In the engine's place stands mediagate with its inspector, or a server that only records; in the last test vLLM itself.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import corpus
import proxies
import servers
import vllm_servers
from mediagate.testing.upstream import SSE_HEAD, Received
from proxies import Identity, Proxy
from servers import Answer, Server
from upstreams import ThreadedUpstream

MIB = 1024**2
LIMIT_MIB = 65
GUIDE = Path(__file__).parents[2] / "docs/how-to/run-a-side-car-beside-vllm.md"
PNG = corpus.png_pixel()
GIF = corpus.gif_pixel()
CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
SCOPES = ("--file-upload-scope-header", proxies.SCOPE_HEADER, "--trusted-proxy", "127.0.0.1")
LIMITS = ("--file-upload-max-size-mb", str(LIMIT_MIB))
SIDE_CAR = ("--files-only", *SCOPES, *LIMITS)
KEY = ("--api-key", "key-of-both")
NGINX_HAS_THE_KEY = {'Authorization ""': 'Authorization "Bearer key-of-both"'}
CLIENTS_HAVE_THE_KEY = {
    "auth_request /authenticate;": "",
    "auth_request_set $scope $upstream_http_x_auth_request_user;": "",
    "proxy_set_header X-Scope $scope;": "",
    'proxy_set_header Authorization "";': "",
}

pytestmark = [pytest.mark.services, pytest.mark.media]


@dataclass(frozen=True, slots=True)
class Site:
    """What clients see as one server."""

    proxy: Proxy
    side_car: Server
    engine: Server


@contextlib.contextmanager
def site(
    side_car: Server,
    engine_at: str,
    identity: Identity,
    directory: Path,
    *,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """The committed configuration at work.

    Args:
        side_car: Gets what is about files.
        engine_at: Host and port of what gets the rest.
        identity: Who knows the callers.
        directory: For all that nginx writes; made.
        changes: More of its text to replace, as the guide says.
    """
    addresses = {"127.0.0.1:8000;": f"{engine_at};"}
    directory.mkdir()
    with proxies.running(
        "nginx-side-car", side_car, identity, directory, changes=addresses | dict(changes or {})
    ) as proxy:
        for name in ("client_body", "proxy"):
            (directory / name).rmdir()  # who buffers on disk now fails
        yield proxy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("side-car")


@pytest.fixture(scope="module")
def identity(place: Path) -> Iterator[Identity]:
    with proxies.identity(place) as started:
        yield started


@pytest.fixture(scope="module")
def shared(place: Path, identity: Identity) -> Iterator[Site]:
    store = place / "store"
    with (
        servers.serving(*SIDE_CAR, store=store) as side_car,
        servers.serving(*SCOPES, store=store) as engine,
        site(side_car, f"{engine.host}:{engine.port}", identity, place / "nginx") as proxy,
    ):
        yield Site(proxy, side_car, engine)


@pytest.fixture
def acme(identity: Identity) -> str:
    return identity.token("acme")


@pytest.fixture
def globex(identity: Identity) -> str:
    return identity.token("globex")


def put(proxy: Proxy, token: str, data: bytes = PNG) -> str:
    """Upload; the id."""
    answer = proxy.request("PUT", "/v1/files?filename=a.png", data, token=token)
    assert answer.status == 200, answer
    return str(answer.json()["id"])


def question(url: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": "mediagate-inspector", "messages": [{"role": "user", "content": [part]}]}
    return json.dumps(body).encode()


def ask(proxy: Proxy, token: str, url: str) -> Answer:
    return proxy.request("POST", CHAT, question(url), token=token, headers=JSON)


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def measured(answer: Answer) -> list[str]:
    """What the inspector says of the bytes; not how they are called."""
    assert answer.status == 200, answer
    lines = answer.json()["choices"][0]["message"]["content"].splitlines()
    return [line for line in lines if line.startswith("- ")]


TO_THE_SIDE_CAR = [
    ("GET", "/v1/files"),
    ("GET", "/v1/files?limit=1"),
    ("GET", "/v1/files/"),
    ("PUT", "/v1/files?filename=a.png"),
    ("GET", "/v1/files/file-0/content"),
    ("DELETE", "/v1/files/file-0"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/upload_0/parts"),
]
TO_THE_ENGINE = [
    ("POST", CHAT),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
    ("GET", "/v1/files2"),
    ("GET", "/v1/file"),
    ("GET", "/v1/files/../models"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/"),
]


@pytest.mark.parametrize(
    ("method", "target", "is_about_files"),
    [
        *((method, target, True) for method, target in TO_THE_SIDE_CAR),
        *((method, target, False) for method, target in TO_THE_ENGINE),
    ],
)
def test_a_request_goes_to_one_of_the_two(
    shared: Site, acme: str, method: str, target: str, *, is_about_files: bool
) -> None:
    name = f"{method}-{target.translate(str.maketrans('/?=.', '----'))}"

    answer = shared.proxy.request(
        method, target, b"{}", token=acme, headers={**JSON, "X-Request-Id": name}
    )

    right, wrong = shared.side_car, shared.engine
    if not is_about_files:
        right, wrong = wrong, right
    assert answer.values("x-request-id") == [name]
    servers.until(lambda: f" id={name}\n" in right.log())
    assert f" id={name}\n" not in wrong.log()


def test_what_is_uploaded_there_is_referenced_here(shared: Site, acme: str) -> None:
    """H50, H74: the engine sees the bytes that the side-car took, until the side-car deletes them."""
    file_id = put(shared.proxy, acme)

    by_id = ask(shared.proxy, acme, f"vllm-file://{file_id}")
    by_data = ask(shared.proxy, acme, data_url(PNG))
    other = ask(shared.proxy, acme, data_url(GIF))
    deleted = shared.proxy.request("DELETE", f"/v1/files/{file_id}", token=acme)
    gone = ask(shared.proxy, acme, f"vllm-file://{file_id}")

    assert measured(by_id) == measured(by_data) != measured(other)
    assert deleted.status == 200
    assert gone.code == (404, "file_not_found")
    assert gone.error["param"] == "messages[0].content[0].image_url.url"


def test_tenants_are_the_same_to_both(shared: Site, acme: str, globex: str) -> None:
    """H66, H68, H69: whatever scope a client claims, at the engine as at the side-car."""
    file_id = put(shared.proxy, acme)
    forged = [("X-Scope", "acme"), ("Connection", "close, X-Scope")]

    def by(token: str, *lines: tuple[str, str]) -> list[Answer]:
        return [
            shared.proxy.request("GET", f"/v1/files/{file_id}", token=token, lines=lines),
            shared.proxy.request(
                "POST", CHAT, question(file_id), token=token, headers=JSON, lines=lines
            ),
        ]

    assert [answer.status for answer in by(acme)] == [200, 200]
    for lines in ((), forged):
        assert {answer.code for answer in by(globex, *lines)} == {(404, "file_not_found")}


def test_an_upload_is_streamed(shared: Site, acme: str) -> None:
    """H11: the side-car holds what the client has sent so far while the client has not sent the rest."""
    data = PNG + bytes(64 * MIB - len(PNG))
    half = len(data) // 2
    (before, _) = shared.side_car.usage()

    with contextlib.closing(shared.proxy.connect()) as connection:
        connection.putrequest("PUT", "/v1/files?filename=large.png")
        connection.putheader("Authorization", f"Bearer {acme}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for piece in (data[:half], data[half:]):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            # All but what fits into the buffers of sockets and of nginx.
            servers.until(lambda: shared.side_car.usage()[0] - before >= half * 3 // 4)
        connection.send(b"0\r\n\r\n")
        answer = connection.getresponse()
        file = json.loads(answer.read())

    assert (answer.status, file["bytes"]) == (200, len(data))
    content = shared.proxy.request("GET", f"/v1/files/{file['id']}/content", token=acme)
    assert content.body == data


@pytest.mark.parametrize("framing", [["-F", "file=@-;filename=a.png"], ["-T", "-"]])
def test_a_client_reads_the_refusal_while_it_is_sending(
    shared: Site, acme: str, framing: list[str], tmp_path: Path
) -> None:
    """H9, H10, H11: the limit is the side-car's, and so are the words."""
    too_large = tmp_path / "large.png"
    too_large.write_bytes(PNG + bytes(96 * MIB))

    with too_large.open("rb") as source:
        done = subprocess.run(
            [
                *("curl", "-sS", "--cacert", shared.proxy.certificate, "-H", "Expect:"),
                *("-H", f"Authorization: Bearer {acme}", *framing),
                f"{shared.proxy.url}/v1/files?filename=a.png",
            ],
            stdin=source,
            capture_output=True,
            timeout=servers.TIMEOUT_S,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "file_too_large"


class StreamingEngine(ThreadedUpstream):
    """Streams its answer in two pieces, the second one when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._go_on = asyncio.Event()
        self.server.handlers[CHAT] = self._answer

    def go_on(self) -> None:
        async def tell() -> None:
            self._go_on.set()

        self.run(tell())

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        await request.write(SSE_HEAD)
        await request.write_event("one")
        await self._go_on.wait()
        await request.write_event("two")
        await request.write(b"0\r\n\r\n")


def test_what_the_engine_gets_and_streams_is_passed_on(
    shared: Site, identity: Identity, acme: str, tmp_path: Path
) -> None:
    """H67, H79: a body above nginx's own limit, the scope, no key; and the answer as it comes."""
    body = json.dumps({"messages": [{"role": "user", "content": "a" * 3 * MIB}]}).encode()
    with StreamingEngine() as engine:
        address = engine.server.url.removeprefix("http://")
        with (
            site(shared.side_car, address, identity, tmp_path / "nginx") as proxy,
            contextlib.closing(proxy.connect()) as connection,
        ):
            headers = {"Authorization": f"Bearer {acme}", "X-Scope": "globex", **JSON}
            connection.request("POST", CHAT, body, headers)
            answer = connection.getresponse()
            first = answer.readline()  # the engine sends no more before it is told to
            engine.go_on()
            rest = answer.read()
        (received,) = engine.server.received

    assert (answer.status, first, rest) == (200, b"data: one\n", b"\ndata: two\n\n")
    assert received.body == body
    assert received.values("x-scope") == ["acme"]
    assert received.values("authorization") == []


def test_one_key_of_nginx_opens_both(identity: Identity, acme: str, tmp_path: Path) -> None:
    with (
        servers.serving(*SIDE_CAR, *KEY, store=tmp_path / "store") as side_car,
        servers.serving(*SCOPES, *KEY, store=tmp_path / "store") as engine,
    ):
        address = f"{engine.host}:{engine.port}"
        with site(
            side_car, address, identity, tmp_path / "with", changes=NGINX_HAS_THE_KEY
        ) as proxy:
            answered = ask(proxy, acme, put(proxy, acme))
        with site(side_car, address, identity, tmp_path / "without") as proxy:
            refused = [
                proxy.request("GET", target, token=acme) for target in ("/v1/files", "/v1/models")
            ]

    assert answered.status == 200
    assert [answer.code for answer in refused] == [(401, "invalid_api_key")] * 2


def test_one_key_of_the_clients_opens_both(identity: Identity, tmp_path: Path) -> None:
    """Where nobody tells tenants apart, and no service is asked."""
    with (
        servers.serving("--files-only", *KEY, store=tmp_path / "store") as side_car,
        servers.serving(*KEY, store=tmp_path / "store") as engine,
        site(
            side_car,
            f"{engine.host}:{engine.port}",
            identity,
            tmp_path / "nginx",
            changes=CLIENTS_HAVE_THE_KEY,
        ) as proxy,
    ):
        answered = ask(proxy, "key-of-both", put(proxy, "key-of-both"))
        refused = [
            proxy.request("GET", target, token=token)
            for target in ("/v1/files", "/v1/models")
            for token in (None, "another")
        ]

    assert answered.status == 200
    assert [answer.code for answer in refused] == [(401, "invalid_api_key")] * 4


def test_tenants_at_one_of_the_two_only_make_every_id_unknown(
    identity: Identity, acme: str, tmp_path: Path
) -> None:
    """H68: as the guide warns; nobody gets at another's file by it."""
    with (
        servers.serving(*SIDE_CAR, store=tmp_path / "store") as side_car,
        servers.serving(store=tmp_path / "store") as engine,
        site(side_car, f"{engine.host}:{engine.port}", identity, tmp_path / "nginx") as proxy,
    ):
        asked = ask(proxy, acme, put(proxy, acme))

    assert asked.code == (404, "file_not_found")


def test_the_guide_says_what_happens(identity: Identity, acme: str, tmp_path: Path) -> None:
    """Its commands, with other addresses and without TLS; in vLLM's place stands mediagate."""
    serve, questions = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    (ready,) = re.findall(r"^(mediagate: ready at .*)$", GUIDE.read_text(), re.M)
    _, _, *flags = shlex.split(serve.splitlines()[0])
    del flags[flags.index("--file-upload-dir") :]
    del flags[flags.index("--port") : flags.index("--port") + 2]
    (tmp_path / "clip.mp4").write_bytes(corpus.encode_clip().data)

    with (
        servers.serving(*flags, store=tmp_path / "store") as side_car,
        servers.serving(store=tmp_path / "store") as engine,
        site(
            side_car,
            f"{engine.host}:{engine.port}",
            identity,
            tmp_path / "nginx",
            changes={" ssl;": ";"},
        ) as proxy,
    ):
        commands = Path(sys.executable).parent
        here = f"http://127.0.0.1:{proxy.port}"
        done = subprocess.run(
            ["bash", "-euc", questions.replace("https://media.example.com", here)],
            cwd=tmp_path,
            env={
                "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
                "OPENAI_API_KEY": acme,
            },
            capture_output=True,
            text=True,
            timeout=servers.TIMEOUT_S,
            check=False,
        )
        said_at_start = side_car.log()

    assert done.returncode == 0, done.stderr
    assert "Container: MP4" in done.stdout
    assert ready.replace("http://127.0.0.1:8080", side_car.url) in said_at_start


def test_each_may_be_restarted_without_the_other(
    identity: Identity, acme: str, tmp_path: Path
) -> None:
    """H63, H64: what is stored is in the directory; who is away is missed for its own requests only."""
    store = tmp_path / "store"
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Server:
            return stack.enter_context(servers.serving(*flags, store=store))

        # Theirs also while nobody listens there.
        side_car_port, engine_port = (
            ("--port", str(stack.enter_context(servers.reserved_port()))) for _ in range(2)
        )
        side_car, engine = start(*SIDE_CAR, *side_car_port), start(*SCOPES, *engine_port)
        address = f"{engine.host}:{engine.port}"
        proxy = stack.enter_context(site(side_car, address, identity, tmp_path / "nginx"))
        first = put(proxy, acme)

        side_car.kill()
        asked_without_side_car = ask(proxy, acme, first)
        listed_without_side_car = proxy.request("GET", "/v1/files", token=acme)
        side_car = start(*SIDE_CAR, *side_car_port)
        second = put(proxy, acme, GIF)

        engine.kill()
        asked_without_engine = ask(proxy, acme, first)
        third = put(proxy, acme)
        start(*SCOPES, *engine_port)
        asked = [ask(proxy, acme, file_id) for file_id in (first, second, third)]
        listed = proxy.request("GET", "/v1/files", token=acme)

    assert asked_without_side_car.status == 200
    assert listed_without_side_car.status == asked_without_engine.status == 502
    assert [answer.status for answer in asked] == [200, 200, 200]
    assert measured(asked[0]) == measured(asked[2]) != measured(asked[1])
    assert {file["id"] for file in listed.json()["data"]} == {first, second, third}


def test_no_log_of_the_proxy_holds_an_id(shared: Site, acme: str) -> None:
    """Whoever has an id and the scope can use the file."""
    file_id = put(shared.proxy, acme)
    log = shared.proxy.directory / "mediagate.log"
    asked = "POST /v1/chat/completions 200"
    before = log.read_text().count(asked) if log.exists() else 0

    for target in (
        f"/v1/files/{file_id}",
        f"/v1/files/{file_id}/content",
        f"/v1/uploads/{file_id}",
    ):
        shared.proxy.request("GET", target, token=acme)
    ask(shared.proxy, acme, file_id)

    servers.until(lambda: log.read_text().count(asked) > before)
    files = [path for path in shared.proxy.directory.rglob("*") if path.is_file()]
    assert "GET /v1/files/{id}/content 200" in log.read_text()
    assert not [path for path in files if file_id.encode() in path.read_bytes()]


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said: random weights, but the same ones each time."""

    text: str
    prompt_tokens: int


def about_clip(url: str) -> bytes:
    part = {"type": "video_url", "video_url": {"url": url}}
    text = {"type": "text", "text": "What is in this clip?"}
    body = {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 12,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": [part, text]}],
    }
    return json.dumps(body).encode()


def show_vllm(proxy: Proxy, token: str, url: str) -> Answer:
    return proxy.request("POST", CHAT, about_clip(url), token=token, headers=JSON)


def send_vllm(proxy: Proxy, token: str, clip: bytes) -> Answer:
    """The question and its clip in one form."""
    form = servers.form(
        servers.part("payload", about_clip("attachment://file")),
        servers.part("file", clip, "clip.mp4"),
    )
    return proxy.request(
        "POST", CHAT, form, token=token, headers={"Content-Type": servers.FORM_TYPE}
    )


def said(answer: Answer) -> Said:
    assert answer.status == 200, answer
    body = answer.json()
    return Said(body["choices"][0]["message"]["content"], body["usage"]["prompt_tokens"])


@pytest.mark.vllm
def test_vllm_reads_what_the_side_car_stored(
    identity: Identity, acme: str, globex: str, tmp_path: Path
) -> None:
    """H64, H68, H74, H77: by id as by `data:`, for its tenant, until it is deleted, through restarts of either."""
    store = tmp_path / "store"
    red, blue = (
        corpus.encode_clip(colours=(colour,), audio=None).data
        for colour in ((200, 30, 40), (20, 40, 220))
    )
    inline = [f"data:video/mp4;base64,{base64.b64encode(clip).decode()}" for clip in (red, blue)]

    with contextlib.ExitStack() as stack:

        @contextlib.contextmanager
        def vllm_behind_nginx(directory: Path) -> Iterator[Proxy]:
            with (
                vllm_servers.serving(*SCOPES, *KEY, store=store) as vllm,
                site(
                    *(side_car, f"127.0.0.1:{vllm.port}", identity, directory),
                    changes=NGINX_HAS_THE_KEY,
                ) as proxy,
            ):
                yield proxy

        side_car = stack.enter_context(servers.serving(*SIDE_CAR, *KEY, store=store))
        with vllm_behind_nginx(tmp_path / "nginx") as proxy:
            kept, deleted = put(proxy, acme, red), put(proxy, acme, blue)
            by_data = [said(show_vllm(proxy, acme, url)) for url in inline]
            by_id = [said(show_vllm(proxy, acme, file_id)) for file_id in (kept, deleted)]
            foreign = show_vllm(proxy, globex, kept)
            assert proxy.request("DELETE", f"/v1/files/{deleted}", token=acme).status == 200
            gone = show_vllm(proxy, acme, deleted)
            by_form = send_vllm(proxy, acme, red)
            side_car.kill()
            without_side_car = said(show_vllm(proxy, acme, f"vllm-file://{kept}"))
        side_car = stack.enter_context(servers.serving(*SIDE_CAR, *KEY, store=store))
        with vllm_behind_nginx(tmp_path / "anew") as proxy:
            listed = proxy.request("GET", "/v1/files", token=acme)
            after_restarts = said(show_vllm(proxy, acme, kept))
            still_gone = show_vllm(proxy, acme, deleted)

    assert by_id == by_data
    assert by_data[0].text != by_data[1].text
    assert without_side_car == after_restarts == by_data[0]
    assert {answer.code for answer in (foreign, gone, still_gone)} == {(404, "file_not_found")}
    assert gone.error["param"] == "messages[0].content[0].video_url.url"
    assert said(by_form) == by_data[0]
    of_form = by_form.header("x-mediagate-file-ids")
    assert {file["id"] for file in listed.json()["data"]} == {kept, of_form}
