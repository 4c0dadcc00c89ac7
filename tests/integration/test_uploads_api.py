"""The Uploads API of a real server: parts from several connections, workers and lives, and one file at the end."""

import contextlib
import hashlib
import json
import random
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.core.leases import LEASE_S
from mediagate.index.sql import SqlIndex
from mediagate.operations.removal import Remover
from mediagate.operations.sweep import Sweeper
from servers import Answer, Server

pytestmark = pytest.mark.media

MIB = 1024**2
UPLOAD = {"bytes": 1000, "filename": "a.bmp", "mime_type": "image/bmp", "purpose": "vision"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("uploads") / "store"
    with servers.serving(
        "--file-upload-max-size-mb", "80", "--file-upload-max-total-gb", "0.25", store=store
    ) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    # Nothing of an Upload survives its end, whatever end it was.
    servers.empty(shared)


@pytest.fixture(scope="module")
def image() -> bytes:
    return corpus.encode_image(container="bmp", width=300, height=200).data


def post(server: Server, target: str, body: Any = None) -> Answer:
    return servers.post_json(server, target, {} if body is None else body)


def create(server: Server, data: bytes, **fields: object) -> dict[str, Any]:
    answer = post(server, "/v1/uploads", UPLOAD | {"bytes": len(data)} | fields)
    assert answer.status == 200, answer
    return dict(answer.json())


def try_part(server: Server, upload_id: str, data: bytes) -> Answer:
    body = servers.form(servers.part("data", data, "upload"))
    return servers.request(
        server,
        "POST",
        f"/v1/uploads/{upload_id}/parts",
        body,
        headers={"content-type": servers.FORM_TYPE},
    )


def add(server: Server, upload_id: str, data: bytes) -> str:
    """The id of the part."""
    answer = try_part(server, upload_id, data)
    assert answer.status == 200, answer
    return str(answer.json()["id"])


def complete(server: Server, upload_id: str, part_ids: Sequence[str], **fields: str) -> Answer:
    return post(server, f"/v1/uploads/{upload_id}/complete", {"part_ids": part_ids} | fields)


def cancel(server: Server, upload_id: str) -> Answer:
    return servers.request(server, "POST", f"/v1/uploads/{upload_id}/cancel")


def look(server: Server, upload_id: str) -> dict[str, Any]:
    answer = servers.get(server, f"/v1/uploads/{upload_id}")
    assert answer.status == 200, answer
    return dict(answer.json())


def content(server: Server, file: Mapping[str, Any]) -> bytes:
    return servers.get(server, f"/v1/files/{file['id']}/content").body


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_an_upload_from_its_first_answer_to_its_last(server: Server, image: bytes) -> None:
    """H88."""
    upload = create(server, image, filename="../é.bmp")
    halves = cut(image, 100_000)
    sent = [try_part(server, upload["id"], half).json() for half in halves]
    pending = look(server, upload["id"])
    md5 = hashlib.md5(image, usedforsecurity=False).hexdigest()

    done = complete(server, upload["id"], [part["id"] for part in sent], md5=md5.upper()).json()

    assert re.fullmatch(r"upload_[0-9a-f]{32}", upload["id"])
    assert upload == {
        "id": upload["id"],
        "object": "upload",
        "bytes": len(image),
        "created_at": upload["created_at"],
        "expires_at": upload["created_at"] + 3600,
        "filename": "é.bmp",
        "purpose": "vision",
        "status": "pending",
    }
    assert [set(part) for part in sent] == [
        {"id", "object", "created_at", "upload_id", "bytes"}
    ] * len(halves)
    assert {(part["object"], part["upload_id"]) for part in sent} == {("upload.part", upload["id"])}
    assert pending == upload | {"parts": sent}
    file = done.pop("file")
    assert done == upload | {"status": "completed"}
    assert file == servers.get(server, f"/v1/files/{file['id']}").json()
    assert (file["filename"], file["bytes"]) == ("é.bmp", len(image))
    assert (file["mime_type"], file["purpose"]) == ("image/bmp", "vision")
    assert look(server, upload["id"]) == done | {"file": file, "parts": []}
    assert content(server, file) == image


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_arrival_gives_the_order_that_is_asked_for(
    server: Server, image: bytes, seed: int
) -> None:
    """H88."""
    upload = create(server, image)
    pieces = list(enumerate(cut(image, 30_000)))
    random.Random(seed).shuffle(pieces)

    ids = {n: add(server, upload["id"], piece) for n, piece in pieces}
    done = complete(server, upload["id"], [ids[n] for n in sorted(ids)]).json()

    assert content(server, done["file"]) == image
    assert server.usage() == (len(image), 1)
    assert len(server.on_disk()) == 1


def test_what_does_not_add_up_is_refused_and_can_be_put_right(server: Server, image: bytes) -> None:
    """H88."""
    upload, other = create(server, image), create(server, image)
    first, second = (add(server, upload["id"], piece) for piece in (image[:5], image[5:]))
    foreign = add(server, other["id"], image[5:])

    for part_ids in (
        [],
        [first],
        [first, first],
        [first, second, second],
        [first, foreign],
        [first, "part_" + "0" * 32],
        [first, "x"],
        [first, 5],
        "x",
        None,
        {"a": 1},
    ):
        answer = complete(server, upload["id"], part_ids)  # type: ignore[arg-type] # that is what is tested
        assert (answer.code, answer.error["param"]) == ((400, "invalid_value"), "part_ids")
    for md5 in ("0" * 32, "x", "", 5):
        answer = complete(server, upload["id"], [first, second], md5=md5)  # type: ignore[arg-type] # likewise
        assert (answer.code, answer.error["param"]) == ((400, "invalid_value"), "md5")

    assert complete(server, upload["id"], [first, second]).status == 200
    assert cancel(server, other["id"]).json()["status"] == "cancelled"


def test_what_is_no_media_is_refused_at_the_end_and_stays_until_it_is_cancelled(
    server: Server,
) -> None:
    """H14: the bytes decide, whatever was declared."""
    script = b"#!/bin/sh\nexit 1\n" * 100
    upload = create(server, script, mime_type="video/mp4", filename="a.mp4")
    part = add(server, upload["id"], script)

    answer = complete(server, upload["id"], [part])

    assert answer.code == (400, "unsupported_media_type")
    assert look(server, upload["id"])["status"] == "pending"
    assert cancel(server, upload["id"]).status == 200
    assert server.is_clean()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": -5}, "bytes"),
        ({"bytes": 5.0}, "bytes"),
        ({"bytes": "5"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"purpose": "batch"}, "purpose"),
        ({"purpose": 5}, "purpose"),
        ({"filename": 5}, "filename"),
        ({"filename": None}, "filename"),
        ({"mime_type": []}, "mime_type"),
        ({"expires_after": None}, "expires_after"),
        ({"expires_after": "x"}, "expires_after"),
        ({"expires_after": {"anchor": "created_at"}}, "expires_after"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after"),
        ({"expires_after": {"anchor": "created_at", "seconds": "3600"}}, "expires_after"),
        ({"expires_after": {"anchor": "created_at", "seconds": True}}, "expires_after"),
        ({"expires_after": {"anchor": "x", "seconds": 3600}}, "expires_after"),
    ],
)
def test_an_upload_is_judged_as_a_file_is(
    server: Server, changes: dict[str, object], param: str
) -> None:
    """H5, H26."""
    answer = post(server, "/v1/uploads", UPLOAD | changes)

    assert (answer.code, answer.error["param"]) == ((400, "invalid_value"), param)


