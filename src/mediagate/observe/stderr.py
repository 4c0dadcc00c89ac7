"""Standard error, written to without waiting for whoever reads it.

A pipe holds 64 KiB. Where nobody empties it (a log collector that hangs, a terminal that was stopped) the next write
would wait, and the event loop with it: every request, and the end of the process. What finds no room is lost instead.
"""

import contextlib
import errno
import os
import select

_STDERR = 2


def write_to_stderr(data: bytes) -> None:
    """Write, if it need not wait; what is no longer than a line of a log is written whole or not at all.

    Raises:
        OSError: Not all of it was written.
    """
    room = select.poll()
    room.register(_STDERR, select.POLLOUT)
    rest = memoryview(data)
    while rest:
        # A pipe that says it has room takes as much as this.
        if not room.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        rest = rest[os.write(_STDERR, rest[: select.PIPE_BUF]) :]


class LogStream:
    """What `logging` writes to."""

    def write(self, text: str) -> None:
        """Write one message; if that cannot be, there is nobody to tell."""
        with contextlib.suppress(OSError):
            write_to_stderr(text.encode(errors="backslashreplace"))
