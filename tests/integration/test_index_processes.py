"""Processes share one SQLite file: the quota holds at every change, and who dies leaves nothing locked.

The other processes run this very file as a script: a role, a database, and what the role needs.
"""

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mediagate.core.files import FileId, FileObject
from mediagate.core.leases import new_lease_id
from mediagate.core.quotas import Quota
from mediagate.core.scopes import Scope
from mediagate.index.driver import Index
from mediagate.index.sql import SqlIndex
from mediagate.testing.index_conformance import ROOMY, begin, new_file, store

PROCESSES = 4
QUOTA = Quota(store_bytes=1000, scope_bytes=600)
SCOPES = (Scope("a"), Scope("b"), Scope("c"))

# Written by the database itself, inside whatever transaction changes a row: nothing can slip past.
TRIGGERS = """
CREATE TABLE history (what TEXT, amount INT);
CREATE TRIGGER usage_changes AFTER UPDATE ON usage BEGIN
  INSERT INTO history VALUES (new.owner, new.used_bytes);
END;
CREATE TRIGGER sizes_change AFTER UPDATE OF size_bytes ON files BEGIN
  INSERT INTO history SELECT 'rows', sum(size_bytes) FROM files;
END;
CREATE TRIGGER leased_forgotten BEFORE DELETE ON files
WHEN EXISTS (SELECT 1 FROM leases WHERE file_id = old.id) BEGIN
  INSERT INTO history VALUES ('forgotten while leased', 1);
END;
"""


class NaiveIndex(SqlIndex):
    """Looks whether there is room, then takes it: the mistake that this test has to be able to see."""

    async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
        used = await self.usage()
        if used.used_bytes + extra_bytes > quota.store_bytes:
            return False
        return await super().reserve(file_id, extra_bytes, quota=ROOMY)


async def _receive(index: Index, dice: random.Random, now: float) -> FileObject | None:
    """One file in, with eviction where there is no room; None: given up, on purpose or not."""
    file = new_file(
        scope=dice.choice(SCOPES), size_bytes=dice.randint(1, 150), created_at=now, ttl_s=None,
        expires_at=now + dice.choice([0.2, 600.0]),
    )  # fmt: skip
    await begin(index, file, until=now + 60)
    for _ in range(20):
        if await index.reserve(file.id, dice.randint(file.size_bytes, 200), quota=QUOTA):
            break
        for scope in dice.sample(SCOPES, dice.randint(1, len(SCOPES))):
            await index.evict(scope=scope, now=now)
        removals = await index.removable(now=now, limit=100)
        await index.forget([r.id for r in removals])
    else:
        await index.abandon(file.id)
        return None
    if dice.random() < 0.2:
        await index.abandon(file.id)
        return None
    await index.commit(file)
    return file


async def _serve(index: Index, dice: random.Random, until: float) -> tuple[int, int]:
    """Do what a server does, at random; returns how many files came in, and how many went while leased."""
    received = gone_while_leased = 0
    await index.open()
    while (now := time.time()) < until:
        file = await _receive(index, dice, now)
        if file is None:
            continue
        received += 1
        lease_id = new_lease_id()
        found = await index.lease(
            [file.id], lease_id=lease_id, scope=file.scope, now=now, until=now + 60
        )
        await index.expire(now=now, limit=10)
        await index.lapse(now=now, limit=10)
        if found and await index.get(file.id, scope=file.scope, now=now) is None:
            gone_while_leased += (file.expires_at or now) > now + 60
        if dice.random() < 0.3:
            await index.delete(file.id, scope=file.scope, now=now)
        removals = await index.release(lease_id, now=now)
        await index.forget([r.id for r in removals])
    await index.close()
    return received, gone_while_leased


def _start(role: str, path: Path, *values: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, role, path, *values]
    return subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _hear(process: subprocess.Popen[str]) -> str:
    """The next line that the process writes, with its end; empty once it is gone."""
    assert process.stdout is not None
    return process.stdout.readline()


def _run(role: str, path: Path, *, seed: int, seconds: float) -> list[tuple[int, int]]:
    """Let the processes work on a new database with triggers; returns their reports."""
    asyncio.run(_prepare(path))
    workers = [_start(role, path, seed + n, seconds) for n in range(PROCESSES)]
    assert [_hear(worker) for worker in workers] == ["ready\n"] * PROCESSES
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    reports = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    return [(int(received), int(gone)) for received, gone in (r.split() for r in reports)]


