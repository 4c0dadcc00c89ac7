"""A progress bar for a person: drawn on a terminal, wiped when done, absent elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

BAR_WIDTH = 24
REDRAW_S = 0.1
MIB = 1024**2


class Progress:
    """How much of one transfer is done.

    Args:
        label: What is transferred, safe to print.
        total: Bytes in all; None: unknown.
        stream: Where to draw; nothing is drawn unless it is a terminal.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, label: str, total: int | None, stream: TextIO, clock: Callable[[], float]
    ) -> None:
        self._label = label
        self._total = total
        self._stream = stream
        self._clock = clock
        self._is_drawn = stream.isatty()
        self._done = 0
        self._began_at = clock()
        self._drawn_at = float("-inf")

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        now = self._clock()
        if self._is_drawn and now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._stream.write("\r\x1b[K" + self._line(now))
            self._stream.flush()

    def wipe(self) -> None:
        """Leave an empty line."""
        if self._is_drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._began_at, 1e-6)
        figures = f"{self._done / MIB:.1f}"
        bar = ""
        if self._total:
            share = min(self._done / self._total, 1.0)
            bar = f"[{'#' * int(share * BAR_WIDTH):<{BAR_WIDTH}}] {share:4.0%}  "
            figures += f"/{self._total / MIB:.1f}"
        line = f"{bar}{figures} MiB  {rate / MIB:.1f} MiB/s  {self._label}"
        return line[: shutil.get_terminal_size().columns - 1]


@contextmanager
def progress(
    *, label: str, total: int | None, stream: TextIO, clock: Callable[[], float]
) -> Iterator[Progress]:
    """A bar that is wiped however the transfer ends."""
    bar = Progress(label=label, total=total, stream=stream, clock=clock)
    try:
        yield bar
    finally:
        bar.wipe()
