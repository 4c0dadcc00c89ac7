"""How files end: expiry by use or by promise, eviction by age of use, and what protects a file that is in use."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import corpus
import servers
from servers import RawClient, Server

pytestmark = pytest.mark.media

MIB = 1024**2
PNG = corpus.png_pixel()
TTL_S = 3
"""The first one may be a second shorter, as creation is told in whole seconds: two are left for a slow machine."""


def padded(size_bytes: int) -> bytes:
    return PNG + bytes(size_bytes - len(PNG))


def put(server: Server, size_bytes: int) -> str:
    """Upload a file of that size; its id."""
    answer = servers.put_file(server, padded(size_bytes))
    assert answer.status == 200, answer
    return str(answer.json()["id"])


def expires_at(server: Server, file_id: str) -> int:
    return int(servers.get(server, f"/v1/files/{file_id}").json()["expires_at"])


def is_there(server: Server, file_id: str) -> bool:
    return servers.get(server, f"/v1/files/{file_id}").status == 200


def begin_slow_download(server: Server, file_id: str) -> RawClient:
    client = RawClient(server, receive_buffer=4096)
    client.send_head("GET", f"/v1/files/{file_id}/content")
    assert client.read_head().status == 200
    return client


# expiry --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-ttl-seconds", str(TTL_S))
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


def image(file_id: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": file_id}}


def test_expired_file_is_gone_for_every_question_at_once(hasty: Server) -> None:
    """H56, H57: while its bytes still wait for the sweep; the answers are those for an unknown id."""
    file_id = servers.upload(hasty, PNG)["id"]
    unknown = "file-" + "0" * 32
    time.sleep(TTL_S + 0.1)

    seen = servers.get(hasty, f"/v1/files/{file_id}")
    assert (seen.code, seen.body) == (
        (404, "file_not_found"),
        servers.get(hasty, f"/v1/files/{unknown}").body,
    )
    assert servers.get(hasty, f"/v1/files/{file_id}/content").code == (404, "file_not_found")
    assert servers.chat(hasty, image(file_id)).body == servers.chat(hasty, image(unknown)).body
    assert servers.chat(hasty, image(file_id)).code == (404, "file_not_found")
    assert file_id not in servers.list_ids(hasty)
    assert servers.delete(hasty, f"/v1/files/{file_id}").code == (404, "file_not_found")
    assert not is_there(hasty, file_id)


def test_use_prolongs_and_a_look_does_not(hasty: Server) -> None:
    """H35, H58: a download and a reference are uses; metadata and listings are none."""
    used_by_download, used_by_chat, looked_at = (servers.upload(hasty, PNG)["id"] for _ in range(3))
    began = time.monotonic()
    while time.monotonic() - began < TTL_S * 1.5:
        assert servers.get(hasty, f"/v1/files/{used_by_download}/content").status == 200
        assert servers.chat(hasty, image(used_by_chat)).status == 200
        servers.get(hasty, f"/v1/files/{looked_at}")
        servers.list_ids(hasty)
        time.sleep(0.5)

    assert is_there(hasty, used_by_download)
    assert is_there(hasty, used_by_chat)
    assert not is_there(hasty, looked_at)


def test_promised_expiry_is_not_moved_by_use(hasty: Server) -> None:
    """H25, H35: `expires_after` is fixed."""
    file = servers.upload(
        hasty, PNG, expires_after__anchor="created_at", expires_after__seconds="3600"
    )
    time.sleep(1.1)

    servers.get(hasty, f"/v1/files/{file['id']}/content")

    assert expires_at(hasty, file["id"]) == file["expires_at"] == file["created_at"] + 3600
    servers.delete(hasty, f"/v1/files/{file['id']}")


def test_file_that_expires_while_it_is_read_is_read_to_its_end(hasty: Server) -> None:
    """The issue: expired while being read; P5. A file in use is as invisible as any other once its time is up."""
    file_id = put(hasty, 24 * MIB)
    with begin_slow_download(hasty, file_id) as client:
        time.sleep(TTL_S + 0.1)

        assert not is_there(hasty, file_id)

        assert client.receive_exactly(24 * MIB) == padded(24 * MIB)


@pytest.mark.slow
def test_expired_bytes_leave_the_disk_without_any_traffic(tmp_path: Path) -> None:
    """H56: within 60 s; one sweep takes 10 s to come."""
    with servers.serving("--file-upload-ttl-seconds", "1", store=tmp_path) as server:
        servers.upload(server, PNG)
        kept = servers.upload(
            server, PNG, expires_after__anchor="created_at", expires_after__seconds="3600"
        )
        assert len(server.on_disk()) == 2

        servers.until(lambda: len(server.on_disk()) == 1, timeout_s=20)

        servers.until(lambda: server.usage() == (len(PNG), 1), timeout_s=10)
        assert servers.list_ids(server) == [kept["id"]]


# eviction ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-max-total-gb", "0.0625", "--file-upload-max-size-mb", "48")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def small(small_store: Server) -> Iterator[Server]:
    """Room for 64 MiB, an empty store."""
    yield small_store
    servers.empty(small_store)


def test_least_recently_used_file_goes_first(small: Server) -> None:
    """H59: a use counts, age does not."""
    oldest, middle, newest = (put(small, 20 * MIB) for _ in range(3))
    servers.get(small, f"/v1/files/{oldest}/content", range="bytes=0-0")
    servers.get(small, f"/v1/files/{middle}")

    added = put(small, 20 * MIB)

    assert [is_there(small, f) for f in (oldest, middle, newest, added)] == [
        True,
        False,
        True,
        True,
    ]
    assert len(small.on_disk()) == 3
    assert small.usage() == (60 * MIB, 3)


def test_file_in_use_is_never_evicted(small: Server) -> None:
    """H59, H60: the next one goes instead; and when all are in use, the newcomer is refused."""
    held, other = put(small, 24 * MIB), put(small, 24 * MIB)
    with begin_slow_download(small, held) as client:
        third = put(small, 24 * MIB)

        assert [is_there(small, f) for f in (held, other, third)] == [True, False, True]
        with begin_slow_download(small, third):
            refused = servers.put_file(small, padded(24 * MIB))

            assert refused.code == (507, "insufficient_storage")
            assert refused.header("x-should-retry") == "false"
            assert small.usage() == (48 * MIB, 2)
            assert len(small.on_disk()) == 2
        assert client.receive_exactly(24 * MIB) == padded(24 * MIB)


def test_announced_length_evicts_nothing(small: Server) -> None:
    """H61: only bytes that came do; and a client that announces and leaves takes nothing with it."""
    kept = [put(small, 30 * MIB) for _ in range(2)]
    with RawClient(small) as client:
        client.send_head("PUT", "/v1/files", f"Content-Length: {48 * MIB}")
        client.send(padded(100_000))
        servers.until(lambda: small.usage()[1] == 3)

        assert all(is_there(small, file_id) for file_id in kept)
    servers.until(lambda: small.usage() == (60 * MIB, 2), timeout_s=10)
    assert all(is_there(small, file_id) for file_id in kept)


def test_refused_type_evicts_nothing(small: Server) -> None:
    kept = [put(small, 30 * MIB) for _ in range(2)]

    answer = servers.put_file(small, b"<html>" + bytes(6 * MIB))

    assert answer.code == (400, "unsupported_media_type")
    assert all(is_there(small, file_id) for file_id in kept)


def test_evicted_file_is_as_gone_as_a_deleted_one(small: Server) -> None:
    """H52, H57."""
    evicted = put(small, 40 * MIB)
    put(small, 40 * MIB)

    unknown = servers.get(small, "/v1/files/file-" + "0" * 32)
    assert servers.get(small, f"/v1/files/{evicted}").body == unknown.body
    assert servers.get(small, f"/v1/files/{evicted}/content").code == (404, "file_not_found")
    assert servers.chat(small, image(evicted)).code == (404, "file_not_found")


def test_parallel_uploads_never_exceed_the_quota(small: Server) -> None:
    """H61, P4: rows at every commit, and bytes on the disk at every look."""
    statuses: list[int] = []

    def upload() -> None:
        statuses.extend(servers.put_file(small, padded(7 * MIB)).status for _ in range(2))

    threads = [threading.Thread(target=upload) for _ in range(12)]
    most_used = most_stored = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most_used = max(most_used, small.usage()[0])
        with small.frozen():
            blobs = (small.store / "blobs").glob("*/*")
            most_stored = max(most_stored, sum(path.stat().st_size for path in blobs))
        time.sleep(0.05)  # it has to get on, too
    for thread in threads:
        thread.join()

    assert len(statuses) == 24
    assert set(statuses) <= {200, 507}
    assert 200 in statuses
    assert 7 * MIB <= most_used <= 64 * MIB
    assert most_stored <= 64 * MIB
    assert len(servers.list_ids(small)) == len(small.on_disk()) == small.usage()[1]


# very large ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_file_over_4_gib_and_ranges_beyond_32_bits(tmp_path: Path) -> None:
    """The issue: a file over 4 GiB with a Range beyond 2³²."""
    size_bytes = 2**32 + 5 * MIB
    tail = b"the very end"
    with servers.serving("--file-upload-max-size-mb", "5000", store=tmp_path) as server:
        block = bytes(8 * MIB)
        with RawClient(server, timeout_s=300) as client:
            client.send_head("PUT", "/v1/files", f"Content-Length: {size_bytes}")
            client.send(PNG)
            left = size_bytes - len(PNG) - len(tail)
            while left:
                client.send(block[:left])
                left -= min(left, len(block))
            client.send(tail)
            answer = client.read_answer()
        assert answer.status == 200, answer
        file = answer.json()
        assert file["bytes"] == size_bytes

        target = f"/v1/files/{file['id']}/content"
        beyond = servers.get(server, target, range=f"bytes={size_bytes - len(tail)}-")
        across = servers.get(server, target, range=f"bytes={2**32 - 2}-{2**32 + 1}")
        outside = servers.get(server, target, range=f"bytes={size_bytes}-")
        with RawClient(server) as client:
            client.send_head("HEAD", target)
            head = client.read_answer(to_head=True)

        assert (beyond.status, beyond.body) == (206, tail)
        assert beyond.header("content-range") == (
            f"bytes {size_bytes - len(tail)}-{size_bytes - 1}/{size_bytes}"
        )
        assert (across.status, across.body) == (206, bytes(4))
        assert outside.header("content-range") == f"bytes */{size_bytes}"
        assert head.header("content-length") == str(size_bytes)
        assert servers.delete(server, f"/v1/files/{file['id']}").status == 200
        servers.until(server.is_clean, timeout_s=20)
