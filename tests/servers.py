"""Real server processes for tests, and clients that can misbehave.

    with servers.serving("--file-upload-max-size-mb", "1", store=tmp_path / "store") as server:
        file = servers.upload(server, data, filename="clip.mp4")       -> dict, the file object
        answer = servers.request(server, "GET", "/v1/files")           -> Answer(status, headers, body)
        with servers.RawClient(server) as client:                      bytes exactly as written, FIN, RST
            client.send_head("POST", "/v1/files", "Content-Length: 5")
            answer = client.read_answer()
        server.on_disk(), server.usage(), server.log()                 what is left behind
        server.stop()                                                  SIGTERM; asserts a clean exit with status 0

`serving` ends the process whatever happens; a server that is still running then must drain and exit with 0 too.
A start takes about a second: share one server in a module where tests do not disturb each other.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

MEDIAGATE = str(Path(sys.executable).with_name("mediagate"))
BOUNDARY = "a-boundary-of-tests"
TIMEOUT_S = 60.0
"""Longest wait for anything; only a failing test ever waits so long."""

_READY = re.compile(r"mediagate: ready at http://\[?([0-9a-fA-F.:]+?)\]?:(\d+)")
_T = TypeVar("_T")
_RESET = struct.pack("ii", 1, 0)


class Server:
    """One server process.

    Attributes:
        host: Where it listens.
        port: Where it listens.
        store: Its directory.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, store: Path, log_path: Path, host: str, port: int
    ) -> None:
        self._process = process
        self._log_path = log_path
        self.store = store
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that was started; with several workers, of their parent."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """What it wrote to standard error so far."""
        return self._log_path.read_text(errors="replace")

    def stop(self, *, sig: int = signal.SIGTERM) -> None:
        """Ask it to end; fails unless it drains and exits with status 0."""
        self._process.send_signal(sig)
        status = self._process.wait(TIMEOUT_S)
        assert status == 0, f"exit status {status}:\n{self.log()}"

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def on_disk(self) -> list[str]:
        """Names of all files below `blobs/`, those still arriving (`….partial`) included."""
        # By hand, as tests ask often, and pathlib takes its time over 256 directories.
        with os.scandir(self.store / "blobs") as directories:
            return sorted(name for each in directories for name in os.listdir(each))  # noqa: PTH208

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the index behind the server's back, read-only."""
        uri = f"{(self.store / 'index.sqlite3').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    def usage(self) -> tuple[int, int]:
        """Bytes and files that count against the store's quota, reservations included."""
        ((used_bytes, files),) = self.rows(
            "SELECT used_bytes, files FROM usage WHERE owner = 'store'"
        )
        return used_bytes, files

    def leases(self) -> int:
        """How many leases there are."""
        return int(self.rows("SELECT count(*) FROM leases")[0][0])

    def is_clean(self) -> bool:
        """Whether there is nothing: no byte on disk, no row in any state, no quota taken."""
        return (
            self.rows("SELECT used_bytes, files, (SELECT count(*) FROM files) FROM usage")
            in ([(0, 0, 0)], [(0, 0, 0)] * 2)
            and not self.on_disk()
        )

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """None of its threads runs meanwhile: what is looked at one after another was there at once."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            until(lambda: set(self._thread_states()) == {"T"})
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _thread_states(self) -> Iterator[str]:
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield stat.read_text().rpartition(") ")[2][0]

    def children(self) -> list[int]:
        """Process ids of its workers."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed]


