"""The SQL index on SQLite is an index, and what only a database can do wrong."""

import asyncio
import itertools
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mediagate.core.files import Purpose, new_blob_key, new_file_id
from mediagate.core.leases import new_lease_id
from mediagate.core.quotas import Usage
from mediagate.core.scopes import Scope
from mediagate.index.driver import CURSOR_S, Index, IndexBusyError, IndexFullError, Order
from mediagate.index.sql import SqlIndex
from mediagate.testing.index_conformance import (
    HOUR,
    NOW,
    OURS,
    ROOMY,
    IndexConformance,
    begin,
    hold,
    new_file,
    store,
)
from mediagate.testing.upload_conformance import UploadConformance


class TestSqlIndexOnSqlite(IndexConformance, UploadConformance):
    @pytest.fixture
    async def index(self, tmp_path: Path) -> AsyncIterator[Index]:
        index = SqlIndex.sqlite(tmp_path / "index.db", durable=False)
        await index.open()
        yield index
        await index.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def connected() -> Iterator[list[sqlite3.Connection]]:
    """Every database connection that SQLAlchemy opens, in order."""
    raw: list[sqlite3.Connection] = []

    def remember(connection: sqlite3.Connection, record: object) -> None:
        raw.append(connection)

    sa.event.listen(sa.Engine, "connect", remember)
    yield raw
    sa.event.remove(sa.Engine, "connect", remember)


async def test_database_and_its_side_files_are_for_the_owner_alone(path: Path) -> None:
    mask = os.umask(0)
    try:
        index = SqlIndex.sqlite(path)
        await index.open()
        await store(index)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
        await index.close()
    finally:
        os.umask(mask)

    assert modes == {"index.db": 0o600, "index.db-wal": 0o600, "index.db-shm": 0o600}


