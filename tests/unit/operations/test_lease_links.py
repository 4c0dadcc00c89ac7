"""Links live as long as their lease, on a real index and real files, over processes that end as they like."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import stores
from mediagate.blobs.directory import DirectoryError
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.core.errors import FileNotFound, InternalError
from mediagate.core.files import FileId
from mediagate.core.leases import LEASE_S, LeaseId
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.operations.claims import Hold
from mediagate.operations.lease_links import LeaseLinks
from stores import PNG, Clock, Store

OTHER = PNG + b"another"


@pytest.fixture
async def directory(tmp_path: Path, store: Store) -> AsyncIterator[LeaseDirectory]:
    directory = LeaseDirectory(tmp_path / "links", blobs=store.blobs)
    directory.open()
    yield directory
    await directory.close()


@pytest.fixture
def links(store: Store, directory: LeaseDirectory, clock: Clock) -> LeaseLinks:
    return LeaseLinks(directory=directory, index=store.index, clock=clock)


async def held(store: Store, *ids: FileId) -> Hold:
    return await store.claims.hold(ids, scope=DEFAULT_SCOPE)


async def linked(links: LeaseLinks, hold: Hold) -> list[str]:
    """A link for each file of the lease, in the order of their ids."""
    return [
        await links.add(hold.lease_id, position, hold.files[file_id])
        for position, file_id in enumerate(sorted(hold.files))
    ]


async def test_link_is_named_after_the_lease_and_the_position(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    files = {file.id: data for data in (PNG, OTHER) for file in [await store.receive(data)]}
    hold = await held(store, *files)

    names = await linked(links, hold)

    assert names == [f"{hold.lease_id}0000", f"{hold.lease_id}0001"]
    assert [(directory.path / name).read_bytes() for name in names] == [
        files[file_id] for file_id in sorted(files)
    ]
    await links.drop(names)
    assert await directory.names() == []


async def test_sweep_leaves_the_links_of_live_leases_whoever_made_them(
    tmp_path: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks, clock: Clock
) -> None:
    """P5."""
    hold = await held(store, (await store.receive()).id, (await store.receive(OTHER)).id)
    names = await linked(links, hold)

    async with stores.opened(tmp_path, clock) as other_process:
        other_directory = LeaseDirectory(directory.path, blobs=other_process.blobs)
        other_directory.open()
        other_links = LeaseLinks(directory=other_directory, index=other_process.index, clock=clock)
        await other_links.sweep()
        kept = await directory.names()
        await hold.release()
        await other_links.sweep()
        await other_directory.close()

    assert sorted(kept) == names
    assert await directory.names() == []


async def test_file_that_is_deleted_while_it_is_leased_stays_readable_through_its_link(
    store: Store, directory: LeaseDirectory, links: LeaseLinks, clock: Clock
) -> None:
    """P5, H53: the lease keeps the blob, the link its bytes."""
    file = await store.receive()
    hold = await held(store, file.id)
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    await store.sweeper.sweep()
    await store.sweeper.collect()

    (name,) = await linked(links, hold)
    await links.sweep()
    while_leased = (directory.path / name).read_bytes()
    await hold.release()
    blobs_after = store.on_disk()
    after_the_blob = (directory.path / name).read_bytes()
    await links.drop((name,))

    assert while_leased == PNG
    assert blobs_after == []
    assert after_the_blob == PNG
    assert await directory.names() == []


async def test_eviction_and_expiry_between_lease_and_link_cannot_take_the_bytes(
    tmp_path: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks, clock: Clock
) -> None:
    """P5."""
    evicted, expired = await store.receive(), await store.receive(OTHER)
    hold = await held(store, evicted.id, expired.id)
    clock.now += stores.TTL_S + 1
    await store.index.renew(leases=(hold.lease_id,), reservations=(), until=clock.now + LEASE_S)
    assert await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now) is None
    await store.sweeper.sweep()
    assert await store.index.get(expired.id, scope=DEFAULT_SCOPE, now=clock.now) is None

    names = await linked(links, hold)

    assert {(directory.path / name).read_bytes() for name in names} == {PNG, OTHER}


async def test_links_of_a_lease_that_lapsed_are_swept(
    store: Store, directory: LeaseDirectory, links: LeaseLinks, clock: Clock
) -> None:
    hold = await held(store, (await store.receive()).id)
    names = await linked(links, hold)
    clock.now += LEASE_S - 1
    await links.sweep()
    kept = await directory.names()
    clock.now += 1

    await links.sweep()

    assert kept == names
    assert await directory.names() == []


async def test_link_beyond_the_files_of_its_lease_is_swept(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    file = await store.receive()
    hold = await held(store, file.id)
    (name,) = await linked(links, hold)
    await links.add(hold.lease_id, 1, file)
    await links.add(LeaseId("0" * 32), 0, file)

    await links.sweep()

    assert await directory.names() == [name]


async def test_strangers_are_never_swept(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """P12."""
    (directory.path / "thesis.txt").write_text("mine")
    before = sorted(directory.path.iterdir())

    await links.sweep()

    assert sorted(directory.path.iterdir()) == before


async def test_file_without_bytes_is_not_found(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    file = await store.receive()
    hold = await held(store, file.id)
    await store.blobs.delete(file.blob)  # by hand: nothing of ours does

    with pytest.raises(FileNotFound):
        await links.add(hold.lease_id, 0, file)

    assert await directory.names() == []


async def test_directory_that_is_gone_is_our_fault_and_one_line_for_the_operator(
    store: Store, directory: LeaseDirectory, links: LeaseLinks, caplog: pytest.LogCaptureFixture
) -> None:
    file = await store.receive()
    hold = await held(store, file.id)
    shutil.rmtree(directory.path)

    with pytest.raises(InternalError) as caught:
        await links.add(hold.lease_id, 0, file)

    assert str(directory.path) not in caught.value.message
    (record,) = caplog.records
    assert record.exc_info is None
    assert f"{directory.path}: No such file or directory" in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_cancelled_request_leaves_no_link(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    file = await store.receive()
    hold = await held(store, file.id)
    for steps in range(4):
        task = asyncio.create_task(links.add(hold.lease_id, 0, file))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await links.drop((await task,))

        assert await directory.names() == []


async def test_drop_that_fails_is_logged_and_left_to_the_sweep(
    tmp_path: Path,
    store: Store,
    directory: LeaseDirectory,
    links: LeaseLinks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hold = await held(store, (await store.receive()).id)
    (name,) = await linked(links, hold)
    aside = tmp_path / "aside"
    directory.path.rename(aside)
    directory.path.write_text("no directory any more")

    await links.drop((name,))

    directory.path.unlink()
    aside.rename(directory.path)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert await directory.names() == [name]
    await hold.release()
    await links.sweep()
    assert await directory.names() == []


async def test_run_sweeps_at_once_and_goes_on_after_a_failure(
    store: Store,
    directory: LeaseDirectory,
    links: LeaseLinks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = await store.receive()
    left_behind = await links.add(LeaseId("0" * 32), 0, file)
    task = asyncio.create_task(links.run(every_s=0.001))
    async with asyncio.timeout(10):
        while left_behind in await directory.names():
            await asyncio.sleep(0)
        shutil.rmtree(directory.path)
        while not caplog.records:
            await asyncio.sleep(0)
        directory.path.mkdir()
        await links.add(LeaseId("0" * 32), 0, file)
        while left_behind in await directory.names():
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))

    assert task.cancelled()
    assert "trying again" in caplog.text


async def test_the_first_sweep_does_not_wait(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    left_behind = await links.add(LeaseId("0" * 32), 0, await store.receive())

    task = asyncio.create_task(links.run())
    async with asyncio.timeout(10):
        while left_behind in await directory.names():
            await asyncio.sleep(0)

    assert not task.done()
    task.cancel()
    await asyncio.wait((task,))


PROCESS = """
import asyncio, pathlib, sys
import stores
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.operations.lease_links import LeaseLinks

