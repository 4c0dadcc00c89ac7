"""Several serving processes on one socket: the parent forks, restarts what died, passes on the stop.

    parent ──fork──▶ worker   control pipe: "s" stop, "f" force, closed: the parent is gone, so stop
       ▲                │
       └────────────────┘     ready pipe: one byte from each worker that serves

The parent runs no event loop and no thread: it must stay safe to fork from. A terminal's Ctrl-C and a service manager's
SIGTERM reach the whole process group, so a signal in a worker never means more than "drain"; only the parent, which
counts signals, can force.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_STOP = b"s"
_FORCE = b"f"
_FIRST_BACK_OFF_S = 0.5
_MAX_BACK_OFF_S = 30.0
_STABLE_AFTER_S = 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

logger = logging.getLogger(__name__)


class Worker:
    """A worker's ends of the pipes.

    Attributes:
        number: From 0, and its own among those that live; a worker that replaces a dead one takes over its number.
    """

    def __init__(self, *, number: int, control: int, ready: int) -> None:
        self.number = number
        self._control = control
        self._ready = ready

    def listen(self, *, stop: Callable[[], None], force: Callable[[], None]) -> None:
        """On the running loop: obey the parent, and notice its death."""
        loop = asyncio.get_running_loop()

        def obey() -> None:
            order = os.read(self._control, 1)
            if not order:
                loop.remove_reader(self._control)
            if order == _FORCE:
                force()
            else:
                stop()

        loop.add_reader(self._control, obey)
        loop.add_signal_handler(signal.SIGTERM, stop)

    def tell_ready(self) -> None:
        """This worker serves."""
        os.write(self._ready, b"r")


@dataclass(slots=True)
class _Child:
    number: int
    control: int
    started_at: float


class Supervisor:
    """The parent.

    Args:
        work: Runs in each forked process; returns its exit status.
        workers: How many.
        on_ready: Called once, when as many have said that they serve.
        on_stop: Called when no worker will be forked any more: close what was open for them.
    """

    def __init__(
        self,
        work: Callable[[Worker], int],
        *,
        workers: int,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._work = work
        self._workers = workers
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._children: dict[int, _Child] = {}
        self._signals = 0
        self._ready = 0
        self._quick_deaths = 0
        self._fork_at = 0.0
        self._status = 0

    def run(self) -> int:
        """Fork, watch, stop; the exit status."""
        self._ready_read, self._ready_write = os.pipe()
        os.set_blocking(self._ready_read, False)
        with self._wake_up_on_signals() as wake_up:
            for _ in range(self._workers):
                self._fork()
            while self._children or not self._is_stopping:
                self._wait(wake_up)
                self._reap()
                self._refill()
        os.close(self._ready_read)
        os.close(self._ready_write)
        return self._status

    @property
    def _is_stopping(self) -> bool:
        return self._signals > 0

    def _fork(self) -> None:
        taken = {child.number for child in self._children.values()}
        free = next(n for n in range(self._workers) if n not in taken)
        control_read, control_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that a child took before it has handlers of its own would be told to the parent, and count there.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os.close(control_read)
            self._children[pid] = _Child(free, control_write, started_at=time.monotonic())
            return
        # The siblings' pipes must not stay open here, or they would not notice that the parent died.
        for fd in (control_write, self._ready_read, *(c.control for c in self._children.values())):
            os.close(fd)
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            status = self._work(Worker(number=free, control=control_read, ready=self._ready_write))
        except BaseException:
            logger.exception("A worker failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # the parent's clean-up is not ours to run

    @contextlib.contextmanager
    def _wake_up_on_signals(self) -> Iterator[socket.socket]:
        read, write = socket.socketpair()
        with read, write:
            read.setblocking(False)
            write.setblocking(False)
            before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
            wakeup_before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
            try:
                yield read
            finally:
                signal.set_wakeup_fd(wakeup_before)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _wait(self, wake_up: socket.socket) -> None:
        """Sleep until a signal, a worker's readiness, or the time to fork again."""
        is_short = len(self._children) < self._workers and not self._is_stopping
        timeout = max(0.0, self._fork_at - time.monotonic()) if is_short else None
        readable, _, _ = select.select([wake_up.fileno(), self._ready_read], [], [], timeout)
        if wake_up.fileno() in readable:
            for number in wake_up.recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop_or_force()
        if self._ready_read in readable:
            was_ready = self._ready >= self._workers
            self._ready += len(os.read(self._ready_read, 4096))
            if not was_ready and self._ready >= self._workers and not self._is_stopping:
                self._on_ready()

    def _stop_or_force(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._on_stop()
        self._order(_STOP if self._signals == 1 else _FORCE)

    def _order(self, order: bytes) -> None:
        for child in self._children.values():
            with contextlib.suppress(BrokenPipeError):
                os.write(child.control, order)

    def _reap(self) -> None:
        for pid in list(self._children):
            done, wait_status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            child = self._children.pop(pid)
            os.close(child.control)
            if self._is_stopping:
                continue
            status = os.waitstatus_to_exitcode(wait_status)
            logger.error("A worker ended with status %d", status)
            now = time.monotonic()
            if self._ready < self._workers and status > 0:
                # It does not even start: trying again would hide why.
                self._status = status
                self._stop_or_force()
                continue
            is_quick = now - child.started_at < _STABLE_AFTER_S
            self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
            delay = (
                _FIRST_BACK_OFF_S * 2 ** max(0, min(self._quick_deaths, 10) - 1) if is_quick else 0
            )
            self._fork_at = max(self._fork_at, now + min(delay, _MAX_BACK_OFF_S))

    def _refill(self) -> None:
        while (
            not self._is_stopping
            and len(self._children) < self._workers
            and time.monotonic() >= self._fork_at
        ):
            self._fork()
