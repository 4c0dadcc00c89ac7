"""What becomes of calls whose caller is gone, and of those that wait when all is over."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from mediagate.executor import Executor


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets go what holds a thread; set in the end, whatever a test has found."""
    event = threading.Event()
    yield event
    event.set()


async def begun(executor: Executor, calls: list[int], release: threading.Event) -> None:
    """Come back when the one thread of `executor` is busy until `release`."""
    is_busy = threading.Event()

    def hold() -> None:
        calls.append(0)
        is_busy.set()
        release.wait()

    executor._pool.submit(hold)
    await asyncio.to_thread(is_busy.wait)


async def asked(method: Callable[..., object], *args: object) -> list["asyncio.Task[None]"]:
    """Three callers, each of whom waits for its turn."""
    tasks = [asyncio.ensure_future(method(*args, number)) for number in (1, 2, 3)]  # type: ignore[call-overload]
    await asyncio.sleep(0)
    return tasks


async def test_a_computation_nobody_waits_for_any_more_does_not_begin(
    release: threading.Event,
) -> None:
    executor, calls = Executor("t", threads=1), list[int]()
    await begun(executor, calls, release)
    tasks = await asked(executor.compute, calls.append)

    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=10)

    release.set()
    executor.close()
    assert not pending
    assert all(task.cancelled() for task in tasks)
    assert calls == [0]


async def test_a_computation_that_has_begun_ends_before_its_caller_hears_of_it(
    release: threading.Event,
) -> None:
    executor, is_busy = Executor("t", threads=1), threading.Event()

    def compute() -> None:
        is_busy.set()
        release.wait()
        raise ValueError("nobody hears this")

    task = asyncio.create_task(executor.compute(compute))
    await asyncio.to_thread(is_busy.wait)

    task.cancel()
    await asyncio.sleep(0)

    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    executor.close()


async def test_what_must_happen_happens_although_its_caller_is_gone(
    release: threading.Event,
) -> None:
    executor, calls = Executor("t", threads=1), list[int]()
    await begun(executor, calls, release)
    tasks = await asked(executor.run, calls.append)

    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    release.set()
    await asyncio.wait(tasks)

    assert all(task.cancelled() for task in tasks)
    assert calls == [0, 1, 2, 3]
    executor.close()


async def test_a_stop_drops_what_waits_and_leaves_the_event_loop_alone(
    release: threading.Event,
) -> None:
    executor, calls = Executor("t", threads=1), list[int]()
    await begun(executor, calls, release)
    tasks = await asked(executor.compute, calls.append)

    rescue = threading.Timer(10, release.set)
    rescue.start()  # lets a loop go that is blocked all the same
    stop = asyncio.create_task(executor.stop())
    await asyncio.wait(tasks)

    assert all(task.cancelled() for task in tasks)
    assert not stop.done()
    assert not release.is_set()
    release.set()
    await stop
    rescue.cancel()
    assert calls == [0]