def test_only_the_size_has_to_be_given(server: Server, image: bytes) -> None:
    """H6, H19, H25, H29."""
    upload = post(server, "/v1/uploads", {"bytes": len(image), "unknown": {"a": [1]}}).json()
    lasting = create(server, image, expires_after={"anchor": "created_at", "seconds": 7200})

    done = complete(server, lasting["id"], [add(server, lasting["id"], image)]).json()

    assert (upload["filename"], upload["purpose"]) == ("upload.bin", "user_data")
    assert done["file"]["expires_at"] == done["file"]["created_at"] + 7200
    cancel(server, upload["id"])


def test_what_is_too_large_is_refused_before_its_first_byte(server: Server) -> None:
    """H9, H60."""
    too_large = post(server, "/v1/uploads", UPLOAD | {"bytes": 80 * MIB + 1})
    astronomical = post(server, "/v1/uploads", UPLOAD | {"bytes": 10**30})

    assert too_large.code == astronomical.code == (413, "file_too_large")
    assert too_large.error["param"] == "bytes"


def test_what_can_never_fit_is_told_so_at_once(tmp_path: Path) -> None:
    """H60, H93."""
    with servers.serving("--file-upload-max-total-gb", "0.0001", store=tmp_path) as server:
        answer = post(server, "/v1/uploads", UPLOAD | {"bytes": MIB})

        assert answer.code == (507, "insufficient_storage")
        assert answer.header("x-should-retry") == "false"