async def main():
    root, clock = pathlib.Path(sys.argv[1]), stores.Clock()
    async with stores.opened(root, clock) as store:
        directory = LeaseDirectory(root / "links", blobs=store.blobs)
        directory.open()
        links = LeaseLinks(directory=directory, index=store.index, clock=clock)
        hold = await store.claims.hold((sys.argv[2],), scope=DEFAULT_SCOPE)
        print(await links.add(hold.lease_id, 0, hold.files[sys.argv[2]]), flush=True)
        sys.stdin.read()

asyncio.run(main())
"""
"""Leases a file, links it, says so, and waits to be killed."""


@contextlib.contextmanager
def process(tmp_path: Path, file_id: FileId) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-c", PROCESS, tmp_path, file_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(stores.__file__).parent)},
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


async def test_links_of_a_killed_process_are_swept_once_its_lease_lapsed(
    tmp_path: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks, clock: Clock
) -> None:
    """P3: kill -9 leaves the link and the lease, and both are gone after a sweep."""
    file = await store.receive()
    with process(tmp_path, file.id) as killed:
        assert killed.stdout is not None
        name = killed.stdout.readline().strip()
        await links.sweep()
        while_alive = await directory.names()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    after_the_kill = await directory.names()
    data = (directory.path / name).read_bytes()
    clock.now += LEASE_S

    await links.sweep()

    assert killed.returncode == -signal.SIGKILL
    assert while_alive == after_the_kill == [name]
    assert data == PNG
    assert await directory.names() == []
    assert await store.files.get(file.id, scope=DEFAULT_SCOPE) is not None


async def test_directory_of_a_killed_process_is_free_for_another_store_which_sweeps_its_links(
    tmp_path: Path, store: Store, clock: Clock
) -> None:
    """P3: what a temporary store's server left behind is unknown to the next one's."""
    file = await store.receive()
    (tmp_path / "next").mkdir(mode=0o700)
    async with stores.opened(tmp_path / "next", clock) as next_store:
        directory = LeaseDirectory(tmp_path / "links", blobs=next_store.blobs)
        with process(tmp_path, file.id) as killed:
            assert killed.stdout is not None
            name = killed.stdout.readline().strip()
            with pytest.raises(DirectoryError, match="in use by another store"):
                directory.open()
            killed.kill()
            killed.wait()
        directory.open()
        before = await directory.names()

        await LeaseLinks(directory=directory, index=next_store.index, clock=clock).sweep()

        assert before == [name]
        assert await directory.names() == []
        await directory.close()
