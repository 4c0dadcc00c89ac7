"""A `RecordingUpstream` on a loop of its own, for tests that block."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from mediagate.testing.upstream import RecordingUpstream

_T = TypeVar("_T")


class ThreadedUpstream:
    """A context manager; handlers of `server` run on the loop of another thread.

    Attributes:
        server: The upstream.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.server = RecordingUpstream()

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.server.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self.server.__aexit__(kind, error, trace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Its result, computed over there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
