"""A real server in the test's event loop, and a client that sees bytes."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mediagate.web.asgi import ASGIApp
from mediagate.web.protocol import EdgeLimits
from mediagate.web.server import Server, bind

PATIENCE_S = 10.0
"""How long a test waits for what must come."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Serving(Address):
    server: Server
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        """Drain."""
        self.server.stop()
        await asyncio.wait_for(self.task, PATIENCE_S)


@dataclass(frozen=True)
class Answer:
    status: int
    lines: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.lines if key.lower() == name]


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, *, limits: EdgeLimits | None = None, grace_s: float = 5.0
) -> AsyncIterator[Serving]:
    """Serve `app` on a free loopback port; drains at the end."""
    sock = bind("127.0.0.1", 0)
    address = sock.getsockname()
    started = asyncio.Event()
    server = Server(
        app, limits=limits, grace_s=grace_s, on_started=started.set, handles_signals=False
    )
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await asyncio.wait_for(started.wait(), PATIENCE_S)
    running = Serving(address[0], address[1], server, task)
    try:
        yield running
    finally:
        await running.stop()


class RawClient:
    """One connection, read and written byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)

    async def read_exactly(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE_S)

    async def read_until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE_S)

    async def read_to_end(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), PATIENCE_S)

    async def answer(self, *, has_body: bool = True) -> Answer:
        """Read one response, framed by Content-Length or chunks."""
        head = (await self.read_head()).decode("latin-1").split("\r\n")
        lines = [(name, value.strip()) for name, _, value in (x.partition(":") for x in head[1:-2])]
        answer = Answer(int(head[0].split(" ")[1]), lines, b"")
        if not has_body:
            return answer
        if answer.values("transfer-encoding"):
            body = b""
            while size := int(await self.read_until(b"\r\n"), 16):
                body += (await self.read_exactly(size + 2))[:-2]
            await self.read_exactly(2)
        else:
            body = await self.read_exactly(int(answer.values("content-length")[0]))
        return Answer(answer.status, lines, body)

    def reset(self) -> None:
        """Leave with a RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def finish(self) -> None:
        """Leave with a FIN."""
        self.writer.close()


@contextlib.asynccontextmanager
async def connected(
    address: Address, *, buffer_bytes: int | None = None
) -> AsyncIterator[RawClient]:
    """A raw client; `buffer_bytes` makes it one that cannot hold much unread."""
    sock = socket.socket()
    if buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer_bytes or 2**16)
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        writer.transport.abort()
