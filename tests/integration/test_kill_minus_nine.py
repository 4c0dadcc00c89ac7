"""kill -9 in the middle of uploads: what was acknowledged is there, whole; what was not leaves nothing behind.

Each life of the server ends with SIGKILL while a receive is known to stand at one step, and others stand or run
wherever they are. Three windows, as promise P3 counts them:

    receiving   row RESERVED, then its space, then `<key>.partial`, then bytes in it
    durable     the bytes are complete under their name, the row is still RESERVED
    committed   the row is READY, no client has been told

The proof that a kill hit its window is read from the files it left, before anything repairs them.

**What this cannot show.** The kernel outlives a killed process, and with it every byte that was written but never
synced: without a single fsync these tests are green. What a power cut needs, fsync of the file, rename, fsync of the
directory, in this order, is `test_commit_syncs_the_file_before_the_rename_and_the_directory_after` in
`tests/unit/blobs/test_local.py`.
"""

import contextlib
import hashlib
import http.client
import json
import os
import random
import secrets
import select
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blake3 import blake3

import corpus
import servers
import stalling_server
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.core.leases import LEASE_S
from mediagate.core.quotas import Usage
from mediagate.core.scopes import Scope
from mediagate.index.driver import State
from mediagate.index.sql import SqlIndex
from mediagate.operations.removal import Remover
from mediagate.operations.sweep import Sweeper
from stalling_server import COMMITTED, DURABLE, RECEIVING, STEPS

pytestmark = pytest.mark.media

CLIENTS = 4
LARGE_BYTES = 600_000
"""More than one batch of the store: bytes are on disk while more are still to come."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `files`."""

    id: str
    scope: str
    blob: str
    state: State
    size_bytes: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Remains:
    """What is in a store's directory while no process uses it.

    Attributes:
        rows: In any state.
        complete: Keys of blobs that can be read.
        partial: Keys of unfinished blobs, and their sizes.
    """

    rows: Sequence[Row]
    complete: Collection[str]
    partial: Mapping[str, int]

    def in_state(self, state: State) -> Sequence[Row]:
        return [row for row in self.rows if row.state is state]


def look_at(store: Path, copies: Path) -> Remains:
    """Read the rows from a copy: opening a database would repair it, and that is for the server to do."""
    copies.mkdir()
    for path in store.glob("index.sqlite3*"):
        shutil.copy(path, copies)
    with contextlib.closing(sqlite3.connect(copies / "index.sqlite3")) as connection:
        found = connection.execute("SELECT id, scope, blob, state, size_bytes, digest FROM files")
        rows = [Row(id_, scope, blob, State(n), *rest) for id_, scope, blob, n, *rest in found]
    blobs = [path for path in (store / "blobs").rglob("*") if path.is_file()]
    partial = {path.stem: path.stat().st_size for path in blobs if path.suffix == ".partial"}
    return Remains(rows, {path.name for path in blobs if not path.suffix}, partial)


def check_every_visible_row_has_its_bytes(store: Path, remains: Remains) -> None:
    for row in remains.in_state(State.READY):
        assert row.blob in remains.complete, f"a row without bytes: {row}"
        data = (store / "blobs" / row.blob[:2] / row.blob).read_bytes()
        assert len(data) == row.size_bytes, f"a row with other bytes: {row}"
        assert f"blake3:{blake3(data).hexdigest()}" == row.digest, f"a row with other bytes: {row}"


def check_the_kill_hit(step: str, new: Remains, acknowledged: Collection[str]) -> None:
    """That at least one receive stood where the kill was meant to find it."""
    reserved = {row.blob for row in new.in_state(State.RESERVED)}
    begun = [row for row in new.in_state(State.RESERVED) if row.blob not in new.partial]
    found = {
        "begun": [row for row in begun if row.size_bytes is None],
        "reserved": [row for row in begun if row.size_bytes],
        "created": [blob for blob in reserved if new.partial.get(blob) == 0],
        "written": [blob for blob in reserved if new.partial.get(blob)],
        DURABLE: [blob for blob in reserved if blob in new.complete],
        COMMITTED: [row for row in new.in_state(State.READY) if row.id not in acknowledged],
    }
    assert found[step], f"the kill at '{step}' left no trace of that step: {new}"


