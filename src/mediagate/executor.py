"""Where drivers run what blocks: a few threads of their own, so that a slow disk stalls its driver and nothing else."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Executor:
    """A bounded pool of threads that finishes what it began.

    A call that was handed over runs to its end even when the awaiting task is cancelled, and the cancellation is
    delivered only then. So a driver's caller knows: after `run` returned or raised, nothing of it is still going on.

    Args:
        name: Prefix of the thread names.
        threads: Upper bound; one thread makes the calls strictly sequential.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `function` in a thread; its exceptions are raised here."""
        future = asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            future.exception()  # marks it as seen: the caller leaves and hears of nothing else
            raise asyncio.CancelledError
        return future.result()

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        self._pool.shutdown(wait=True)