async def test_files_expiries_order_and_claims_survive_a_restart(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    files = [await store(index, new_file(created_at=NOW + n // 2)) for n in range(5)]
    gone = await store(index)
    await index.delete(gone.id, scope=OURS, now=NOW)
    reserved = await begin(index, new_file())
    await index.reserve(reserved.id, 7, quota=ROOMY)
    lease_id = await hold(index, files[0], now=NOW + 5)
    page = await index.list(scope=OURS, now=NOW, limit=10)
    usage = await index.usage()
    await index.close()

    index = SqlIndex.sqlite(path)
    await index.open()
    page_after = await index.list(scope=OURS, now=NOW, limit=10)
    usage_after = await index.usage()
    removals = await index.removable(now=NOW, limit=10)
    await index.list(scope=OURS, now=NOW, limit=1, after=gone.id)
    still_reserved = await index.reserve(reserved.id, 1, quota=ROOMY)
    for file in files[1:]:
        await index.delete(file.id, scope=OURS, now=NOW)
    victim = await index.evict(scope=OURS, now=NOW + 5)
    await index.release(lease_id, now=NOW + 5)
    await index.close()

    assert list(page_after.files) == list(page.files)
    assert usage_after == usage
    assert [r.id for r in removals] == [gone.id]
    assert still_reserved
    assert victim is None


async def test_many_may_open_a_new_database_at_once(path: Path) -> None:
    indexes = [SqlIndex.sqlite(path) for _ in range(6)]

    await asyncio.gather(*(index.open() for index in indexes))
    files = await asyncio.gather(*(store(index) for index in indexes))

    usages = {await index.usage() for index in indexes}
    assert {u.files for u in usages} == {len(files)}
    for index in indexes:
        await index.close()


async def test_opening_waits_for_another_that_makes_the_database(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    opening = asyncio.create_task(index.open())
    done, _ = await asyncio.wait([opening], timeout=0.1)
    blocker.execute("ROLLBACK")
    blocker.close()
    await opening

    assert done == set()
    await store(index)
    await index.close()


async def test_opening_gives_up_on_a_lock_that_is_not_given_back(path: Path) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(IndexBusyError):
        await SqlIndex.sqlite(path, busy_timeout_s=0.05).open()

    blocker.close()


async def test_held_lock_makes_writers_busy_and_readers_go_on(path: Path) -> None:
    index = SqlIndex.sqlite(path, busy_timeout_s=0.1)
    await index.open()
    file = await store(index)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    answers = await asyncio.gather(
        *(index.delete(file.id, scope=OURS, now=NOW) for _ in range(20)), return_exceptions=True
    )
    read = await index.get(file.id, scope=OURS, now=NOW)
    quiet = await index.expire(now=NOW, limit=10)
    blocker.execute("ROLLBACK")
    blocker.close()
    after = await index.delete(file.id, scope=OURS, now=NOW)
    await index.close()

    assert {type(a) for a in answers} == {IndexBusyError}
    assert str(answers[0]) == ""
    assert read == file
    assert list(quiet) == []
    assert after == file


async def test_queue_behind_a_lock_does_not_wait_one_after_the_other(path: Path) -> None:
    index = SqlIndex.sqlite(path, busy_timeout_s=0.2)
    await index.open()
    file = await store(index)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    async with asyncio.timeout(5):  # one after the other would take 10 s
        await asyncio.gather(
            *(index.delete(file.id, scope=OURS, now=NOW) for _ in range(50)),
            return_exceptions=True,
        )

    blocker.close()
    await index.close()


async def test_full_disk_is_named_and_leaves_all_as_it_was(
    path: Path, connected: list[sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediagate.index.sqlite._ROOM_BYTES", 1)
    index = SqlIndex.sqlite(path)
    await index.open()
    kept = await store(index)
    for raw in connected:
        raw.execute(f"PRAGMA max_page_count={raw.execute('PRAGMA page_count').fetchone()[0]}")

    with pytest.raises(IndexFullError) as caught:
        for _ in range(1000):
            await begin(index, new_file())

    for raw in connected:
        raw.execute("PRAGMA max_page_count=1000000")
    assert str(caught.value) == ""
    assert await index.get(kept.id, scope=OURS, now=NOW) == kept
    await store(index)
    assert (await index.usage()).files == 2
    await index.close()


async def test_error_of_the_database_quotes_no_id(path: Path) -> None:
    """P13: errors are logged."""
    index = SqlIndex.sqlite(path)
    await index.open()
    file = await store(index)

    with pytest.raises(sa.exc.IntegrityError) as caught:
        await begin(index, file)

    assert file.id not in str(caught.value)
    assert file.blob not in str(caught.value)
    await index.close()


async def test_on_a_full_disk_what_reads_and_what_frees_goes_on(
    path: Path, connected: list[sqlite3.Connection]
) -> None:
    """P8: a download needs a lease, and only a deletion makes room."""
    index = SqlIndex.sqlite(path)
    await index.open()
    files = [await store(index) for _ in range(20)]
    log_bytes = path.with_name(path.name + "-wal").stat().st_size
    for raw in connected:
        raw.execute(f"PRAGMA max_page_count={raw.execute('PRAGMA page_count').fetchone()[0]}")

    for file in files:
        lease = new_lease_id()
        leased = await index.lease((file.id,), lease_id=lease, scope=OURS, now=NOW, until=NOW + 60)
        assert leased
        await index.delete(file.id, scope=OURS, now=NOW)
        await index.release(lease, now=NOW)
        await index.forget((file.id,))

    assert path.with_name(path.name + "-wal").stat().st_size == log_bytes  # nor did the log grow
    assert await index.usage() == Usage()
    await index.close()


@pytest.mark.parametrize(("durable", "levels"), [(True, [2, 1, 1, 1]), (False, [0, 0, 0, 0])])
async def test_one_writer_syncs_fully_and_one_normally(
    path: Path, connected: list[sqlite3.Connection], durable: bool, levels: list[int]
) -> None:
    index = SqlIndex.sqlite(path, durable=durable)
    await index.open()

    found = [raw.execute("PRAGMA synchronous").fetchone()[0] for raw in connected]
    modes = {raw.execute("PRAGMA journal_mode").fetchone()[0] for raw in connected}
    await index.close()

    assert found == levels
    assert modes == {"wal"}


async def test_what_must_be_durable_uses_the_fully_synced_connection(
    path: Path, connected: list[sqlite3.Connection]
) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    written: list[tuple[str, bool]] = []
    step = ""

    def watch(connection: sqlite3.Connection, fully: bool) -> None:
        connection.set_trace_callback(
            lambda sql: written.append((step, fully)) if sql == "COMMIT" else None
        )

    watch(connected[0], True)
    watch(connected[1], False)
    expiring, file, evicted = new_file(expires_at=NOW), new_file(), new_file()

    step = "begin"
    for each in (expiring, file, evicted):
        await begin(index, each)
    step = "reserve"
    for each in (expiring, file, evicted):
        await index.reserve(each.id, 100, quota=ROOMY)
    step = "commit"
    for each in (expiring, file, evicted):
        await index.commit(each)
    step = "lease"
    lease_id = await hold(index, file)
    step = "renew"
    await index.renew(leases=[lease_id], reservations=[], until=NOW + 99)
    step = "release"
    await index.release(lease_id, now=NOW)
    step = "delete"
    await index.delete(file.id, scope=OURS, now=NOW)
    step = "expire"
    await index.expire(now=NOW, limit=9)
    step = "evict"
    await index.evict(scope=OURS, now=NOW)
    step = "lapse"
    await index.lapse(now=NOW + 2 * HOUR, limit=9)
    step = "forget"
    await index.forget([file.id])
    step = "abandon"
    await index.abandon(file.id)
    await index.close()

    assert {name for name, fully in written if fully} == {"commit", "delete", "expire", "evict"}
    assert {name for name, fully in written if not fully} == {
        "begin", "reserve", "lease", "renew", "release", "lapse", "forget", "abandon",
    }  # fmt: skip


async def test_sweeping_an_index_without_work_takes_no_write_lock(path: Path) -> None:
    index = SqlIndex.sqlite(path, busy_timeout_s=0.05)
    await index.open()
    file = await store(index)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    await index.expire(now=NOW, limit=10)
    await index.lapse(now=NOW, limit=10)
    await index.removable(now=NOW, limit=10)
    await index.without_row([file.blob])
    await index.forget([])

    blocker.close()
    await index.close()


async def test_scope_without_files_leaves_no_trace(path: Path) -> None:
    secret = Scope("a-tenants-name")
    index = SqlIndex.sqlite(path)
    await index.open()
    deleted, abandoned = new_file(scope=secret), new_file(scope=secret)
    await store(index, deleted)
    await begin(index, abandoned)
    await index.reserve(abandoned.id, 100, quota=ROOMY)

    await index.abandon(abandoned.id)
    await index.delete(deleted.id, scope=secret, now=NOW)
    await index.forget([deleted.id])
    await index.lapse(now=NOW + CURSOR_S, limit=10)
    await index.close()

    database = sqlite3.connect(path)
    assert secret not in "".join(database.iterdump())
    database.close()


async def test_what_is_not_an_error_of_the_protocol_is_raised_as_it_is(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    file = await store(index)

    with pytest.raises(sa.exc.IntegrityError):
        await begin(index, file)

    assert await index.get(file.id, scope=OURS, now=NOW) == file
    await index.close()


# The cost of each question ---------------------------------------------------------------------------


def _fill(path: Path, rows: int) -> None:
    """READY files of one scope, a second apart, each an hour old in its own second."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous=OFF")
    database.execute(
        "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < ?) "
        "INSERT INTO files SELECT printf('file-%032x', n), 'ours', printf('%032x', n), 1, NULL, 0, 100, 'clip.mp4', "
        "'user_data', 'video/mp4', 'blake3:0', ? + n, ? + n, ? + n, 3600.0 FROM k",
        (rows, int(NOW), NOW, NOW + 10 * HOUR),
    )
    database.execute("UPDATE usage SET used_bytes = 100 * ?, files = ?", (rows, rows))
    database.execute("INSERT INTO usage VALUES ('scope:ours', 100 * ?, ?)", (rows, rows))
    database.commit()
    database.close()


def _questions(index: Index, rows: int) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method, at the worst end of `rows` rows."""
    last, middle = (f"file-{n:032x}" for n in (rows, rows // 2))
    new, lease_id = new_file(created_at=NOW + rows), new_lease_id()

    async def lease() -> None:
        await index.lease(
            [new.id], lease_id=lease_id, scope=OURS, now=NOW + rows, until=NOW + rows + 60
        )

    questions: dict[str, Callable[[], Awaitable[object]]] = {
        "begin": lambda: begin(index, new),
        "reserve": lambda: index.reserve(new.id, 200, quota=ROOMY),
        "commit": lambda: index.commit(new),
        "get": lambda: index.get(new.id, scope=OURS, now=NOW),
        "usage": index.usage,
        "lease": lease,
        "leased": lambda: index.leased(lease_id, 0, now=NOW),
        "renew": lambda: index.renew(
            leases=[lease_id], reservations=[new.id], until=NOW + rows * 2
        ),
        "release": lambda: index.release(lease_id, now=NOW),
        "expire nothing": lambda: index.expire(now=NOW, limit=100),
        "lapse nothing": lambda: index.lapse(now=NOW, limit=100),
        "removable nothing": lambda: index.removable(now=NOW, limit=100),
        "without_row": lambda: index.without_row([new_blob_key()]),
        "evict": lambda: index.evict(scope=OURS, now=NOW),
        "delete": lambda: index.delete(new.id, scope=OURS, now=NOW),
        "removable": lambda: index.removable(now=NOW, limit=100),
        "forget": lambda: index.forget([new.id]),
        "expire": lambda: index.expire(now=NOW + 10 * HOUR + 12, limit=10),
    }
    for order, after, purpose in itertools.product(
        Order, (None, middle, last), (None, Purpose.USER_DATA, Purpose.VISION)
    ):
        questions[f"list {order} {after} {purpose}"] = (
            lambda order=order, after=after, purpose=purpose: index.list(  # type: ignore[misc] # closures in a loop
                scope=OURS, now=NOW, limit=20, order=order, after=after, purpose=purpose
            )
        )
    return questions


async def _virtual_machine_steps(
    path: Path, rows: int, connected: list[sqlite3.Connection]
) -> dict[str, int]:
    """What each question costs SQLite, in instructions: the same on every machine."""
    index = SqlIndex.sqlite(path, durable=False)
    await index.open()
    _fill(path, rows)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for raw in connected:
        raw.set_progress_handler(count, 1)
    cost = {}
    for name, ask in _questions(index, rows).items():
        before = steps
        await ask()
        cost[name.replace(f"{rows:032x}", "last").replace(f"{rows // 2:032x}", "middle")] = (
            steps - before
        )
    await index.close()
    return cost


async def test_no_question_costs_more_because_there_are_more_files(
    tmp_path: Path, connected: list[sqlite3.Connection]
) -> None:
    few = await _virtual_machine_steps(tmp_path / "few.db", 100, connected)
    connected.clear()

    many = await _virtual_machine_steps(tmp_path / "many.db", 10_000, connected)

    assert min(few.values()) > 0
    assert {n: (few[n], many[n]) for n in few if many[n] > 1.2 * few[n] + 50} == {}


async def test_every_query_of_files_goes_by_an_index(
    path: Path, connected: list[sqlite3.Connection]
) -> None:
    index = SqlIndex.sqlite(path, durable=False)
    await index.open()
    _fill(path, 100)
    seen: set[str] = set()
    for raw in connected:
        raw.set_trace_callback(seen.add)
    for ask in _questions(index, 100).values():
        await ask()
    await index.close()

    database = sqlite3.connect(path)
    plans: dict[str, list[Any]] = {
        sql: [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}")]
        for sql in seen
        if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
    }
    database.close()
    details = [detail for plan in plans.values() for detail in plan]
    # An index may be walked from its end where that ends after a row or two, and where it is partial and lists only
    # what is asked for.
    walks = {d.split(" USING ")[-1] for d in details if d.startswith("SCAN files USING")}
    assert len(plans) > 30
    assert [d for d in details if d.startswith("SCAN files") and " USING " not in d] == []
    assert walks <= {"INDEX files_deleting"}
    assert [d for d in details if "TEMP B-TREE" in d] == []


async def test_closing_waits_for_calls_in_flight(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    calls = [asyncio.create_task(begin(index, new_file())) for _ in range(20)]
    calls_read = [
        asyncio.create_task(index.get(new_file_id(), scope=OURS, now=NOW)) for _ in range(20)
    ]
    await asyncio.sleep(0)

    await index.close()

    await asyncio.gather(*calls, *calls_read)