@dataclass(slots=True)
class Crashes:
    """One store, and the lives of the servers on it.

    Attributes:
        directory: Of the test.
        dice: Decides everything that is left to chance.
        is_row_first: Run the server that makes rows visible before their bytes are committed.
        acknowledged: The SHA-256 of what was sent, by the id that the answer gave.
    """

    directory: Path
    dice: random.Random
    is_row_first: bool = False
    acknowledged: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _lives: int = 0

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def crash(self, step: str, *, after: int) -> None:
        """A server, uploads, SIGKILL once a receive stands at `step`; then look at what is left."""
        with self._server(step, after=after) as (server, signal), ThreadPoolExecutor() as clients:
            with _half_an_upload(server):
                seeds = [self.dice.getrandbits(32) for _ in range(CLIENTS)]
                uploads = [clients.submit(_upload_until_it_dies, server, seed) for seed in seeds]
                assert select.select([signal], [], [], servers.TIMEOUT_S)[0], f"{step}: not reached"
                time.sleep(self.dice.uniform(0, 0.01))
                server.kill()
            for upload in uploads:
                self.acknowledged |= upload.result()
        remains = look_at(self.store, self.directory / f"remains-{self._lives}")
        check_every_visible_row_has_its_bytes(self.store, remains)
        visible = {row.id for row in remains.in_state(State.READY)}
        assert self.acknowledged.keys() <= visible, "acknowledged files are lost"
        new = [row for row in remains.rows if row.id not in self._seen]
        check_the_kill_hit(
            step, Remains(new, remains.complete, remains.partial), self.acknowledged.keys()
        )
        self._seen |= {row.id for row in new}

    @contextlib.contextmanager
    def _server(self, step: str, *, after: int) -> Iterator[tuple[servers.Server, int]]:
        """A server that stops at `step`, and a descriptor that becomes readable then."""
        self._lives += 1
        fifo = self.directory / f"signal-{self._lives}"
        os.mkfifo(fifo)
        signal = os.open(fifo, os.O_RDWR)
        command = stalling_server.command(
            step=step, after=after, signal=fifo, is_row_first=self.is_row_first
        )
        flags = ("--file-upload-ttl-seconds", "-1")
        try:
            with servers.serving(*flags, store=self.store, command=command) as server:
                yield server, signal
        finally:
            os.close(signal)

    def check_everything_acknowledged_is_there(self) -> None:
        """Ask a server to which nothing happens."""
        with servers.serving("--file-upload-ttl-seconds", "-1", store=self.store) as server:
            self._check_everything_acknowledged_is_there(server)

    def _check_everything_acknowledged_is_there(self, server: servers.Server) -> None:
        listed = {entry["id"]: entry for entry in servers.get(server, "/v1/files").json()["data"]}
        lost = self.acknowledged.keys() - listed.keys()
        assert not lost, f"{len(lost)} acknowledged files are lost"
        with contextlib.closing(_connect(server)) as connection:
            for file_id, digest in self.acknowledged.items():
                assert _ask(connection, f"/v1/files/{file_id}")[0] == 200
                status, data = _ask(connection, f"/v1/files/{file_id}/content")
                assert status == 200
                assert hashlib.sha256(data).hexdigest() == digest
                assert len(data) == listed[file_id]["bytes"]

    async def sweep_once(self) -> None:
        """One pass over what no process uses any more, as soon as its claims have lapsed."""

        def later() -> float:
            return time.time() + LEASE_S + 1

        index = SqlIndex.sqlite(self.store / "index.sqlite3")
        blobs = BlobStore(LocalBlobDriver(self.store))
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

    async def check_nothing_else_is_left(self) -> None:
        """Visible rows, their bytes, and the sum of their sizes: no more."""
        remains = look_at(self.store, self.directory / "remains-at-the-end")
        index = SqlIndex.sqlite(self.store / "index.sqlite3")
        await index.open()
        usage = await index.usage()
        by_scope = {row.scope: await index.usage(Scope(row.scope)) for row in remains.rows}
        await index.close()

        check_every_visible_row_has_its_bytes(self.store, remains)
        assert remains.in_state(State.RESERVED) == []
        assert remains.in_state(State.DELETING) == []
        assert remains.partial == {}
        assert remains.complete == {row.blob for row in remains.rows}
        total = sum(row.size_bytes or 0 for row in remains.rows)
        assert usage == Usage(used_bytes=total, files=len(remains.rows))
        assert list(by_scope.values()) == [usage]


