"""The proxies of `examples/` in front of mediagate: tenants kept apart, uploads streamed, refusals read by the client.

Every test runs behind each of them: nginx, HAProxy and Caddy as Debian has them, Envoy as it is released.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import corpus
import proxies
import servers
from proxies import Identity, Proxy
from servers import Answer, Server

MIB = 1024**2
LIMIT_MIB = 65
SLOTS = 2
PNG = corpus.png_pixel()
CHAT = "/v1/chat/completions"

NGINX = pytest.param("nginx", marks=pytest.mark.services)
HAPROXY = pytest.param("haproxy", marks=pytest.mark.services)
CADDY = pytest.param("caddy", marks=pytest.mark.services)
ENVOY = pytest.param("envoy", marks=pytest.mark.peers)

CLIENTS = [
    pytest.param(sys.executable, id="newest"),
    pytest.param(os.environ.get("SDK1_PYTHON", ""), id="1.x", marks=pytest.mark.sdk1),
]

UPLOAD_BY_SDK = """
import json, pathlib, sys, openai
base_url, key, path, retries = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=int(retries), timeout=60)
try:
    client.files.create(file=pathlib.Path(path), purpose="vision")
except openai.APIStatusError as error:
    print(json.dumps([error.status_code, error.code, error.response.headers.get("retry-after")]))
