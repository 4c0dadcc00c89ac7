"""Claims of a living process are renewed, whatever else fails; those of a dead one lapse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest

import stores
from mediagate.core.files import FileId, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.index.driver import IndexBusyError, Removal
from stores import PNG, Clock, Store

LEASE_S = 60.0


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path, clock, lease_s=LEASE_S, renew_every_s=0.001) as opened:
        yield opened


async def renew_all(store: Store) -> None:
    """Let the task that keeps claims run until it has renewed them at the clock's present time."""
    renewed = asyncio.Event()
    renew = store.index.renew

    async def renew_and_tell(
        *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        await renew(leases=leases, reservations=reservations, until=until)
        renewed.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.index, "renew", renew_and_tell)
        task = asyncio.create_task(store.claims.keep())
        await asyncio.wait_for(renewed.wait(), 10)
        task.cancel()
        await asyncio.wait((task,))


async def test_held_file_stays_held_for_as_long_as_its_process_lives(
    store: Store, clock: Clock
) -> None:
    file = await store.receive()
    hold = await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)
    clock.now += LEASE_S - 1
    await renew_all(store)
    clock.now += LEASE_S - 1

    evicted = await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now)

    assert evicted is None
    await hold.release()
    assert await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now) is not None


async def test_claim_of_a_dead_process_lapses(store: Store, clock: Clock) -> None:
    file = await store.receive()
    await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)
    clock.now += LEASE_S

    assert await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now) is not None


async def test_slow_receive_keeps_its_reservation(store: Store, clock: Clock) -> None:
    """H22's other side: one that stalls within its patience is not swept."""
    async with store.receiver.receive(scope=DEFAULT_SCOPE) as receive:
        await receive.write(PNG + bytes(5000))
        for _ in range(3):
            clock.now += LEASE_S - 1
            await renew_all(store)
            await store.sweeper.sweep()
        await receive.write(bytes(5000))

        file = await receive.finish(filename=None, purpose=Purpose.VISION)

    assert file.size_bytes == len(PNG) + 10_000


async def test_failure_to_renew_is_logged_and_tried_again(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = await store.receive()
    await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)
    renew = store.index.renew
    failures = 0

    async def fail_once(
        *, leases: Collection[LeaseId], reservations: Collection[FileId], until: float
    ) -> None:
        nonlocal failures
        if failures == 0:
            failures += 1
            raise OSError("the disk")
        await renew(leases=leases, reservations=reservations, until=until)

    monkeypatch.setattr(store.index, "renew", fail_once)
    clock.now += LEASE_S - 1
    await renew_all(store)
    clock.now += LEASE_S - 1

    assert await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now) is None
    assert "were not renewed" in caplog.text
    assert file.id not in caplog.text


async def test_hold_of_what_is_not_there_is_empty(store: Store) -> None:
    file = await store.receive()
    absent = FileId("file-" + "0" * 32)

    hold = await store.claims.hold((file.id, absent), scope=DEFAULT_SCOPE)

    assert set(hold.files) == {file.id}
    await hold.release()
    await hold.release()
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    assert await store.is_clean()


async def test_last_release_removes_what_was_deleted_meanwhile(store: Store) -> None:
    file = await store.receive()
    first, second = [await store.claims.hold((file.id,), scope=DEFAULT_SCOPE) for _ in range(2)]
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)

    await first.release()
    assert len(store.on_disk()) == 1
    await second.release()

    assert await store.is_clean()


async def test_release_is_carried_out_even_when_cancelled(store: Store) -> None:
    for steps in range(10):
        file = await store.receive()
        hold = await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)
        await store.files.delete(file.id, scope=DEFAULT_SCOPE)
        releasing = asyncio.create_task(hold.release())
        await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)

        releasing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await releasing

        assert await store.is_clean(), f"after {steps} steps"


async def test_release_that_fails_fails_nobody_and_lapses(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await store.receive()
    hold = await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)

    async def release(_lease_id: LeaseId, *, now: float) -> Sequence[Removal]:
        raise IndexBusyError

    monkeypatch.setattr(store.index, "release", release)
    await hold.release()
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    held = store.on_disk()
    clock.now += LEASE_S
    await store.sweeper.sweep()

    assert held == [file.blob]
    assert await store.is_clean()
