"""Limits as clients meet them: early answers are read, slow clients lose their slot, a full disk is told as such."""

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

import corpus
import servers
from servers import RawClient, Server

MIB = 1024**2
PNG = corpus.png_pixel()
LARGE_BYTES = 48 * MIB
"""More than any socket's buffer holds: the answer comes while most of it is unsent."""


def padded(size_bytes: int) -> bytes:
    return PNG + bytes(size_bytes - len(PNG))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "large.png"
    path.write_bytes(padded(LARGE_BYTES))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-max-size-mb", "1", "--file-upload-max-concurrent", "1")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server) -> Iterator[Server]:
    """One slot, files of up to 1 MiB; afterwards nothing is left."""
    yield shared
    servers.until(shared.is_clean, timeout_s=10)


@contextlib.contextmanager
def slot_taken(server: Server) -> Iterator[RawClient]:
    """Somebody else sends, slowly."""
    with servers.slot_taken(server, padded(8192)) as client:
        yield client


# early answers -------------------------------------------------------------------------------------------

HOW = {
    "form": lambda path: ["-F", f"file=@{path}"],
    "raw": lambda path: ["-T", str(path)],
    "chunked": lambda path: ["-T", str(path), "-H", "Transfer-Encoding: chunked"],
}


def curl(server: Server, path: Path, *, how: str, expects: bool) -> tuple[int, str]:
    """Status and `error.code` of what curl printed; it must not have found the connection broken."""
    expect = "Expect: 100-continue" if expects else "Expect:"
    done = subprocess.run(
        [
            *("curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", "-H", expect),
            *(*HOW[how](path), f"{server.url}/v1/files"),
        ],
        capture_output=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("expects", [True, False])
def test_curl_reads_that_the_file_is_too_large(
    gateway: Server, large: Path, how: str, expects: bool
) -> None:
    """H10, H11, H12: while it still has most of the file to send."""
    assert curl(gateway, large, how=how, expects=expects) == (413, "file_too_large")


@pytest.mark.parametrize("how", ["form", "raw"])
@pytest.mark.parametrize("expects", [True, False])
def test_curl_reads_that_there_is_no_slot(
    gateway: Server, tmp_path: Path, how: str, expects: bool
) -> None:
    """H23, H94."""
    path = tmp_path / "a.png"
    path.write_bytes(padded(MIB))
    with slot_taken(gateway):
        assert curl(gateway, path, how=how, expects=expects) == (503, "too_many_uploads")


class Attempts(httpx2.HTTPTransport):
    """Remembers what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        self.statuses.append(response.status_code)
        return response


@contextlib.contextmanager
def official_client(
    server: Server, *, max_retries: int
) -> Iterator[tuple[openai.OpenAI, Attempts]]:
    attempts = Attempts()
    with (
        httpx2.Client(transport=attempts) as http,
        openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="any", http_client=http, max_retries=max_retries
        ) as client,
    ):
        yield client, attempts


def test_official_client_reads_that_there_is_no_slot(gateway: Server) -> None:
    """H23, H94: before it has sent the file, and with the time after which to come again."""
    with (
        slot_taken(gateway),
        official_client(gateway, max_retries=0) as (client, _),
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.files.create(file=("a.png", padded(MIB)), purpose="vision")

    assert (caught.value.status_code, caught.value.code) == (503, "too_many_uploads")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120


def test_official_client_comes_again_when_it_was_told_to(gateway: Server) -> None:
    """H94: by itself, and then there is a slot."""
    with (
        slot_taken(gateway) as other,
        official_client(gateway, max_retries=2) as (client, attempts),
    ):

        def leave() -> None:
            servers.until(lambda: attempts.statuses)
            other.reset()

        leaving = threading.Thread(target=leave)
        leaving.start()
        file = client.files.create(file=("a.png", PNG), purpose="vision")
        leaving.join()

    assert attempts.statuses == [503, 200]
    assert servers.delete(gateway, f"/v1/files/{file.id}").status == 200


def test_official_client_does_not_send_again_what_can_never_fit(tmp_path: Path) -> None:
    """H60, H93: one connection, although it retries every 5xx."""
    flags = ("--file-upload-max-total-gb", str(4 / 1024))
    with (
        servers.serving(*flags, store=tmp_path) as server,
        official_client(server, max_retries=2) as (client, attempts),
    ):
        kept = client.files.create(file=("a.png", PNG), purpose="vision").id
        with pytest.raises(openai.InternalServerError) as caught:
            client.files.create(file=("a.png", padded(LARGE_BYTES)), purpose="vision")

        assert (caught.value.status_code, caught.value.code) == (507, "insufficient_storage")
        assert attempts.statuses == [200, 507]
        assert [file.id for file in client.files.list()] == [kept]


# slow clients --------------------------------------------------------------------------------------------

PATIENT = {"idle-timeout-seconds": "60", "min-rate-kbps": "0.001", "deadline-seconds": "3600"}


@pytest.mark.parametrize(
    ("limit", "value", "trickles", "reason"),
    [
        ("idle-timeout-seconds", "0.5", False, "stopped coming"),
        ("deadline-seconds", "1", True, "stopped coming"),
        ("deadline-seconds", "0.5", False, "stopped coming"),
    ],
)
def test_slow_client_loses_its_slot(
    tmp_path: Path, limit: str, value: str, trickles: bool, reason: str
) -> None:
    """P10, H22: each limit by itself; told so, not worth a retry, and nothing of it is left."""
    flags = [f"--file-upload-{name}={given}" for name, given in (PATIENT | {limit: value}).items()]
    with servers.serving(*flags, "--file-upload-max-concurrent=1", store=tmp_path) as server:
        with RawClient(server) as client:
            client.send_head("PUT", "/v1/files", f"Content-Length: {MIB}")
            client.send(padded(8192))
            stop = threading.Event()
            trickling = threading.Thread(target=trickle, args=(client, stop))
            if trickles:
                trickling.start()
            answer = client.read_answer()
            stop.set()
            if trickles:
                trickling.join()

        assert answer.code == (408, "receive_timeout")
        assert reason in answer.error["message"]
        assert answer.header("x-should-retry") == "false"
        assert answer.header("connection") == "close"
        servers.until(server.is_clean, timeout_s=10)
        servers.until(lambda: servers.put_file(server, PNG).status == 200, timeout_s=10)


def trickle(client: RawClient, stop: threading.Event) -> None:
    """A byte now and then, which is always in time for the idle timeout."""
    with contextlib.suppress(ConnectionError):
        while not stop.wait(0.02):
            client.send(b"x")


# a full disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Server]:
    """A server on a file system of 32 MiB, of which the index has its share.

    Where nobody may mount one, no file may grow beyond 24 MiB: the kernel then refuses the same writes.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=32m,mode=700,uid={os.geteuid()}"
    mounting = [*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True).returncode:
        limited = ("prlimit", f"--fsize={24 * MIB}", servers.MEDIAGATE, "serve")
        with servers.serving(store=disk, command=limited) as server:
            yield server
        return
    try:
        with servers.serving(store=disk) as server:
            yield server
    finally:
        subprocess.run([*sudo, "umount", "--lazy", str(disk)], check=True)


def test_full_disk_is_told_as_such_and_reads_go_on(on_small_disk: Server) -> None:
    """H31, H93, P8: a file system without a free block; nothing of the file is left, and no row."""
    server = on_small_disk
    kept = servers.upload(server, padded(4 * MIB))

    for send in (servers.post_file, servers.put_file):
        answer = send(server, padded(28 * MIB))

        assert answer.code == (507, "insufficient_storage")
        assert answer.error["type"] == "server_error"
        assert answer.header("x-should-retry") == "false"
        assert answer.header("retry-after") is None
        servers.until(lambda: server.usage() == (4 * MIB, 1), timeout_s=10)
        assert len(server.on_disk()) == 1
        assert servers.list_ids(server) == [kept["id"]]
        content = servers.get(server, f"/v1/files/{kept['id']}/content")
        assert content.body == padded(4 * MIB)
    assert servers.delete(server, f"/v1/files/{kept['id']}").status == 200
    again = servers.upload(server, padded(16 * MIB))
    assert servers.list_ids(server) == [again["id"]]
