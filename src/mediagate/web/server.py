"""Serving an ASGI application: uvicorn's lifespan and listeners, our connections, an orderly end.

What differs from uvicorn's own server: a SIGTERM drains and the process ends with status 0, not 143; requests that
outlive the grace period are cancelled *and awaited* before the application's lifespan ends, so that their clean-up
still finds its collaborators; a second signal cuts the period short.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
import uvloop

from mediagate.web.asgi import ASGIApp
from mediagate.web.protocol import EdgeLimits, HttpProtocol
from mediagate.web.workers import Supervisor, Worker

GRACE_S = 25.0
"""Below the 30 s after which container runtimes kill."""

_UNWIND_S = 5.0
_BACKLOG = 2048

logger = logging.getLogger(__name__)

OnReady = Callable[[str, int], None]
"""Told the host and port that clients can now connect to."""


class Server(uvicorn.Server):
    """One process's server.

    Args:
        app: The application; its lifespan runs around the serving.
        limits: What a connection may cost.
        grace_s: How long requests in progress may take to finish after `stop`.
        on_started: Called on the event loop once connections are accepted.
        handles_signals: SIGTERM and SIGINT stop the server, a second one forces it. Not in a worker process.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: EdgeLimits | None = None,
        grace_s: float = GRACE_S,
        on_started: Callable[[], None] | None = None,
        handles_signals: bool = True,
    ) -> None:
        self._limits = limits or EdgeLimits()
        self._grace_s = grace_s
        self._on_started = on_started
        self._handles_signals = handles_signals
        super().__init__(
            uvicorn.Config(
                app,
                http=self._protocol,  # type: ignore[arg-type]  # called like the class it asks for
                ws="none",
                interface="asgi3",
                lifespan="auto",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
            )
        )

    def stop(self) -> None:
        """Begin to drain; `serve` returns when that is done."""
        self.should_exit = True

    def force(self) -> None:
        """Drain no longer."""
        self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let requests finish, cancel those that do not, end the application."""
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        deadline = time.monotonic() + self._grace_s
        while (state.connections or state.tasks) and not self.force_exit:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(0.02)
        if late := list(state.tasks):
            logger.warning("%d requests did not finish in time and are cut off", len(late))
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_UNWIND_S)
        for connection in list(state.connections):
            connection.abort()  # type: ignore[union-attr]  # they are all HttpProtocol
        await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal; unlike uvicorn's, do not raise it again at the end."""
        if not self._handles_signals:
            yield
            return
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force()
        else:
            self.stop()

    def _protocol(
        self,
        *,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> HttpProtocol:
        return HttpProtocol(
            app=config.loaded_app,
            state=server_state,
            app_state=app_state,
            loop=_loop or asyncio.get_running_loop(),
            limits=self._limits,
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: Name or address; a name stands for its first address.
        port: 0 picks a free one.

    Raises:
        OSError: The address is unknown or taken.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def run(
    app_factory: Callable[[int], ASGIApp],
    *,
    host: str,
    port: int,
    workers: int = 1,
    limits: EdgeLimits | None = None,
    grace_s: float = GRACE_S,
    on_ready: OnReady | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT.

    The socket is bound here. One worker serves in this process; more are forked, so no thread and no event loop may
    exist yet.

    Args:
        app_factory: Builds the application, once in each serving process; is told that worker's number, from 0.
        host: Where to listen.
        port: 0 picks a free one.
        workers: Number of serving processes.
        limits: What a connection may cost.
        grace_s: How long requests in progress may take to finish.
        on_ready: Called in this process once, when every worker serves.

    Returns:
        The exit status: 0 after a stop that was asked for, else that of the application that did not start.

    Raises:
        OSError: The address is unknown or taken.
    """
    sock = bind(host, port)
    address = sock.getsockname()

    def announce() -> None:
        if on_ready is not None:
            on_ready(str(address[0]), int(address[1]))

    if workers == 1:
        server = Server(app_factory(0), limits=limits, grace_s=grace_s, on_started=announce)
        return _serve(server, sock)

    def work(worker: Worker) -> int:
        server = Server(
            app_factory(worker.number),
            limits=limits,
            grace_s=grace_s,
            on_started=worker.tell_ready,
            handles_signals=False,
        )
        return _serve(server, sock, worker)

    return Supervisor(work, workers=workers, on_ready=announce, on_stop=sock.close).run()


def _serve(server: Server, sock: socket.socket, worker: Worker | None = None) -> int:
    async def serve() -> None:
        if worker is not None:
            worker.listen(stop=server.stop, force=server.force)
        await server.serve(sockets=[sock])

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except SystemExit as failure:  # uvicorn's way to say that the application did not start
        return failure.code if isinstance(failure.code, int) else 1
    return 0
