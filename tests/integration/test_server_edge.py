"""What the server promises on real sockets: time limits, clean ends, disconnects, signals, workers."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from mediagate.web.asgi import ClientGone, Message, Receive, Scope, Send
from mediagate.web.protocol import EdgeLimits
from serving import PATIENCE_S, Address, connected, serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
        )
        await send({"type": "http.response.body", "body": b"hello"})


async def test_unfinished_head_is_408_after_the_time_for_it() -> None:
    async with (
        serving(hello, limits=EdgeLimits(head_timeout_s=0.5)) as address,
        connected(address) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        answer = await client.answer()
        rest = await client.read_to_end()

    assert answer.status == 408
    assert json.loads(answer.body)["error"]["code"] == "receive_timeout"
    assert rest == b""


async def test_head_that_trickles_gets_no_more_time_than_one_that_stalls() -> None:
    async with (
        serving(hello, limits=EdgeLimits(head_timeout_s=0.5)) as address,
        connected(address) as client,
    ):
        answering = asyncio.create_task(client.answer())
        for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
            if answering.done():
                break
            await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        answer = await answering

    assert answer.status == 408


async def test_head_after_a_first_request_has_the_same_time() -> None:
    async with (
        serving(hello, limits=EdgeLimits(head_timeout_s=0.5)) as address,
        connected(address) as client,
    ):
        await client.send(GET + b"GET / HT")
        first = await client.answer()
        second = await client.answer()

    assert (first.status, second.status) == (200, 408)


@pytest.mark.parametrize("greeting", [b"", GET], ids=["new", "kept alive"])
async def test_silent_connection_is_closed_without_a_word(greeting: bytes) -> None:
    limits = EdgeLimits(head_timeout_s=0.5, keep_alive_s=0.1)
    async with serving(hello, limits=limits) as address, connected(address) as client:
        await client.send(greeting)
        if greeting:
            await client.answer()

        assert await client.read_to_end() == b""


async def test_long_request_is_not_cut_by_the_time_for_heads() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(1)
            await hello(scope, receive, send)

    limits = EdgeLimits(head_timeout_s=0.5, keep_alive_s=0.1)
    async with serving(slow, limits=limits) as address, connected(address) as client:
        await client.send(GET)
        answer = await client.answer()

    assert answer.status == 200


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("sent", [0, 1000, 1_000_000], ids=["no body", "some", "more than is read"])
async def test_client_that_leaves_mid_body_is_a_disconnect(how: str, sent: int) -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        kind = ""
        while kind != "http.disconnect":
            message = await receive()
            kind = message["type"]
        messages.put_nowait(message)

    async with serving(note) as address, connected(address) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n" + b"x" * sent
        )
        client.reset() if how == "RST" else client.finish()

        message = await asyncio.wait_for(messages.get(), PATIENCE_S)

    assert message == {"type": "http.disconnect"}


async def test_client_that_leaves_while_it_waits_is_a_disconnect() -> None:
    left = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            left.set()

    async with serving(wait) as address, connected(address) as client:
        await client.send(GET)
        client.finish()

        await asyncio.wait_for(left.wait(), PATIENCE_S)


async def test_client_that_never_reads_is_given_up() -> None:
    """Whatever the answer holds, a lease for one, is held for a bounded time."""
    left = asyncio.Event()

    async def send_for_ever(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send(
                    {"type": "http.response.body", "body": bytes(100_000), "more_body": True}
                )
        except ClientGone:
            left.set()
            raise

    limits = EdgeLimits(unread_s=0.3)
    async with serving(send_for_ever, limits=limits) as address, connected(address) as client:
        await client.send(GET)

        await asyncio.wait_for(left.wait(), PATIENCE_S)


async def test_early_answer_is_readable_after_the_whole_body_was_sent() -> None:
    async with serving(hello) as address, connected(address) as client:
        body = b"x" * 6_000_000
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = await client.answer()
        rest = await client.read_to_end()

    assert (answer.status, answer.values("connection")) == (200, ["close"])
    assert rest == b""


async def test_sender_that_looks_for_an_answer_only_when_it_cannot_send_finds_one() -> None:
    """H10: nginx is one: while the rest of a refused body is taken as it comes, it sends on and never reads."""
    limits = EdgeLimits(linger_pause_s=3600)
    async with serving(hello, limits=limits) as address, connected(address) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n")
        await client.answer()

        # No room, and no reset either. It is more than sockets hold, and soon read if somebody reads.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.send(bytes(16_000_000)), 2)


@pytest.mark.parametrize(
    "limits", [EdgeLimits(linger_bytes=100_000), EdgeLimits(linger_s=0.1)], ids=["bytes", "time"]
)
async def test_patience_with_an_unwanted_body_is_bounded(limits: EdgeLimits) -> None:
    async with serving(hello, limits=limits) as address, connected(address) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n")
        await client.answer()

        async def send_for_ever() -> None:
            while True:
                await client.send(b"x" * 10_000)
                await asyncio.sleep(0.001)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_for_ever(), PATIENCE_S)


async def test_connection_is_kept_after_a_body_that_nobody_read_but_that_had_come() -> None:
    async with serving(hello) as address, connected(address) as client:
        for _ in range(2):
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
            answer = await client.answer()

    assert (answer.status, answer.values("connection")) == (200, [])


async def test_drain_lets_a_request_finish_and_closes_idle_connections() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            entered.set()
            await go_on.wait()
            await hello(scope, receive, send)

    async with serving(wait) as running, connected(running) as idle, connected(running) as busy:
        await busy.send(GET)
        await asyncio.wait_for(entered.wait(), PATIENCE_S)
        stopping = asyncio.create_task(running.stop())
        idle_end = await idle.read_to_end()
        go_on.set()
        answer = await busy.answer()
        await stopping

    assert idle_end == b""
    assert (answer.status, answer.values("connection")) == (200, ["close"])


async def test_drain_lets_a_body_in_flight_arrive() -> None:
    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        size = 0
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        await send(
            {"type": "http.response.start", "status": size, "headers": [(b"content-length", b"0")]}
        )
        await send({"type": "http.response.body", "body": b""})

    async with serving(count) as running, connected(running) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 404\r\n\r\n" + b"x" * 4)
        while not running.server.server_state.tasks:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(running.stop())
        await asyncio.sleep(0.1)
        await client.send(b"x" * 400)
        answer = await client.answer()
        await stopping

    assert answer.status == 404


async def test_request_that_outlives_the_grace_period_is_cancelled_before_the_lifespan_ends() -> (
    None
):
    order: list[str] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            order.append("lifespan")
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            order.append("begun")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            order.append("cleaned up")

    async with serving(stubborn, grace_s=0.1) as running, connected(running) as client:
        await client.send(GET)
        while not order:
            await asyncio.sleep(0)
        await running.stop()

        assert await client.read_to_end() == b""

    assert order == ["begun", "cleaned up", "lifespan"]


PROGRAM = """
import asyncio, os, sys
from mediagate.web.server import run