async def _prepare(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    await index.close()
    database = sqlite3.connect(path)
    database.executescript(TRIGGERS)
    database.close()


def _history(path: Path) -> dict[str, int]:
    """The highest amount that was ever recorded, by what was recorded."""
    database = sqlite3.connect(path)
    rows = database.execute("SELECT what, max(amount) FROM history GROUP BY what").fetchall()
    database.close()
    return dict(rows)


def test_quota_holds_at_every_change_over_all_processes(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 # shown when the test fails

    reports = _run("sound", tmp_path / "index.db", seed=seed, seconds=3.0)

    highest = _history(tmp_path / "index.db")
    assert all(received > 10 for received, _ in reports)
    assert sum(gone for _, gone in reports) == 0
    assert 900 < highest.pop("store") <= QUOTA.store_bytes
    assert highest.pop("rows") <= QUOTA.store_bytes
    assert set(highest) == {f"scope:{scope}" for scope in SCOPES}
    assert max(highest.values()) <= 600
    asyncio.run(_usage_is_the_sum_of_the_rows(tmp_path / "index.db"))


async def _usage_is_the_sum_of_the_rows(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    usage = await index.usage()
    scopes = [await index.usage(scope) for scope in SCOPES]
    await index.close()
    database = sqlite3.connect(path)
    (rows,) = database.execute("SELECT sum(size_bytes), count(size_bytes) FROM files").fetchall()
    database.close()
    assert (usage.used_bytes, usage.files) == rows
    assert (sum(s.used_bytes for s in scopes), sum(s.files for s in scopes)) == rows


def test_the_same_harness_sees_a_naive_index_overshoot(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 # shown when the test fails

    highest = 0
    for attempt in range(8):  # on a busy machine few of them meet
        path = tmp_path / f"{attempt}.db"
        _run("naive", path, seed=seed + attempt * PROCESSES, seconds=1.0)
        highest = _history(path)["store"]
        if highest > QUOTA.store_bytes:
            break

    assert highest > QUOTA.store_bytes


async def test_process_killed_in_a_transaction_leaves_no_lock_and_no_change(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = SqlIndex.sqlite(path)
    await index.open()
    holder = _start("hold", path)
    assert _hear(holder) == "held\n"

    waiting = asyncio.create_task(store(index))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    holder.kill()
    async with asyncio.timeout(5):
        file = await waiting

    assert done == set()
    assert (await index.usage()).used_bytes == file.size_bytes
    holder.communicate()
    await index.close()


@pytest.mark.parametrize("after", [1, 17, 40])
async def test_killed_process_lost_nothing_that_it_acknowledged(tmp_path: Path, after: int) -> None:
    path = tmp_path / "index.db"
    worker = _start("receive", path)
    acknowledged = [_hear(worker) for _ in range(after)]

    worker.kill()
    rest, _ = worker.communicate()
    acknowledged += rest.splitlines(keepends=True)
    index = SqlIndex.sqlite(path)
    await index.open()
    page = await index.list(scope=Scope("ours"), now=time.time(), limit=10_000)
    usage = await index.usage()
    await index.lapse(now=time.time() * 2, limit=100)
    await index.forget([r.id for r in await index.removable(now=time.time(), limit=100)])
    swept = await index.usage()
    await index.close()

    # A last line without its end was cut by the kill; it is the start of an id.
    whole = {line.strip() for line in acknowledged if line.endswith("\n")}
    assert len(whole) >= after
    assert whole <= {f.id for f in page.files}
    assert usage.files - len(page.files) in (0, 1)
    assert (swept.used_bytes, swept.files) == (100 * len(page.files), len(page.files))


# The other side --------------------------------------------------------------------------------------


def _say(line: object) -> None:
    print(line, flush=True)  # noqa: T201 # the parent reads it


def _serve_as(kind: type[SqlIndex], path: Path, seed: int, seconds: float) -> None:
    _say("ready")
    sys.stdin.readline()
    index = kind.sqlite(path, durable=False)
    received, gone = asyncio.run(_serve(index, random.Random(seed), time.time() + seconds))
    _say(f"{received} {gone}")


def _hold_the_lock(path: Path) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE usage SET used_bytes = 999")
    _say("held")
    sys.stdin.read()  # until killed, or the parent is gone


async def _receive_for_ever(path: Path) -> None:
    index = SqlIndex.sqlite(path)
    await index.open()
    while True:
        _say((await store(index, new_file(created_at=time.time(), expires_at=None))).id)


if __name__ == "__main__":
    role, database_path, *values = sys.argv[1:]
    if role == "hold":
        _hold_the_lock(Path(database_path))
    elif role == "receive":
        asyncio.run(_receive_for_ever(Path(database_path)))
    else:
        index_class = {"sound": SqlIndex, "naive": NaiveIndex}[role]
        _serve_as(index_class, Path(database_path), int(values[0]), float(values[1]))