def test_a_part_that_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    """H89."""
    upload = create(server, bytes(70 * MIB))
    with servers.RawClient(server) as client:
        client.send_head(
            "POST",
            f"/v1/uploads/{upload['id']}/parts",
            f"Content-Type: {servers.FORM_TYPE}",
            f"Content-Length: {65 * MIB + 1}",
            "Expect: 100-continue",
        )

        answer = client.read_answer()

    assert answer.code == (413, "part_too_large")
    cancel(server, upload["id"])


def test_a_part_that_is_too_large_is_refused_while_it_comes(server: Server) -> None:
    """H89: a part of exactly 64 MiB is accepted."""
    upload = create(server, bytes(70 * MIB))
    largest = try_part(server, upload["id"], bytes(64 * MIB))
    with servers.RawClient(server) as client:
        head = servers.part("data", b"", "upload")[:-2]
        client.send_head(
            "POST",
            f"/v1/uploads/{upload['id']}/parts",
            f"Content-Type: {servers.FORM_TYPE}",
            "Transfer-Encoding: chunked",
        )
        for piece in (head, *[bytes(4 * MIB)] * 16, b"x"):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))

        answer = client.read_answer()

    assert largest.status == 200
    assert answer.code == (413, "part_too_large")
    assert server.usage() == (64 * MIB, 1)
    assert cancel(server, upload["id"]).status == 200
    assert server.is_clean()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (servers.form(), "invalid_value"),
        (servers.form(servers.part("file", b"x", "a")), "invalid_value"),
        (servers.form(servers.part("data", b"", "a")), "empty_file"),
        (servers.form(*[servers.part("data", b"x", "a")] * 2), "invalid_value"),
        (servers.form(servers.part("data", b"x" * 1001, "a")), "invalid_value"),
        (servers.form(servers.part("data", b"x", "a"), end=b""), "malformed_body"),
        (b"what is this", "malformed_body"),
    ],
)
def test_a_form_that_holds_no_part_is_refused(server: Server, body: bytes, code: str) -> None:
    """H3, H13, H28."""
    upload = create(server, bytes(1000))

    answer = servers.request(
        server,
        "POST",
        f"/v1/uploads/{upload['id']}/parts",
        body,
        headers={"content-type": servers.FORM_TYPE},
    )

    assert answer.code == (400, code)
    assert look(server, upload["id"])["parts"] == []
    assert cancel(server, upload["id"]).status == 200


def test_a_part_may_come_as_text_and_only_as_a_form(server: Server) -> None:
    upload = create(server, bytes(1000))
    target = f"/v1/uploads/{upload['id']}/parts"
    body = servers.form(servers.part("data", b"\x00\xff" * 50), servers.part("more", b"ignored"))

    as_text = servers.request(
        server, "POST", target, body, headers={"content-type": servers.FORM_TYPE}
    )
    raw = servers.request(server, "POST", target, b"x", headers={"content-type": "image/bmp"})

    assert (as_text.status, as_text.json()["bytes"]) == (200, 100)
    assert (raw.code, raw.error["param"]) == ((400, "invalid_value"), "content-type")
    cancel(server, upload["id"])


