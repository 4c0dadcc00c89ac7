"""The store's directory inside vLLM: who shares it, who may clear it, and what is left when a process of vLLM dies.

One real server of two API servers on a directory that was named; beside it, and after it, processes that start as
other servers do.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
import vllm_servers
from engines.install_vllm import ROOT
from servers import RawClient
from store_locks import is_held
from vllm_servers import VllmServer

pytestmark = pytest.mark.vllm

CHILDREN = {"PYTHONPATH": f"{ROOT}/tests/engines"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """Two API servers on a directory that was named."""
    store = tmp_path_factory.mktemp("directory") / "store"
    with vllm_servers.serving("--api-server-count", "2", store=store) as running:
        yield running


@pytest.fixture(scope="module")
def file(server: VllmServer) -> dict[str, Any]:
    """What is in it."""
    return servers.upload(server, corpus.png_pixel(), filename="pixel.png", purpose="vision")


def ask(code: str, store: Path) -> Any:
    """What a script prints that starts as vLLM does, on the same directory."""
    head = "from vllm_children import *\nON = '--enable-file-uploads', '--file-upload-dir', "
    return vllm_servers.run(f"{head}{str(store)!r}\n{code}", env=CHILDREN)


def test_a_second_vllm_shares_the_directory_and_does_not_clear_it(
    server: VllmServer, file: dict[str, Any]
) -> None:
    """P12: it sees the files of the first, byte for byte; it is refused when it would begin with an empty one."""
    path = f"/v1/files/{file['id']}"
    shared, cleared = ask(
        f"""
shared = ask(lambda: exchange(app(*ON), ("GET", "/v1/files"), ("GET", {path + "/content"!r})))
cleared = ask(lambda: refusal(*ON, "--file-upload-clear-on-start"))
print(json.dumps([shared, cleared]))
""",
        server.store,
    )

    (status, _, listing), (_, _, content) = shared
    assert status == 200
    assert json.loads(listing)["data"] == [file]
    assert content.encode("latin-1") == corpus.png_pixel()
    assert cleared == [
        2,
        f"mediagate: {server.store} is in use by another process: it was not cleared\n",
    ]
    assert servers.list_ids(server) == [file["id"]]


def test_an_api_server_that_dies_takes_all_with_it_and_leaves_no_lock(
    server: VllmServer, file: dict[str, Any]
) -> None:
    """P3, P12: vLLM ends as a whole, in the middle of an upload; who comes next finds what was acknowledged."""
    data = corpus.png_pixel() + bytes(600_000)
    with RawClient(server) as client:
        head = (f"Content-Length: {2 * len(data)}", "Content-Type: image/png")
        client.send_head("POST", "/v1/files?purpose=vision", *head)
        client.send(data)
        servers.until(lambda: len(server.on_disk()) == 2)
        (first,) = (
            each for each in server.processes() if each.title.startswith("VLLM::APIServer_0")
        )

        os.kill(first.pid, signal.SIGKILL)
        servers.until(lambda: not server.is_running)

    servers.until(lambda: not server.processes(), timeout_s=10)
    assert not is_held(server.store)
    listed = ask(
        """
print(json.dumps(ask(lambda: exchange(app(*ON), ("GET", "/v1/files")))))
""",
        server.store,
    )
    assert [each["id"] for each in json.loads(listed[0][2])["data"]] == [file["id"]]


def test_only_the_parent_clears_and_a_crash_leaves_nothing_for_ever(tmp_path: Path) -> None:
    """P12: what its children find in a directory that was to be cleared, they keep; what a crash left goes."""
    store = tmp_path / "store"

    found = ask(
        """
def kept():
    (Path(ON[-1]) / "index.sqlite3").write_bytes(b"") if not Path(ON[-1], "index.sqlite3").exists() else None
    return exchange(app(), ("GET", "/v1/files"))[0][0]


def is_there():
    return Path(ON[-1], "index.sqlite3").exists()


def next_start():
    handed_on("--enable-file-uploads")
    return Path(left).exists()


first = ask(lambda: handed_on(*ON, "--file-upload-clear-on-start"))
status = ask(kept, env=first)          # an API server, which writes rows
before = is_there()
again = ask(lambda: exchange(app(), ("GET", "/v1/files"))[0][0], env=first)
after_child = is_there()
ask(lambda: handed_on(*ON, "--file-upload-clear-on-start"))
after_parent = is_there()

# Ends without a word, as by kill -9: nothing of it is cleaned up.
left = ask(lambda: handed_on("--enable-file-uploads"))["_MEDIAGATE_HELD_DIR"]
print(json.dumps([status, before, again, after_child, after_parent, Path(left).exists(), ask(next_start)]))
""",
        store,
    )

    assert found == [200, True, 200, True, False, True, False]