def start(
    *flags: str,
    store: Path | None,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Server:
    """Start `mediagate serve` on a free loopback port and wait until it answers; the caller ends it.

    Args:
        flags: As on the command line.
        store: `--file-upload-dir`; None: the server makes a temporary one, of which `Server` knows nothing.
        env: Added to the environment, from which all `MEDIAGATE_*` and `OPENAI_*` were removed.
        command: Stands for `mediagate serve`.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIAGATE_", "OPENAI_"))}
    directory = [] if store is None else ["--file-upload-dir", str(store)]
    descriptor, log_path = tempfile.mkstemp(prefix="test-of-mediagate-", suffix=".log")
    with open(descriptor, "wb") as log:  # noqa: PTH123 - a descriptor, no path
        process = subprocess.Popen(
            [
                *(command or (MEDIAGATE, "serve")),
                *("--port", "0", *directory, *flags),
            ],
            env=kept | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        host, port = _wait_until_ready(process, Path(log_path))
    except BaseException:
        process.kill()
        process.wait()
        Path(log_path).unlink()
        raise
    return Server(
        process, store=store or Path(os.devnull), log_path=Path(log_path), host=host, port=port
    )


def _wait_until_ready(process: subprocess.Popen[bytes], log_path: Path) -> tuple[str, int]:
    def find() -> re.Match[str] | None:
        text = log_path.read_text(errors="replace")
        assert process.poll() is None, f"the server ended before it was ready:\n{text}"
        return _READY.search(text)

    found = until(find)
    return found[1], int(found[2])


@contextlib.contextmanager
def serving(
    *flags: str,
    store: Path | None,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Server]:
    """`start` for the time of a block; a server that still runs at its end must drain and exit with 0."""
    server = start(*flags, store=store, env=env, command=command)
    try:
        yield server
        if server.is_running:
            server.stop()
    finally:
        server.kill()
        server._log_path.unlink(missing_ok=True)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port for a program that has to be told one: nobody else is given it meanwhile.

    A socket that is bound and does not listen takes nothing from one that listens there, as long as both share; where
    nobody listens, connections are refused.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind(("127.0.0.1", 0))
        yield int(reservation.getsockname()[1])


def until(ask: Callable[[], _T | None], *, timeout_s: float = TIMEOUT_S) -> _T:
    """Ask again until the answer is truthy: for what another process does in its own time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {ask}"
        time.sleep(0.01)
    return answer


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; header names are in lower case."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def values(self, name: str) -> list[str]:
        """All values of one header, in order."""
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str | None:
        """The one value of a header, or None."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, its shape checked (contract H92): exactly four keys, `code` a string or null."""
        assert self.header("content-type") == "application/json"
        body = self.json()
        assert list(body) == ["error"]
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert error["code"] is None or isinstance(error["code"], str)
        return dict(error)

    @property
    def code(self) -> tuple[int, str | None]:
        """Status and `error.code`."""
        return self.status, self.error["code"]


def request(
    server: Server,
    method: str,
    target: str,
    body: bytes | str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One well-formed request on a connection of its own."""
    return request_at(server.host, server.port, method, target, body, headers=headers)


def request_at(
    host: str,
    port: int,
    method: str,
    target: str,
    body: bytes | str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """The same to whatever listens there."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        lines = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, lines, response.read())


def get(server: Server, target: str, **headers: str) -> Answer:
    """GET; `accept_encoding="x"` sends that header."""
    return request(
        server, "GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def delete(server: Server, target: str) -> Answer:
    """DELETE."""
    return request(server, "DELETE", target)


def list_ids(server: Server, query: str = "") -> list[str]:
    """The ids of one page of the listing."""
    answer = get(server, f"/v1/files?{query}")
    assert answer.status == 200, answer
    return [file["id"] for file in answer.json()["data"]]


def empty(server: Server) -> None:
    """Delete all files; afterwards there must be no byte, no row, no lease and no quota taken."""
    for file_id in list_ids(server):
        assert delete(server, f"/v1/files/{file_id}").status == 200
    until(lambda: server.is_clean() and server.leases() == 0, timeout_s=10)


def part(name: str, data: bytes, filename: str | bytes | None = None) -> bytes:
    """One part of a form, with the boundary before it and not after it."""
    disposition = f'form-data; name="{name}"'.encode()
    if filename is not None:
        raw = filename.encode() if isinstance(filename, str) else filename
        disposition += b'; filename="' + raw + b'"\r\nContent-Type: application/octet-stream'
    return b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (BOUNDARY.encode(), disposition, data)


def form(*parts: bytes, end: bytes = b"--" + BOUNDARY.encode() + b"--\r\n") -> bytes:
    """A whole form out of `part`s."""
    return b"".join(parts) + end


FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def post_form(server: Server, body: bytes, *, headers: Mapping[str, str] | None = None) -> Answer:
    """Send a form to `POST /v1/files`."""
    return request(
        server,
        "POST",
        "/v1/files",
        body,
        headers={"content-type": FORM_TYPE} | dict(headers or {}),
    )


def post_file(
    server: Server, data: bytes, *, filename: str | bytes = "file.bin", **fields: str
) -> Answer:
    """Upload as the official client does: the fields, then the file. `expires_after__seconds` is the field's name."""
    parts = [part(_field(name), value.encode()) for name, value in fields.items()]
    return post_form(server, form(*parts, part("file", data, filename)))


def put_file(server: Server, data: bytes, **query: str) -> Answer:
    """Upload as `curl -T` does."""
    return request(server, "PUT", f"/v1/files?{urlencode(query)}", data)


def upload(
    server: Server, data: bytes, *, filename: str | bytes = "file.bin", **fields: str
) -> dict[str, Any]:
    """Upload, which must succeed; the file object."""
    answer = post_file(server, data, filename=filename, **fields)
    assert answer.status == 200, answer
    return dict(answer.json())


def _field(name: str) -> str:
    first, _, second = name.partition("__")
    return f"{first}[{second}]" if second else first


def chat(server: Server, *parts: Mapping[str, Any], stream: bool = False) -> Answer:
    """Ask the inspector about content parts."""
    body = {
        "model": "mediagate-inspector",
        "stream": stream,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}],
    }
    return post_json(server, "/v1/chat/completions", body)


def post_json(server: Server, target: str, body: Any) -> Answer:
    """POST a JSON body; `bytes` are sent as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(server, "POST", target, raw, headers={"content-type": "application/json"})


class RawClient:
    """A connection that sends exactly what it is told and ends it as rudely as wanted."""

    def __init__(
        self, server: Server, *, timeout_s: float = TIMEOUT_S, receive_buffer: int | None = None
    ) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect((server.host, server.port))
        except OSError:
            self.socket.close()
            raise
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def send_while_taken(self, data: bytes) -> int:
        """Send until all is sent or the server stops taking it; returns how much was sent."""
        sent = 0
        view = memoryview(data)
        with contextlib.suppress(ConnectionError):
            while sent < len(view):
                sent += self.socket.send(view[sent : sent + 65536])
        return sent

    def send_head(self, method: str, target: str, *lines: str) -> None:
        """A request line, `Host`, header lines, and the empty line."""
        head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: tests", *lines, "", ""))
        self.send(head.encode())

    def half_close(self) -> None:
        """FIN: nothing more will be sent, but answers are read."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()

    def close(self) -> None:
        """FIN both ways."""
        self.socket.close()

    def receive(self, size: int = 65536) -> bytes:
        """What comes next; empty at the end."""
        return self.socket.recv(size)

    def receive_exactly(self, size: int) -> bytes:
        """That many bytes; fails if the connection ends before."""
        taken = bytearray(self._pending[:size])
        self._pending = self._pending[size:]
        while len(taken) < size:
            more = self.receive(min(size - len(taken), 1024**2))
            assert more, f"the connection ended after {len(taken)} of {size} bytes"
            taken += more
        return bytes(taken)

    def read_head(self) -> Answer:
        """Status and headers of the next response, `100 Continue` among them; its body stays unread."""
        while b"\r\n\r\n" not in self._pending:
            more = self.receive()
            assert more, f"the connection ended before a response: {self._pending!r}"
            self._pending += more
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
        return Answer(int(status_line.split(" ")[1]), pairs, b"")

    def read_answer(self, *, to_head: bool = False) -> Answer:
        """The next whole response; `to_head`: it answers a HEAD request, so it has no body."""
        head = self.read_head()
        length = head.header("content-length")
        if to_head or head.status < 200 or head.status in {204, 304}:
            body = b""
        elif head.header("transfer-encoding") == "chunked":
            body = self._read_chunks()
        elif length is not None:
            body = self.receive_exactly(int(length))
        else:
            body = self.read_rest()
        return Answer(head.status, head.headers, body)

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                line += self.receive_exactly(1)
            chunk = self.receive_exactly(int(line, 16) + 2)[:-2]
            if not chunk:
                return body
            body += chunk

    def read_rest(self) -> bytes:
        """Everything until the server closes."""
        rest, self._pending = self._pending, b""
        while more := self.receive():
            rest += more
        return rest

    def is_closed_by_server(self) -> bool:
        """Whether nothing but the end comes; waits for it."""
        try:
            return self.read_rest() == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def slot_taken(
    server: Server, begun: bytes, *lines: str, size_bytes: int = 1024**2
) -> Iterator[RawClient]:
    """A client whose upload is being received: it has sent `begun`, and the rest is still to come.

    An upload that was given up just before may still hold its slot when nothing else is left of it: then once more.
    """
    lines = (f"Content-Length: {size_bytes}", *lines)
    client = until(lambda: _with_slot(server, *lines), timeout_s=10)
    with client:
        client.send(begun)
        yield client


def _with_slot(server: Server, *lines: str) -> RawClient | None:
    client = RawClient(server)
    client.send_head("PUT", "/v1/files", "Expect: 100-continue", *lines)
    if client.read_head().status == 100:
        return client
    client.close()
    return None
