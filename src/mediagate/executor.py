"""Where drivers run what blocks, and how to finish what must not be left half done."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _nothing() -> None:
    pass


async def complete(awaitable: Awaitable[_R], *, on_cancel: Callable[[], object] = _nothing) -> _R:
    """Await to the end, even when cancelled meanwhile; the cancellation is delivered only then.

    So whoever is told that it was cancelled knows that nothing of `awaitable` is still going on.

    Args:
        awaitable: What has an end.
        on_cancel: Called when cancelled; may bring the end nearer.
    """
    future = asyncio.ensure_future(awaitable)
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            cancelled = True
            on_cancel()
    if cancelled:
        if not future.cancelled():
            future.exception()  # marks it as seen: the caller leaves and asks for nothing else
        raise asyncio.CancelledError
    return future.result()


@contextlib.asynccontextmanager
async def in_background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run for as long as the context lasts."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Executor:
    """A few threads of one driver's own, so that a slow disk stalls its driver and nothing else.

    Args:
        name: Prefix of the thread names.
        threads: Upper bound; one thread makes the calls strictly sequential.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `function` in a thread; runs to its end even when the caller is cancelled, see `complete`."""
        return await complete(asyncio.wrap_future(self._pool.submit(function, *args, **kwargs)))

    async def compute(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The same for what only returns a value: it does not begin any more when the caller has been cancelled."""
        call = self._pool.submit(function, *args, **kwargs)
        return await complete(asyncio.wrap_future(call), on_cancel=call.cancel)

    def close(self) -> None:
        """Wait for all calls and end the threads; blocks."""
        self._pool.shutdown(wait=True)

    async def stop(self) -> None:
        """Cancel what has not begun, wait for what has, and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await complete(asyncio.to_thread(self._pool.shutdown, wait=True))