def test_bodies_that_are_no_json_object_are_refused(server: Server) -> None:
    upload = create(server, bytes(1000))
    for target in ("/v1/uploads", f"/v1/uploads/{upload['id']}/complete"):
        for body in (b"", b"[]", b'{"bytes": 5, "bytes": 6}', b"\xff", b"{"):
            assert post(server, target, body).code == (400, "malformed_body")
        assert post(server, target, b" " * (MIB + 1)).code == (413, "body_too_large")
    cancel(server, upload["id"])


def test_an_upload_that_has_ended_takes_nothing_more(server: Server, image: bytes) -> None:
    """H89."""
    done, gone = create(server, image), create(server, image)
    part = add(server, done["id"], image)
    complete(server, done["id"], [part])
    add(server, gone["id"], image)

    first = cancel(server, gone["id"])
    on_disk = server.on_disk()

    assert (first.status, first.json()) == (200, gone | {"status": "cancelled"})
    assert len(on_disk) == 1
    assert cancel(server, gone["id"]).json() == first.json()
    for upload in (done, gone):
        assert try_part(server, upload["id"], b"x").code == (400, "upload_not_pending")
    assert cancel(server, done["id"]).code == (400, "upload_not_pending")
    assert complete(server, gone["id"], [part]).code == (400, "upload_not_pending")


def test_a_repeated_complete_is_the_same_answer(server: Server, image: bytes) -> None:
    """H91."""
    upload = create(server, image)
    parts = [add(server, upload["id"], piece) for piece in cut(image, 100_000)]

    first = complete(server, upload["id"], parts)
    again = complete(server, upload["id"], parts)

    assert first.status == 200
    assert again.body == first.body
    for wrong in (parts[::-1], parts[:1], ["part_" + "0" * 32]):
        answer = complete(server, upload["id"], wrong)
        assert (answer.code, answer.error["param"]) == ((400, "invalid_value"), "part_ids")
    assert servers.list_ids(server) == [first.json()["file"]["id"]]


def test_what_is_not_there_is_one_and_the_same(server: Server) -> None:
    """H66, H95."""
    answers = {
        (answer.status, answer.body)
        for text in ("upload_" + "0" * 32, "x", "file-" + "0" * 32, "%2F..%2Fb", "a%00b", "%C3%A9")
        for answer in (
            servers.get(server, f"/v1/uploads/{text}"),
            try_part(server, text, b"x"),
            complete(server, text, ["part_" + "0" * 32]),
            cancel(server, text),
        )
    }

    ((status, body),) = answers
    assert status == 404
    assert json.loads(body)["error"]["code"] == "upload_not_found"


def test_uploads_belong_to_their_scope(tmp_path: Path, image: bytes) -> None:
    """H65, H66: and their file does."""
    with servers.serving("--file-upload-scope-header", "X-Tenant", store=tmp_path) as server:

        def ask(method: str, target: str, body: bytes | None, tenant: str | None) -> Answer:
            headers = {"content-type": servers.FORM_TYPE if "parts" in target else "x/json"}
            return servers.request(
                server,
                method,
                target,
                body,
                headers=headers | ({} if tenant is None else {"x-tenant": tenant}),
            )

        begin = json.dumps(UPLOAD | {"bytes": len(image)}).encode()
        own = ask("POST", "/v1/uploads", begin, "a").json()["id"]
        form = servers.form(servers.part("data", image, "x"))
        part = ask("POST", f"/v1/uploads/{own}/parts", form, "a").json()["id"]
        finish = json.dumps({"part_ids": [part]}).encode()
        for text in (own, "upload_" + "0" * 32):
            foreign = {
                (answer.status, answer.body)
                for answer in (
                    ask("GET", f"/v1/uploads/{text}", None, "b"),
                    ask("POST", f"/v1/uploads/{text}/parts", form, "b"),
                    ask("POST", f"/v1/uploads/{text}/complete", finish, "b"),
                    ask("POST", f"/v1/uploads/{text}/cancel", None, "b"),
                )
            }
            assert len(foreign) == 1
        nameless = ask("POST", "/v1/uploads", begin, None)

        done = ask("POST", f"/v1/uploads/{own}/complete", finish, "a").json()

        assert next(iter(foreign))[0] == 404
        assert nameless.code == (400, "invalid_scope")
        target = f"/v1/files/{done['file']['id']}"
        assert ask("GET", target, None, "a").status == 200
        assert ask("GET", target, None, "b").status == 404


