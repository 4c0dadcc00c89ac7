"""What the README, the tutorial and the guides tell people to type, typed.

A page's `sh` blocks run one after another in one shell, its `python` blocks in between, against a real server with
its defaults. A `text` or `json` block is what the block before it must print: its lines, in this order, others may
stand between; `…` stands for anything. What cannot be run here says so in the page, with the reason:
`<!-- not run: … -->`.
"""

import contextlib
import getpass
import http.client
import json
import os
import re
import runpy
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
import vllm_servers
from servers import Server

ROOT = Path(__file__).parents[2]
IN_DOCS = "http://127.0.0.1:8080"
VLLM_IN_DOCS = "localhost:8000"

pytestmark = pytest.mark.media

_BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    text: str
    is_run: bool
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(match["language"], match["text"], match["skip"] is None, line)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what readers have: a clip, and the film of the demo."""
    place = tmp_path_factory.mktemp("workshop")
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    demo["encode_clip"](place / "build" / "demo" / "clip.mp4")
    (place / "clip.mp4").write_bytes((place / "build" / "demo" / "clip.mp4").read_bytes())
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.serving(store=None) as running:
        yield running


class Shell:
    """One shell for one page; `run` returns what a block printed."""

    _END = "--- end of block ---"

    def __init__(self, server: Server, place: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIAGATE_", "OPENAI_"))}
        self._url = server.url
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=place,
            env={**kept, "PATH": path, "MEDIAGATE_SERVER": server.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, block: Block) -> str:
        """What the block printed; a TOML block is the file that the page tells to write."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        text = block.text.replace(IN_DOCS, self._url)
        text = text.replace(VLLM_IN_DOCS, self._url.removeprefix("http://"))
        match block.language:
            case "python":
                text = f"{sys.executable} - <<'PYTHON'\n{text}PYTHON"
            case "toml":
                text = f"cat >mediagate.toml <<'TOML'\n{text}TOML"
            case other:
                assert other == "sh", f"line {block.line}: nobody knows how to run {other}"
        self._process.stdin.write(f"{text}\nprintf '\\n%s %s\\n' '{self._END}' $?\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.startswith(self._END):
                assert line.split()[-1] == "0", f"{text}\nfailed, and printed\n{printed}"
                return printed
            printed += line
        raise AssertionError(f"the shell ended:\n{printed}")

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def check(expected: str, printed: str) -> None:
    """Each line of `expected`, in order."""
    at = 0
    for line in filter(None, expected.splitlines()):
        pattern = ".*?".join(re.escape(piece) for piece in line.split("…"))
        # Blanks that align a table depend on what stands in it.
        pattern = re.sub(r"(?:\\ ){2,}", r" +", pattern)
        found = re.compile(rf"^{pattern}$", re.M).search(printed, at)
        assert found, f"no line {line!r} in:\n{printed}"
        at = found.end()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/tutorials/first-upload.md",
        "docs/how-to/send-a-file-with-the-question.md",
        "docs/how-to/upload-in-parts.md",
        "docs/how-to/watch-it.md",
        "docs/how-to/keep-files-across-restarts.md",
        "docs/how-to/limit-what-clients-may-upload.md",
    ],
)
def test_what_the_page_says_happens(page: str, server: Server, workshop: Path) -> None:
    follow(page, server, workshop)


@pytest.mark.vllm
def test_what_the_guide_to_vllm_says_happens(tmp_path: Path) -> None:
    """With the flags of its first block, and media that fit a tiny model."""
    page = "docs/how-to/uploads-on-vllm.md"
    start = next(block for block in blocks(ROOT / page) if "vllm serve MODEL" in block.text)
    flags = shlex.split(start.text.partition("vllm serve MODEL")[2])
    clip = corpus.encode_clip(width=112, height=112, seconds=2)
    (tmp_path / "clip.mp4").write_bytes(clip.data)
    (tmp_path / "photo.png").write_bytes(corpus.encode_image(width=112, height=112).data)

    with vllm_servers.serving(*flags) as server:
        follow(page, server, tmp_path)


def follow(page: str, server: Server, place: Path) -> None:
    """Do what the page tells to do, and see that it prints what the page says."""
    shell = Shell(server, place)
    printed: str | None = None
    unexplained = ""
    try:
        for block in blocks(ROOT / page):
            if block.language in {"text", "json"}:
                if printed is not None:
                    check(block.text, printed)
                    unexplained = ""
                continue
            assert not unexplained, f"{page}:{block.line}: the block before printed {unexplained}"
            printed = shell.run(block) if block.is_run else None
            unexplained = printed if printed and '"error"' in printed else ""
        assert not unexplained
    finally:
        shell.end()


