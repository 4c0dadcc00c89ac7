"""A small real upstream on a loopback socket: it records what it receives byte for byte and answers as told.

It reads and writes bytes itself, with no HTTP library between, so that a test can see exactly what was sent and can
answer what no library would let it answer.
"""

import asyncio
import contextlib
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)

_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Received:
    """One request, and the means to answer it.

    Attributes:
        connection: Number of the connection it came on, from 0.
        nth: Its number on that connection, from 0.
        head: The request line and the header lines, exactly as received, with the empty line.
        body: The body without its framing, as far as it was read.
        raw_body: The same with the framing.
        gone: Set once the client has closed or reset the connection.
    """

    connection: int
    nth: int
    head: bytes
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    body: bytes = b""
    raw_body: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def method(self) -> str:
        """Of the request line."""
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        """The request target, undecoded."""
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def path(self) -> str:
        """The target up to its query, undecoded."""
        return self.target.partition("?")[0]

    @property
    def header_lines(self) -> list[tuple[str, str]]:
        """Names and values as received, in order, duplicates kept."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def values(self, name: str) -> list[str]:
        """All values of one header, in order."""
        return [value for key, value in self.header_lines if key.lower() == name.lower()]

    def argument(self, name: str, default: int) -> int:
        """A number from the query."""
        return int(parse_qs(self.target.partition("?")[2]).get(name, [str(default)])[0])

    async def read_body(self, *, up_to: int | None = None) -> None:
        """Read the rest of the body, or until `up_to` bytes of it have come, into `body` and `raw_body`."""
        if any("chunked" in value for value in self.values("transfer-encoding")):
            size = -1
            while size != 0 and (up_to is None or len(self.body) < up_to):
                line = await self._reader.readuntil(b"\r\n")
                size = int(line, 16)
                chunk = await self._reader.readexactly(size + 2)
                self.raw_body += line + chunk
                self.body += chunk[:-2]
            return
        length = int((self.values("content-length") or ["0"])[0])
        wanted = (length if up_to is None else min(up_to, length)) - len(self.body)
        pieces = []
        while wanted > 0:
            piece = await self._reader.read(min(wanted, 1024 * 1024))
            if not piece:
                raise ConnectionResetError
            wanted -= len(piece)
            pieces.append(piece)
        self.body += b"".join(pieces)
        self.raw_body = self.body

    async def write(self, data: bytes) -> None:
        """Send bytes, as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(
        self, body: bytes = b"", *, status: bytes = b"200 OK", headers: bytes = b""
    ) -> None:
        """Send a complete response; `headers` are whole lines with their CRLF."""
        await self.write(
            b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)
        )

    async def write_event(self, text: str) -> None:
        """Send one server-sent event as one chunk."""
        data = f"data: {text}\n\n".encode()
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        """Close the connection (FIN)."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection (RST)."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    async def until_gone(self) -> None:
        """Wait until the client has closed or reset the connection; what it still sends is dropped."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(64 * 1024):
                pass
        self.gone.set()


Handler = Callable[[Received], Awaitable[None]]


class RecordingUpstream:
    """The server. An async context manager; `handlers` maps paths to what answers them, and may be changed.

    Built in: `/echo`, `/sse?events=N`, `/early` (413 before the body), `/die-when-reused` (closes before any byte on
    the second and later requests of a connection), `/hang`, `/duplicates`, `/no-content`, `/not-modified`, `/gzip`,
    `/redirect`; any other path answers 404.

    Attributes:
        received: Every request, in order of arrival.
        handlers: By path.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.handlers: dict[str, Handler] = {
            "/echo": echo,
            "/sse": stream_events,
            "/early": answer_early,
            "/die-when-reused": die_when_reused,
            "/hang": hang,
            "/duplicates": answer_with_duplicates,
            "/no-content": answer_no_content,
            "/not-modified": answer_not_modified,
            "/gzip": answer_compressed,
            "/redirect": redirect,
        }
        self.connections = 0
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def next_received(self, number: int = 1) -> Received:
        """Wait for the `number`-th request since the start; its body may still be arriving."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.received) >= number)
        return self.received[number - 1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = self.connections
        self.connections += 1
        nth = 0
        request: Received | None = None
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request = Received(connection, nth, head, reader, writer)
                nth += 1
                self.received.append(request)
                async with self._news:
                    self._news.notify_all()
                await self.handlers.get(request.path, answer_not_found)(request)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._tasks.discard(task)
            if request is not None:
                request.gone.set()
            writer.transport.abort() if writer.is_closing() else writer.close()


async def echo(request: Received) -> None:
    """The body, under its own content type."""
    await request.read_body()
    kind = "".join(f"content-type: {value}\r\n" for value in request.values("content-type"))
    await request.answer(request.body if request.method != "HEAD" else b"", headers=kind.encode())


async def stream_events(request: Received) -> None:
    """`events` server-sent events, then the end."""
    await request.read_body()
    await request.write(SSE_HEAD)
    for number in range(request.argument("events", 3)):
        await request.write_event(str(number))
    await request.write(b"0\r\n\r\n")


async def answer_early(request: Received) -> None:
    """413 before the body has come, then the drain that a well-behaved server grants."""
    await request.answer(
        b"too large", status=b"413 Content Too Large", headers=b"connection: close\r\n"
    )
    await request.until_gone()


async def die_when_reused(request: Received) -> None:
    """An answer to the first request of a connection, a close instead of one to the others."""
    await request.read_body()
    if request.nth:
        request.close()
    else:
        await request.answer(b"first")


async def hang(request: Received) -> None:
    """No answer, ever."""
    await request.read_body()
    await request.until_gone()


async def answer_with_duplicates(request: Received) -> None:
    """Header lines that come twice, and hop-by-hop ones."""
    await request.read_body()
    headers = (
        b"set-cookie: a=1\r\nset-cookie: b=2\r\nx-twice: 1\r\nX-Other: 2\r\nx-twice: 3\r\n"
        b"connection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n"
    )
    await request.answer(b"ok", headers=headers)


async def answer_no_content(request: Received) -> None:
    """204."""
    await request.read_body()
    await request.write(b"HTTP/1.1 204 No Content\r\nx-kind: empty\r\n\r\n")


async def answer_not_modified(request: Received) -> None:
    """304 with the length of what it did not send."""
    await request.read_body()
    await request.write(b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 1234\r\n\r\n')


async def answer_compressed(request: Received) -> None:
    """A gzip body."""
    await request.read_body()
    await request.answer(gzip.compress(b"packed", mtime=0), headers=b"content-encoding: gzip\r\n")


async def redirect(request: Received) -> None:
    """307 to somewhere else."""
    await request.read_body()
    await request.answer(status=b"307 Temporary Redirect", headers=b"location: /echo\r\n")


async def answer_not_found(request: Received) -> None:
    """404."""
    await request.read_body()
    await request.answer(b"not found", status=b"404 Not Found")
