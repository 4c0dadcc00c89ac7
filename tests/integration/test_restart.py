"""Ends and beginnings: a restart between upload and chat, a drain, several processes on one directory."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

import corpus
import servers
from mediagate.web.server import GRACE_S
from servers import RawClient

pytestmark = pytest.mark.media

MIB = 1024**2
PNG = corpus.png_pixel()


def image(file_id: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": file_id}}


@pytest.mark.parametrize("end", [pytest.param("stop", marks=pytest.mark.slow), "kill"])
def test_restart_between_upload_and_chat_changes_nothing(tmp_path: Path, end: str) -> None:
    """H64, P1: ids, times, order and bytes are those of before, also after a power cut's `kill -9`."""
    picture = corpus.encode_image(container="png", width=31, height=17)
    with servers.serving(store=tmp_path) as server:
        for _ in range(3):
            servers.upload(server, picture.data, filename="a.png", purpose="vision")
        before = servers.get(server, "/v1/files").json()
        server.stop() if end == "stop" else server.kill()

    with servers.serving(store=tmp_path) as server:
        assert servers.get(server, "/v1/files").json() == before
        file_id = before["last_id"]
        assert servers.get(server, f"/v1/files/{file_id}/content").body == picture.data
        answer = servers.chat(server, image(file_id))
        assert answer.status == 200
        assert "31 x 17" in answer.json()["choices"][0]["message"]["content"]
        servers.empty(server)


def test_upload_in_flight_is_finished_before_the_end(tmp_path: Path) -> None:
    """P11: SIGTERM drains; new connections are refused meanwhile; then exit 0."""
    data = PNG + bytes(MIB)
    with servers.serving(store=tmp_path) as server, RawClient(server) as client:
        client.send_head("PUT", "/v1/files", f"Content-Length: {len(data)}")
        client.send(data[: MIB // 2])
        servers.until(lambda: server.usage()[1] == 1)

        stopping = threading.Thread(target=server.stop)
        stopping.start()
        servers.until(lambda: is_refused(server))
        client.send(data[MIB // 2 :])
        answer = client.read_answer()
        stopping.join()

        assert answer.status == 200
        assert not server.is_running
        assert "Traceback" not in server.log()
    with servers.serving(store=tmp_path) as server:
        content = servers.get(server, f"/v1/files/{answer.json()['id']}/content")
        assert content.body == data


def is_refused(server: servers.Server) -> bool:
    try:
        with RawClient(server):
            return False
    except ConnectionRefusedError:
        return True


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    """H63, H100: upload on one, everything else on the other."""
    with (
        servers.serving(store=tmp_path) as first,
        servers.serving(store=tmp_path) as second,
    ):
        file = servers.upload(first, PNG)

        assert servers.get(second, f"/v1/files/{file['id']}").json() == file
        assert servers.get(second, f"/v1/files/{file['id']}/content").body == PNG
        assert servers.list_ids(second) == [file["id"]]
        assert servers.chat(second, image(file["id"])).status == 200
        assert servers.delete(second, f"/v1/files/{file['id']}").status == 200
        assert servers.get(first, f"/v1/files/{file['id']}").code == (404, "file_not_found")
        # The bytes go when the last lease ends, which may be after the answer.
        servers.until(first.is_clean, timeout_s=10)


def test_several_workers_are_one_server(tmp_path: Path) -> None:
    """H63: each connection may meet another worker."""
    with servers.serving("--workers", "2", store=tmp_path) as server:
        assert len(server.children()) == 2
        ids = {servers.upload(server, PNG)["id"] for _ in range(10)}

        for _ in range(10):
            assert set(servers.list_ids(server)) == ids
        servers.empty(server)


def test_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    """H63, P12: one line, status 2, and nothing is touched."""
    (tmp_path / "thesis.txt").write_text("mine")

    done = subprocess.run(
        [servers.MEDIAGATE, "serve", "--port", "0", "--file-upload-dir", tmp_path],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_store_can_begin_empty_each_time(tmp_path: Path, workers: str) -> None:
    """H63: once, whatever the number of workers; and the files of this time are kept until the next."""
    with servers.serving(store=tmp_path) as server:
        servers.upload(server, PNG)
        server.kill()
    flags = ("--file-upload-clear-on-start", "--workers", workers)

    with servers.serving(*flags, store=tmp_path) as server:
        assert server.is_clean()
        servers.upload(server, PNG)
        assert all(len(servers.list_ids(server)) == 1 for _ in range(6))

    with servers.serving(*flags, store=tmp_path) as server:
        assert server.is_clean()
        assert servers.list_ids(server) == []


def test_store_that_is_in_use_is_not_cleared(tmp_path: Path) -> None:
    """H63, P12: one line, status 2, and whoever uses it notices nothing."""
    with servers.serving(store=tmp_path) as server:
        file_id = servers.upload(server, PNG)["id"]

        done = subprocess.run(
            [
                *(servers.MEDIAGATE, "serve", "--port", "0"),
                *("--file-upload-dir", tmp_path, "--file-upload-clear-on-start"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )

        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "in use" in line
        assert str(tmp_path) in line
        assert servers.get(server, f"/v1/files/{file_id}/content").body == PNG


@pytest.mark.slow
def test_temporary_store_goes_with_its_server_however_that_ends(tmp_path: Path) -> None:
    """H63: also after `kill -9`, at the next start; another's temporary store is left alone."""
    env = {"TMPDIR": str(tmp_path)}

    def stores() -> set[Path]:
        return set(tmp_path.glob("mediagate-*"))

    with servers.serving(store=None, env=env) as living:
        (of_living,) = stores()
        servers.upload(living, PNG)
        with servers.serving(store=None, env=env) as killed:
            servers.upload(killed, PNG)
            killed.kill()
        assert len(stores()) == 2

        with servers.serving(store=None, env=env):
            assert len(stores()) == 2
            assert of_living in stores()
        assert stores() == {of_living}
        assert len(servers.list_ids(living)) == 1
    assert stores() == set()


@pytest.mark.slow
def test_stop_breaks_off_a_reader_that_does_not_read_within_its_time(tmp_path: Path) -> None:
    """P11: a second SIGTERM does not wait for it."""
    with servers.serving(store=tmp_path) as server:
        file_id = servers.put_file(server, PNG + bytes(24 * MIB)).json()["id"]
        with RawClient(server, receive_buffer=4096) as client:
            client.send_head("GET", f"/v1/files/{file_id}/content")
            assert client.read_head().status == 200
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            servers.until(lambda: is_refused(server))

            began = time.monotonic()
            server.stop()
            stopping.join()

            assert time.monotonic() - began < GRACE_S / 2