def test_server_announces_itself_as_the_tutorial_says(server: Server) -> None:
    tutorial = blocks(ROOT / "docs/tutorials/first-upload.md")

    said = next(block.text for block in tutorial if block.text.startswith("mediagate: ready"))

    assert said.replace(IN_DOCS, server.url) in server.log()


def test_server_of_the_guide_to_tenants_tells_them_apart(workshop: Path, tmp_path: Path) -> None:
    guide = list(blocks(ROOT / "docs/how-to/serve-several-tenants.md"))
    (keys,) = (block.text for block in guide if block.language == "toml")
    by_key, by_header = (
        shlex.split(block.text)[2:]
        for block in guide
        if block.language == "sh" and not block.is_run
    )
    (tmp_path / "keys.toml").write_text(keys)
    flags = [str(tmp_path / "keys.toml") if flag == "keys.toml" else flag for flag in by_key]

    with servers.serving(*flags, store=tmp_path / "store") as server:
        shell = Shell(server, workshop)
        try:
            for block in guide:
                if block.language == "sh" and block.is_run:
                    printed = shell.run(block)
                elif block.language == "text":
                    check(block.text, printed)
        finally:
            shell.end()
    with servers.serving(*by_header, store=tmp_path / "store") as server:
        refused = servers.get(server, "/v1/files", x_consumer_id="team-a")

    assert refused.code == (403, "scope_not_allowed")


@dataclass(frozen=True, slots=True)
class Nginx:
    port: int
    directory: Path
    trust: ssl.SSLContext

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=20, context=self.trust
        )
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def log(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def port() -> Iterator[int]:
    with servers.reserved_port() as reserved:
        yield reserved


@pytest.fixture
def nginx(server: Server, port: int, tmp_path: Path) -> Iterator[Nginx]:
    """The guide's configuration at work, on a free port, with a certificate of its own."""
    (configuration,) = (
        block.text
        for block in blocks(ROOT / "docs/how-to/run-behind-a-proxy.md")
        if block.language == "nginx"
    )
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-nodes", "-subj", "/CN=media.example.com", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    for theirs, ours in (
        ("127.0.0.1:8080", f"{server.host}:{server.port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/certs/media.example.com.pem", str(certificate)),
        ("/etc/ssl/private/media.example.com.key", str(key)),
        ("/var/log/nginx/", f"{tmp_path}/"),
    ):
        assert theirs in configuration
        configuration = configuration.replace(theirs, ours)
    own_files = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"daemon off;\nuser {getpass.getuser()};\npid {tmp_path}/pid;\nevents {{}}\n"
        f"http {{\n{own_files}{configuration}}}\n"
    )
    # Before its own log is open, nginx writes to the one it was built with, unless told otherwise.
    process = subprocess.Popen(
        ["nginx", "-p", tmp_path, "-e", tmp_path / "start.log", "-c", whole],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        servers.until(lambda: _accepts(port) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        for name in ("client_body", "proxy"):
            (tmp_path / name).rmdir()  # who buffers on disk now fails
        trust = ssl.create_default_context(cafile=certificate)
        yield Nginx(port, tmp_path, trust)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.services
def test_nginx_of_the_guide_passes_uploads_refusals_and_streams_and_logs_no_id(
    nginx: Nginx, workshop: Path
) -> None:
    # Above nginx's default limit and its buffers, behind a well-formed head.
    large = (workshop / "clip.mp4").read_bytes() + bytes(3 * 1024**2)
    unwanted = b"%PDF-1.7" + bytes(3 * 1024**2)

    status, body = nginx.ask("PUT", "/v1/files?filename=clip.mp4", large)
    file_id = json.loads(body)["id"]
    content = nginx.ask("GET", f"/v1/files/{file_id}/content")
    refused_status, refused = nginx.ask("PUT", "/v1/files", unwanted)
    part = {"type": "video_url", "video_url": {"url": file_id}}
    question: dict[str, Any] = {"model": "mediagate-inspector", "stream": True}
    question["messages"] = [{"role": "user", "content": [part]}]
    chat_status, answer = nginx.ask("POST", "/v1/chat/completions", json.dumps(question).encode())

    assert (status, content) == (200, (200, large))
    assert (refused_status, json.loads(refused)["error"]["code"]) == (400, "unsupported_media_type")
    assert (chat_status, answer[-14:]) == (200, b"data: [DONE]\n\n")
    servers.until(lambda: "POST /v1/chat/completions 200" in nginx.log("mediagate.log"))
    assert "GET /v1/files/{id}/content 200" in nginx.log("mediagate.log")
    assert file_id not in nginx.log("mediagate.log") + nginx.log("mediagate-error.log")