def say(word, number):
    os.write(1, f"{word} {number}\\n".encode())  # one write: processes share the pipe

def app_factory(_worker):
    say("built", os.getpid())
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            if "fail" in sys.argv:
                await send({"type": "lifespan.startup.failed"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            say("ended", os.getpid())
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/die":
            os._exit(9)
        if scope["path"] == "/slow":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        body = str(os.getpid()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
    return app

sys.exit(run(app_factory, host="127.0.0.1", port=0, workers=int(sys.argv[1]), grace_s=float(sys.argv[2]),
             on_ready=lambda host, port: say("ready", port)))
"""


class Process:
    """The server as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = Address("127.0.0.1", 0)

    async def line(self, word: str) -> str:
        """Wait for a line of the output that begins with `word`."""
        assert self.process.stdout is not None
        while True:
            raw = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
            assert raw, self.lines
            self.lines.append(raw.decode().strip())
            if self.lines[-1].startswith(word):
                return self.lines[-1].partition(" ")[2]

    async def status(self) -> int:
        assert self.process.stdout is not None
        rest = await asyncio.wait_for(self.process.stdout.read(), PATIENCE_S)
        self.lines += rest.decode().split("\n")
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    async def ask(self, path: str = "/") -> bytes:
        async with connected(self.address) as client:
            await client.send(GET.replace(b"/", path.encode(), 1))
            return (await client.answer()).body

    def pids(self, word: str) -> set[int]:
        return {int(line.split()[1]) for line in self.lines if line.startswith(word)}


@contextlib.asynccontextmanager
async def process(*, workers: int, grace_s: float = 5.0) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(workers), str(grace_s),
        stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    running = Process(started)
    try:
        running.address = Address("127.0.0.1", int(await running.line("ready")))
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        await started.wait()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_the_process_exits_0(workers: int, number: int) -> None:
    async with process(workers=workers) as server:
        assert await server.ask()
        server.process.send_signal(number)

        assert await server.status() == 0

    assert len(server.pids("ended")) == workers


@pytest.mark.parametrize("workers", [1, 2])
async def test_signal_to_the_whole_group_counts_once(workers: int) -> None:
    """As a terminal or a service manager sends it: a request in progress still gets its time."""
    async with process(workers=workers, grace_s=0.5) as server, connected(server.address) as client:
        await client.send(GET.replace(b"/", b"/slow", 1))
        await client.read_until(b"begun")
        began = asyncio.get_running_loop().time()
        os.killpg(server.process.pid, signal.SIGTERM)
        status = await server.status()
        elapsed = asyncio.get_running_loop().time() - began

    assert status == 0
    assert elapsed >= 0.5


@pytest.mark.parametrize("workers", [1, 2])
async def test_second_signal_ends_the_waiting(workers: int) -> None:
    async with process(workers=workers, grace_s=60) as server, connected(server.address) as client:
        await client.send(GET.replace(b"/", b"/slow", 1))
        await client.read_until(b"begun")
        server.process.send_signal(signal.SIGTERM)
        while not await _refuses(server.address):
            await asyncio.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)

        assert await server.status() == 0

    assert len(server.pids("ended")) == workers


async def _refuses(address: Address) -> bool:
    try:
        async with connected(address):
            return False
    except ConnectionRefusedError:
        return True


async def test_worker_that_dies_is_replaced() -> None:
    async with process(workers=2) as server:
        before = server.pids("built")
        async with connected(server.address) as client:
            await client.send(GET.replace(b"/", b"/die", 1))
            assert await client.read_to_end() == b""
        replacement = int(await server.line("built"))
        answers = {int(await server.ask()) for _ in range(3)}
        server.process.send_signal(signal.SIGTERM)
        status = await server.status()

    assert len(before) == 2, server.lines
    assert replacement not in before
    assert answers <= before | {replacement}
    assert status == 0


async def test_workers_end_when_their_parent_is_killed() -> None:
    async with process(workers=2) as server:
        server.process.kill()
        await server.status()  # the output ends when its last writer has

    assert len(server.pids("ended")) == 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_application_that_does_not_start_ends_the_server(workers: int) -> None:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(workers), "1", "fail",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(started.communicate(), PATIENCE_S)

    assert started.returncode not in {0, None}
    assert b"ready" not in output


async def test_taken_port_is_an_error_of_the_caller() -> None:
    async with serving(hello) as address:
        code = f"from mediagate.web.server import bind; bind('127.0.0.1', {address.port})"
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(started.communicate(), PATIENCE_S)

    assert b"OSError" in errors


async def test_curl_uploads_and_reads_an_early_answer() -> None:
    async with serving(hello) as address:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-T", "-", address.url + "/x",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(curl.communicate(b"x" * 3_000_000), PATIENCE_S)

    assert output == b"hello"