@contextlib.contextmanager
def _half_an_upload(server: servers.Server) -> Iterator[None]:
    """A client that has sent much of its file and will never send the rest."""
    image = corpus.encode_image(container="bmp", width=600, height=400)
    assert len(image.data) > LARGE_BYTES
    with servers.RawClient(server) as client:
        client.send_head("PUT", "/v1/files", f"Content-Length: {len(image.data)}")
        client.send(image.data[:LARGE_BYTES])
        yield


def _upload_until_it_dies(server: servers.Server, seed: int) -> dict[str, str]:
    """What the server acknowledged."""
    dice = random.Random(seed)
    acknowledged: dict[str, str] = {}
    with contextlib.closing(_connect(server)) as connection:
        while True:
            try:
                file_id, digest = _upload(connection, dice)
            except (ConnectionError, http.client.HTTPException):
                return acknowledged
            acknowledged[file_id] = digest


def _connect(server: servers.Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.host, server.port, timeout=servers.TIMEOUT_S)


def _upload(connection: http.client.HTTPConnection, dice: random.Random) -> tuple[str, str]:
    """One file that there was never before, as a form or as the raw body; its id and SHA-256."""
    media = corpus.random_image(dice, container=dice.choice(("png", "jpg", "gif", "bmp")))
    if dice.random() < 0.5:
        head, body = ("PUT", f"/v1/files?filename={media.filename}"), media.data
    else:
        head, body = ("POST", "/v1/files"), servers.form(servers.part("file", media.data, "a.png"))
    kind = {"content-type": servers.FORM_TYPE} if head[0] == "POST" else {}
    connection.request(*head, body, kind)
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return json.loads(text)["id"], hashlib.sha256(media.data).hexdigest()


def _ask(connection: http.client.HTTPConnection, target: str) -> tuple[int, bytes]:
    connection.request("GET", target)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture
def dice() -> random.Random:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)


async def _check_recovery(crashes: Crashes) -> None:
    await crashes.sweep_once()

    await crashes.check_nothing_else_is_left()
    crashes.check_everything_acknowledged_is_there()


async def test_a_kill_in_each_window_loses_nothing_and_leaves_nothing(
    tmp_path: Path, dice: random.Random
) -> None:
    crashes = Crashes(tmp_path, dice)

    # With more commits than clients, one of them has had an answer.
    for step, least in ((dice.choice(RECEIVING), 2), (DURABLE, 2), (COMMITTED, CLIENTS + 1)):
        crashes.crash(step, after=dice.randint(least, 8))

    assert crashes.acknowledged
    await _check_recovery(crashes)


@pytest.mark.slow
async def test_ten_kills_in_each_window_lose_none_of_500_files(
    tmp_path: Path, dice: random.Random
) -> None:
    crashes = Crashes(tmp_path, dice)
    steps = [*RECEIVING, *dice.choices(RECEIVING, k=6), *[DURABLE] * 10, *[COMMITTED] * 10]
    dice.shuffle(steps)

    for step in steps:
        crashes.crash(step, after=dice.randint(5, 45))
    while len(crashes.acknowledged) < 500:
        crashes.crash(dice.choice(STEPS), after=40)

    await _check_recovery(crashes)


def test_the_row_written_before_the_bytes_is_found_out(tmp_path: Path, dice: random.Random) -> None:
    # The control: were the order of effects wrong, would anything above turn red?
    crashes = Crashes(tmp_path, dice, is_row_first=True)

    with pytest.raises(AssertionError, match="a row without bytes"):
        crashes.crash(COMMITTED, after=3)