"""


class Upstream:
    """An inference server that records the headers it gets, and streams its answer in two pieces.

    Attributes:
        received: The header lines of each request, names in lower case.
        go_on: The second piece waits for it.
    """

    def __init__(self) -> None:
        self.received: list[list[tuple[str, str]]] = []
        self.go_on = threading.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve; the URL."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                upstream.received.append([(k.lower(), v) for k, v in self.headers.items()])
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: one\n\n")
                upstream.go_on.wait(servers.TIMEOUT_S)
                self.wfile.write(b"data: two\n\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                self.go_on.set()
                server.shutdown()
                thread.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxies")


@pytest.fixture(scope="module")
def identity(place: Path) -> Iterator[Identity]:
    with proxies.identity(place) as started:
        yield started


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def shared(place: Path, upstream: Upstream) -> Iterator[Server]:
    with (
        upstream.serving() as url,
        servers.serving(
            *("--upstream", url, "--engine", "openai"),
            *("--file-upload-scope-header", proxies.SCOPE_HEADER, "--trusted-proxy", "127.0.0.1"),
            *("--file-upload-max-size-mb", str(LIMIT_MIB)),
            *("--file-upload-max-concurrent", str(SLOTS)),
            store=place / "store",
        ) as server,
    ):
        yield server


@pytest.fixture(scope="module", params=[NGINX, HAPROXY, CADDY, ENVOY])
def proxy(
    shared: Server, identity: Identity, request: pytest.FixtureRequest, place: Path
) -> Iterator[Proxy]:
    directory = place / request.param
    directory.mkdir()
    with proxies.running(request.param, shared, identity, directory) as started:
        yield started


@pytest.fixture
def server(shared: Server, upstream: Upstream) -> Server:
    upstream.received.clear()
    upstream.go_on.clear()
    return shared


@pytest.fixture
def acme(identity: Identity) -> str:
    return identity.token("acme")


@pytest.fixture
def globex(identity: Identity) -> str:
    return identity.token("globex")


@pytest.fixture(scope="module")
def too_large(place: Path) -> Path:
    path = place / "large.png"
    path.write_bytes(PNG + bytes(96 * MIB))
    return path


@pytest.fixture(scope="module")
def allowed(place: Path) -> Path:
    path = place / "allowed.png"
    path.write_bytes(PNG + bytes(64 * MIB - len(PNG)))
    return path


def put(proxy: Proxy, token: str, data: bytes = PNG) -> str:
    """Upload; the id."""
    answer = proxy.request("PUT", "/v1/files?filename=a.png", data, token=token)
    assert answer.status == 200, answer
    return str(answer.json()["id"])


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [file["id"] for file in answer.json()["data"]]


def chat(proxy: Proxy, token: str, file_id: str) -> Answer:
    part = {"type": "image_url", "image_url": {"url": file_id}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    headers = {"content-type": "application/json", "x-request-id": "from-the-client"}
    return proxy.request("POST", CHAT, json.dumps(body).encode(), token=token, headers=headers)


def curl(proxy: Proxy, token: str, *arguments: str | Path) -> tuple[Any, Mapping[str, str]]:
    """POST to `/v1/files`: the JSON it printed, and the headers it saw last."""
    done = subprocess.run(
        [
            *("curl", "-sS", "--cacert", proxy.certificate, "-D", "/dev/stderr"),
            *("-H", f"Authorization: Bearer {token}", *arguments),
            f"{proxy.url}/v1/files?filename=a.png",
        ],
        capture_output=True,
        text=True,
        timeout=servers.TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, *lines = done.stderr.strip().split("\n\n")[-1].splitlines()
    pairs = [line.partition(":") for line in lines]
    return json.loads(done.stdout), {
        ":status": status.split()[1],
        **{name.lower(): value.strip() for name, _, value in pairs},
    }


def upload_by_sdk(python: str, proxy: Proxy, token: str, path: Path, *, retries: int) -> Any:
    """What the official client made of the refusal: status, code, `Retry-After`."""
    done = subprocess.run(
        [python, "-c", UPLOAD_BY_SDK, f"{proxy.url}/v1", token, path, str(retries)],
        env=os.environ | {"SSL_CERT_FILE": str(proxy.certificate)},
        capture_output=True,
        text=True,
        timeout=servers.TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def arriving(server: Server) -> int:
    return sum(name.endswith(".partial") for name in server.on_disk())


FORGERIES = {
    "as it is": [("X-Scope", "acme")],
    "twice": [("X-Scope", "acme"), ("x-scope", "globex")],
    "with an underscore": [("X_Scope", "acme")],
    "both spellings": [("X_Scope", "acme"), ("X-Scope", "acme")],
    "named hop-by-hop": [("Connection", "X-Scope"), ("X-Scope", "acme")],
    "only hop-by-hop": [("Connection", "close, x-scope")],
    "in the words of the authentication service": [("X-Auth-Request-User", "acme")],
    "its words hop-by-hop": [("Connection", "X-Auth-Request-User")],
}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("lines", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_scope_changes_nothing(
    proxy: Proxy, acme: str, globex: str, lines: list[tuple[str, str]]
) -> None:
    """H67, H69, H70: the scope is what the proxy authenticated, whatever the client claims."""
    theirs, mine = put(proxy, acme), put(proxy, globex)

    listed = proxy.request("GET", "/v1/files", token=globex, lines=lines)
    got = proxy.request("GET", f"/v1/files/{theirs}", token=globex, lines=lines)
    own = proxy.request("GET", f"/v1/files/{mine}", token=globex, lines=lines)

    assert mine in ids(listed)
    assert theirs not in ids(listed)
    assert got.code == (404, "file_not_found")
    assert own.status == 200


def test_a_foreign_file_is_not_found_wherever_it_is_named(
    proxy: Proxy, server: Server, upstream: Upstream, acme: str, globex: str
) -> None:
    """H66, H68, H71: nor is it deleted; the upstream learns of no scope and no key."""
    file_id = put(proxy, acme)
    upstream.go_on.set()

    foreign = [
        proxy.request(method, f"/v1/files/{file_id}{rest}", token=globex)
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", ""))
    ]
    refused = chat(proxy, globex, file_id)
    asked_for_globex = len(upstream.received)
    answered = chat(proxy, acme, file_id)

    assert {answer.code for answer in (*foreign, refused)} == {(404, "file_not_found")}
    assert asked_for_globex == 0
    assert answered.status == 200
    (headers,) = upstream.received
    assert not {"x-scope", "x_scope", "authorization"} & {name for name, _ in headers}


def test_who_is_not_authenticated_never_reaches_mediagate(
    proxy: Proxy, server: Server, acme: str
) -> None:
    forged = (("X-Scope", "acme"), ("X-Request-Id", "of-a-stranger"))

    answers = [
        proxy.request("GET", "/v1/files", token=token, lines=forged)
        for token in (None, "a.b.c", "key")
    ]

    assert [answer.status for answer in answers] == [401, 401, 401]
    name = f"of-acme-{proxy.port}"
    proxy.request("GET", "/v1/files", token=acme, headers={"X-Request-Id": name})
    servers.until(lambda: name in server.log())
    assert "of-a-stranger" not in server.log()


@pytest.mark.usefixtures("server")
def test_who_is_known_but_has_no_scope_cannot_choose_one(proxy: Proxy, identity: Identity) -> None:
    """H65, H69: what the client sent is gone even where the proxy has nothing to put in its place."""
    answer = proxy.request(
        "GET", "/v1/files", token=identity.token(None), lines=[("X-Scope", "acme")]
    )

    # By mediagate; or before, as HAProxy knows no such key, and Caddy sees that there is no scope.
    assert answer.status in {400, 401, 403}


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_is_streamed(
    proxy: Proxy, server: Server, acme: str, allowed: Path, framing: str
) -> None:
    """H11: mediagate holds what the client has sent so far while the client has not sent the rest."""
    data = allowed.read_bytes()
    half = len(data) // 2

    def frame(piece: bytes) -> bytes:
        return piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece)

    (before, _) = server.usage()
    with contextlib.closing(proxy.connect()) as connection:
        connection.putrequest("PUT", "/v1/files?filename=large.png")
        connection.putheader("Authorization", f"Bearer {acme}")
        if framing == "length":
            connection.putheader("Content-Length", str(len(data)))
        else:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        connection.send(frame(data[:half]))
        # All but what fits into the buffers of sockets and of the proxy.
        servers.until(lambda: server.usage()[0] - before >= half * 3 // 4)
        connection.send(frame(data[half:]))
        if framing == "chunked":
            connection.send(b"0\r\n\r\n")
        answer = connection.getresponse()
        file = json.loads(answer.read())

    assert (answer.status, file["bytes"]) == (200, len(data))


def test_parts_of_a_file_come_back(proxy: Proxy, server: Server, acme: str) -> None:
    """H46, H49, H50."""
    file_id = put(proxy, acme, PNG + bytes(range(256)) * 4096)
    target = f"/v1/files/{file_id}/content"

    whole = proxy.request("GET", target, token=acme)
    head = proxy.request("HEAD", target, token=acme)
    some = proxy.request("GET", target, token=acme, headers={"Range": "bytes=1-3"})
    none = proxy.request("GET", target, token=acme, headers={"Range": "bytes=9999999-"})

    assert whole.body == PNG + bytes(range(256)) * 4096
    assert (head.status, head.header("content-length"), head.body) == (
        200,
        str(len(whole.body)),
        b"",
    )
    assert (some.status, some.body) == (206, PNG[1:4])
    assert some.header("content-range") == f"bytes 1-3/{len(whole.body)}"
    assert none.status == 416


@pytest.mark.parametrize("python", CLIENTS)
def test_the_official_client_reads_an_early_413_and_sends_once(
    proxy: Proxy, server: Server, acme: str, too_large: Path, python: str
) -> None:
    """H10, H12."""
    before = server.log().count("POST /v1/files 413")

    seen = upload_by_sdk(python, proxy, acme, too_large, retries=2)

    assert seen == [413, "file_too_large", None]
    servers.until(lambda: server.log().count("POST /v1/files 413") > before)
    assert server.log().count("POST /v1/files 413") == before + 1


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("proxy", [HAPROXY, CADDY, ENVOY], indirect=True)
def test_a_client_that_asks_first_is_refused_before_it_sends(proxy: Proxy, acme: str) -> None:
    """H10: nginx alone answers `100 Continue` itself."""
    with contextlib.closing(proxy.connect()) as connection:
        connection.putrequest("PUT", "/v1/files")
        connection.putheader("Authorization", f"Bearer {acme}")
        connection.putheader("Content-Length", str(96 * MIB))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        first = connection.sock.recv(12)

    assert first == b"HTTP/1.1 413"


HOW = {
    "form": ["-F", "purpose=vision", "-F", "file=@PATH"],
    "form, unasked": ["-H", "Expect:", "-F", "purpose=vision", "-F", "file=@PATH"],
    "bare": ["-T", "PATH"],
    "chunked": ["-H", "Expect:", "-H", "Transfer-Encoding: chunked", "-T", "PATH"],
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_curl_reads_a_413_while_it_is_sending(
    proxy: Proxy, acme: str, too_large: Path, how: list[str]
) -> None:
    """H9, H10, H11: early where the length was declared, else in the middle of the body."""
    arguments = [argument.replace("PATH", str(too_large)) for argument in how]

    body, headers = curl(proxy, acme, *arguments)

    assert headers[":status"] == "413"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == "file_too_large"


def test_both_read_an_early_503_and_when_to_come_again(
    proxy: Proxy, server: Server, acme: str, allowed: Path
) -> None:
    """H23, H94."""
    with contextlib.ExitStack() as stack:
        for n in range(SLOTS):  # one tenant may not take them all
            begun = PNG + bytes(MIB // 2)
            stack.enter_context(servers.slot_taken(server, begun, f"X-Scope: {n}"))
        servers.until(lambda: arriving(server) == SLOTS)

        by_sdk = upload_by_sdk(sys.executable, proxy, acme, allowed, retries=0)
        body, headers = curl(proxy, acme, "-H", "Expect:", "-F", f"file=@{allowed}")

    servers.until(lambda: arriving(server) == 0)
    assert by_sdk[:2] == [503, "too_many_uploads"]
    assert 0 < int(by_sdk[2]) <= 120
    assert (headers[":status"], body["error"]["code"]) == ("503", "too_many_uploads")
    assert headers["retry-after"] == by_sdk[2]


def test_a_streamed_answer_arrives_in_pieces(
    proxy: Proxy, server: Server, upstream: Upstream, acme: str
) -> None:
    with contextlib.closing(proxy.connect()) as connection:
        headers = {"Authorization": f"Bearer {acme}", "Content-Type": "application/json"}
        connection.request("POST", CHAT, b'{"model":"m","messages":[],"stream":true}', headers)
        answer = connection.getresponse()
        first = answer.readline()  # the upstream sends no more before it is told to
        upstream.go_on.set()
        rest = answer.read()

    assert (answer.status, first, rest) == (200, b"data: one\n", b"\ndata: two\n\n")


def test_the_request_id_passes_both_ways(
    proxy: Proxy, server: Server, upstream: Upstream, acme: str
) -> None:
    """H97."""
    upstream.go_on.set()

    answer = chat(proxy, acme, put(proxy, acme))

    (headers,) = upstream.received
    assert ("x-request-id", "from-the-client") in headers
    assert answer.values("x-request-id") == ["from-the-client"]


def test_no_log_of_the_proxy_holds_an_id(proxy: Proxy, server: Server, acme: str) -> None:
    """Whoever has an id and the scope can use the file."""
    file_id = put(proxy, acme)

    for target in (
        f"/v1/files/{file_id}",
        f"/v1/files/{file_id}/content",
        f"/v1/uploads/{file_id}",
    ):
        proxy.request("GET", target, token=acme)
    done = proxy.request("DELETE", f"/v1/files/{file_id}", token=acme)

    assert done.status == 200
    files = [path for path in proxy.directory.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if file_id.encode() in path.read_bytes()]


@pytest.mark.services
def test_a_scope_that_a_proxy_lost_is_nobodys(
    server: Server, identity: Identity, acme: str, tmp_path: Path
) -> None:
    """H65, H69: behind a proxy that obeys `Connection: X-Scope`, as Caddy does, the request is refused."""
    careless = {"request_header -Connection": ""}
    with proxies.running("caddy", server, identity, tmp_path, changes=careless) as proxy:
        put(proxy, acme)

        answer = proxy.request(
            "GET", "/v1/files", token=acme, lines=(("Connection", "close, X-Scope"),)
        )

    assert answer.status == 400
    assert "X-Scope" in answer.error["message"]