def test_parts_in_flight_fill_the_slots(tmp_path: Path) -> None:
    """H23: a part is a receive."""
    with servers.serving("--file-upload-max-concurrent", "1", store=tmp_path) as server:
        upload = create(server, bytes(1000))
        with servers.RawClient(server) as client:
            client.send_head(
                "POST",
                f"/v1/uploads/{upload['id']}/parts",
                f"Content-Type: {servers.FORM_TYPE}",
                "Content-Length: 1000",
            )
            client.send(servers.part("data", b"x", "upload")[:-2])
            servers.until(lambda: server.rows("SELECT 1 FROM files WHERE is_part"))

            refused = try_part(server, upload["id"], b"x")

        assert refused.code == (503, "too_many_uploads")
        assert refused.header("retry-after")
        servers.until(lambda: try_part(server, upload["id"], b"x").status == 200)


def test_logs_carry_no_id_of_an_upload_or_a_part(server: Server, image: bytes) -> None:
    """P13."""
    upload = create(server, image)
    part = add(server, upload["id"], image)
    cancel(server, upload["id"])

    log = server.log()

    assert "POST /v1/uploads/{id}/parts 200" in log
    assert upload["id"][7:] not in log
    assert part[5:] not in log


def test_without_file_uploads_it_is_not_there(tmp_path: Path) -> None:
    """H96."""
    with servers.serving("--no-enable-file-uploads", store=tmp_path) as server:
        assert post(server, "/v1/uploads", UPLOAD).status == 404


def test_a_pending_upload_survives_a_restart(tmp_path: Path, image: bytes) -> None:
    """H64: with the parts that it has, and the order in which they came."""
    with servers.serving(store=tmp_path) as server:
        upload = create(server, image)
        parts = [add(server, upload["id"], piece) for piece in cut(image, 100_000)]
        before = look(server, upload["id"])
        server.stop()

    with servers.serving(store=tmp_path) as server:
        assert look(server, upload["id"]) == before
        done = complete(server, upload["id"], parts).json()
        assert content(server, done["file"]) == image
        assert len(server.on_disk()) == 1


# several workers -------------------------------------------------------------------------------------

HISTORY = """
CREATE TABLE history (used_bytes INT);
CREATE TRIGGER usage_changes AFTER UPDATE ON usage WHEN new.owner = 'store' BEGIN
  INSERT INTO history VALUES (new.used_bytes);
END;
"""


def test_four_workers_take_the_parts_of_one_upload_at_once(tmp_path: Path) -> None:
    """H61, H88, H91: whoever gets which part; and four completes at once are one file."""
    image = corpus.encode_image(container="bmp", width=900, height=600).data
    quota = 4 * MIB  # room for the image, its parts, and what is reserved for those in flight
    flags = ("--workers", "4", "--file-upload-max-total-gb", str(quota / 1024**3))
    with (
        servers.serving(*flags, store=tmp_path / "store") as server,
        ThreadPoolExecutor(8) as threads,
    ):
        with contextlib.closing(sqlite3.connect(server.store / "index.sqlite3")) as database:
            database.executescript(HISTORY)
        filler = [servers.upload(server, corpus.png_pixel().ljust(MIB, b"\0")) for _ in range(3)]
        upload = create(server, image)

        def send(piece: bytes) -> str:
            return add(server, upload["id"], piece)

        parts = list(threads.map(send, cut(image, 50_000)))
        listed = {part["id"] for part in look(server, upload["id"])["parts"]}
        answers = list(
            threads.map(lambda _: complete(server, upload["id"], parts), range(4), timeout=60)
        )

        assert listed == set(parts)
        assert {answer.status for answer in answers} == {200}
        (file_id,) = {answer.json()["file"]["id"] for answer in answers}
        assert content(server, {"id": file_id}) == image
        assert not {file["id"] for file in filler} <= set(servers.list_ids(server))
        ((most,),) = server.rows("SELECT max(used_bytes) FROM history")
        assert 2 * len(image) <= most <= quota
        servers.empty(server)


# kill -9 ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def half_a_part(server: Server, upload_id: str, data: bytes) -> Iterator[None]:
    """A client that has sent much of a part and will never send the rest."""
    with servers.RawClient(server) as client:
        head = servers.part("data", b"", "upload")[:-2]
        length = len(head) + 2 * len(data)
        client.send_head(
            "POST",
            f"/v1/uploads/{upload_id}/parts",
            f"Content-Type: {servers.FORM_TYPE}",
            f"Content-Length: {length}",
        )
        client.send(head + data)
        yield


async def sweep(store: Path) -> None:
    """One pass of another process, as soon as the claims of a dead one have lapsed."""

    def later() -> float:
        return time.time() + LEASE_S + 1

    index = SqlIndex.sqlite(store / "index.sqlite3")
    blobs = BlobStore(LocalBlobDriver(store))
    await index.open()
    await blobs.open()
    remover = Remover(index=index, blobs=blobs, clock=later)
    sweeper = Sweeper(
        index=index, blobs=blobs, remover=remover, observer=lambda _event: None, clock=later
    )
    await sweeper.sweep()
    await sweeper.collect()
    await blobs.close()
    await index.close()


async def test_a_kill_loses_no_acknowledged_part_and_leaves_nothing_else(tmp_path: Path) -> None:
    """P3, H91: killed while one part is appended and another goes beside it, and again while it is completed."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    image = corpus.encode_image(container="bmp", width=900, height=700).data
    junk = dice.randbytes(600_000)
    store = tmp_path / "store"
    acknowledged: list[str] = []
    upload: dict[str, Any] = {}

    for piece in cut(image, 700_000):
        with servers.serving(store=store) as server:
            upload = upload or create(server, image)
            assert [part["id"] for part in look(server, upload["id"])["parts"]] == acknowledged
            acknowledged.append(add(server, upload["id"], piece))
            with half_a_part(server, upload["id"], junk), half_a_part(server, upload["id"], junk):
                servers.until(lambda server=server: len(unacknowledged(server)) == 2)  # type: ignore[misc] # mypy cannot infer it
                server.kill()
    # The lock of the dead was gone with them: all was appended where the file will live.
    assert len(part_blobs(store, upload["id"])) == 1
    for _ in range(2):
        with servers.serving(store=store) as server:
            completing = threading.Thread(
                target=complete_until_it_dies, args=(server, upload, acknowledged)
            )
            completing.start()
            time.sleep(dice.uniform(0, 0.03))
            server.kill()
            completing.join()
        await sweep(store)

    with servers.serving(store=store) as server:
        done = complete(server, upload["id"], acknowledged)
        again = complete(server, upload["id"], acknowledged)
        assert (done.status, again.body) == (200, done.body)
        assert content(server, done.json()["file"]) == image
        await sweep(store)
        assert server.usage() == (len(image), 1)
        assert len(server.on_disk()) == 1


def unacknowledged(server: Server) -> list[Any]:
    """Parts that have taken space, and belong to no Upload yet."""
    return server.rows(
        "SELECT 1 FROM files WHERE is_part AND size_bytes > 0 AND id NOT IN (SELECT id FROM parts)"
    )


def part_blobs(store: Path, upload_id: str) -> set[str]:
    with contextlib.closing(sqlite3.connect(store / "index.sqlite3")) as database:
        rows = database.execute("SELECT blob FROM parts WHERE upload_id = ?", (upload_id,))
        return {blob for (blob,) in rows}


def complete_until_it_dies(server: Server, upload: Mapping[str, Any], order: Sequence[str]) -> None:
    with contextlib.suppress(ConnectionError, HTTPException):
        complete(server, upload["id"], order)
