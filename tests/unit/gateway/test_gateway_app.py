"""The gateway as an ASGI app, where a server of another kind, or a rude upstream, makes a difference."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

import stores
from mediagate.core.errors import (
    BodyTooLarge,
    FileNotFound,
    InvalidReference,
    InvalidScope,
    MalformedBody,
    MediagateError,
    RouteNotFound,
    SourceNotAllowed,
)
from mediagate.core.scopes import Principal
from mediagate.core.scopes import Scope as Owner
from mediagate.core.store_key import StoreKey
from mediagate.dialects.fields import Judge
from mediagate.executor import Executor
from mediagate.gateway.app import ENDLESS, Gateway
from mediagate.gateway.cache_salts import CacheSalts
from mediagate.operations.deliver import (
    Delivery,
    HandleDelivery,
    Handles,
    InlineDelivery,
    Leased,
)
from mediagate.operations.resolve import Resolver
from mediagate.web.asgi import Headers, Message, Receive, Scope, Send
from mediagate.web.body import Patience
from stores import PNG, Clock


class Broken(Exception):
    """How the upstream ends."""


async def test_read_that_is_still_under_way_hides_no_answer_and_leaves_no_file_open(
    tmp_path: Path,
) -> None:
    """The proxy's client library cancels what sends the body, and does not wait for its end."""

    async def upstream(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()  # up to the media
        sending = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        sending.cancel()
        raise Broken

    async with stores.opened(tmp_path, Clock()) as store:
        file = await store.receive(PNG + bytes(1024**2))
        part = {"type": "image_url", "image_url": {"url": file.id}}
        body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(_message: Message) -> None:
            raise AssertionError

        executor = Executor("test", threads=1)
        gateway = Gateway(
            upstream=upstream,
            resolver=Resolver(
                holder=store.claims, deliver=lambda *_: InlineDelivery(), executor=executor
            ),
            open_blob=lambda file: store.blobs.read(file.blob),
            max_json_bytes=1024,
            patience=Patience(),
        )
        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": b"/v1/chat/completions",
            "headers": [],
            "principal": Principal(),
        }
        with pytest.raises(Broken):
            await gateway(scope, receive, send)

        assert stores.open_files(tmp_path / "blobs") == []
        executor.close()


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (("10.0.0.5", 8080), "http://10.0.0.5:8080"),
        (("::1", 80), "http://[::1]:80"),
        (("/run/gate.sock", None), None),
        (None, None),
    ],
)
async def test_delivery_is_told_where_the_request_came_in(
    tmp_path: Path, server: tuple[str, int | None] | None, url: str | None
) -> None:
    told: list[str | None] = []

    def deliver(_leased: Leased, came_in_at: str | None) -> Delivery:
        told.append(came_in_at)
        return InlineDelivery()

    async def upstream(_scope: Scope, _receive: Receive, _send: Send) -> None: ...

    async with stores.opened(tmp_path, Clock()) as store:
        file = await store.receive()
        part = {"type": "image_url", "image_url": {"url": file.id}}
        body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop()

        async def send(_message: Message) -> None: ...

        executor = Executor("test", threads=1)
        gateway = Gateway(
            upstream=upstream,
            resolver=Resolver(holder=store.claims, deliver=deliver, executor=executor),
            open_blob=lambda file: store.blobs.read(file.blob),
            max_json_bytes=1024,
            patience=Patience(),
        )
        scope: Scope = {
            "type": "http",
            "server": server,
            "method": "POST",
            "raw_path": b"/v1/chat/completions",
            "headers": [],
            "principal": Principal(),
        }
        await gateway(scope, receive, send)
        executor.close()

    assert told == [url]


# Around an engine that guards itself ----------------------------------------------------------------------


class Server:
    """The HTTP server: a request comes in, and once it is answered the client counts as gone (as in uvicorn)."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)
        self._is_answered = asyncio.Event()

    async def receive(self) -> Message:
        if not self._chunks:
            await self._is_answered.wait()
            return {"type": "http.disconnect"}
        chunk = self._chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}

    async def send(self, message: Message) -> None:
        if not message.get("more_body", False) and message["type"] == "http.response.body":
            self._is_answered.set()


class Engine:
    """Reads the body, answers, and still has something to do then."""

    def __init__(self, handles: Handles) -> None:
        self.bodies: list[bytes] = []
        self.files: list[str] = []
        self.done = 0
        self._handles = handles

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        token = body.partition(b"mediagate-media:")[2][:32].decode()
        if (file := self._handles.find(token)) is not None:
            self.files.append(file.id)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        for _ in range(10):
            await asyncio.sleep(0)
        self.done += 1


class Around:
    """A gateway around an engine."""

    def __init__(self, store: stores.Store, executor: Executor, judge: Judge) -> None:
        handles = Handles()
        self.engine = Engine(handles)
        self._gateway = Gateway(
            upstream=self.engine,
            resolver=Resolver(
                holder=store.claims,
                deliver=lambda *_: HandleDelivery(handles=handles),
                executor=executor,
            ),
            open_blob=lambda file: store.blobs.read(file.blob),
            max_json_bytes=None if judge is Judge.ENGINE else 1024,
            patience=ENDLESS if judge is Judge.ENGINE else Patience(),
            salts=CacheSalts(key=StoreKey(bytes(32)), is_wanted=always),
            judge=judge,
        )

    async def ask(
        self,
        *chunks: bytes,
        headers: Headers | None = None,
        principal: Principal | None = None,
        path: bytes = b"/v1/chat/completions",
    ) -> None:
        server = Server(*chunks)
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "raw_path": path,
            "headers": headers or [],
            "principal": principal or Principal(),
        }
        await self._gateway(scope, server.receive, server.send)


async def always() -> bool:
    return True


@contextlib.asynccontextmanager
async def around(
    tmp_path: Path, judge: Judge = Judge.ENGINE
) -> AsyncIterator[tuple[stores.Store, Around]]:
    executor = Executor("test", threads=1)
    async with stores.opened(tmp_path, Clock()) as store:
        yield store, Around(store, executor, judge)
    executor.close()


def asking(url: str, **more: object) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}, **more}
    return json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()


TOO_LONG = b'{"messages":[{"content":"' + b"x" * 2_000_000 + b'"}]}'


@pytest.mark.parametrize(
    ("headers", "chunks", "error"),
    [
        ([], (TOO_LONG[:9], TOO_LONG[9:]), BodyTooLarge),
        ([(b"content-encoding", b"gzip")], (b"\x1f\x8b",), MalformedBody),
        ([(b"content-encoding", b"gzip")], (b"{}",), MalformedBody),
        ([(b"content-type", b"application/json; charset=utf-16")], (b"{}",), MalformedBody),
        ([], ('{"a":"b"}'.encode("utf-16"),), MalformedBody),
        ([], (b'{"a":1,', b'"a":2}'), MalformedBody),
        ([], (asking("file:///clip.mp4"),), SourceNotAllowed),
        ([], (asking("x.mp4"),), SourceNotAllowed),
    ],
)
async def test_what_names_none_of_our_files_reaches_an_engine_that_guards_itself(
    tmp_path: Path, headers: Headers, chunks: Sequence[bytes], error: type[MediagateError]
) -> None:
    """H79: byte for byte, as if we were not there; in front of other engines it is refused."""
    async with around(tmp_path) as (_, inside):
        await inside.ask(*chunks, headers=headers)
        assert inside.engine.bodies == [b"".join(chunks)]
    (tmp_path / "front").mkdir()
    async with around(tmp_path / "front", Judge.WALL) as (_, front):
        with pytest.raises(error):
            await front.ask(*chunks, headers=headers)
        assert front.engine.bodies == []


async def test_engine_gets_a_handle_and_finishes_what_it_does_behind_its_answer(
    tmp_path: Path,
) -> None:
    """H74: the end of an answer looks like a client that leaves, and is none."""
    async with around(tmp_path) as (store, inside):
        file = await store.receive()
        await inside.ask(asking(f"vllm-file://{file.id}"))

    assert inside.engine.files == [file.id]
    assert inside.engine.done == 1


@pytest.mark.parametrize(
    ("body", "path", "error"),
    [
        (asking("file-x"), b"/v1/chat/completions", InvalidReference),
        (asking("vllm-file://file-" + "0" * 32), b"/v1/chat/completions", FileNotFound),
        (asking("mediagate-media:" + "0" * 32), b"/tokenize", SourceNotAllowed),
        (b'{"file_id":"x","a":1,"a":2}', b"/v1/chat/completions", MalformedBody),
        (b"{}", b"//v1/files", RouteNotFound),
    ],
)
async def test_what_is_ours_and_wrong_never_reaches_an_engine_that_guards_itself(
    tmp_path: Path, body: bytes, path: bytes, error: type[MediagateError]
) -> None:
    """H77."""
    async with around(tmp_path) as (_, inside):
        with pytest.raises(error):
            await inside.ask(body, path=path)
        assert inside.engine.bodies == []


async def test_tenant_counts_where_a_file_is_named_and_text_needs_none(tmp_path: Path) -> None:
    """H65, H68."""
    nobody = Principal(InvalidScope("Say for whom.", param="X-Tenant"))
    text = b'{"messages":[{"role":"user","content":"?"}]}'

    async with around(tmp_path) as (store, inside):
        file = await store.receive()
        await inside.ask(text, principal=nobody)
        with pytest.raises(InvalidScope):
            await inside.ask(asking(file.id), principal=nobody)
        with pytest.raises(FileNotFound):
            await inside.ask(asking(file.id), principal=Principal(Owner("b")))
        await inside.ask(text, principal=Principal(Owner("b")))

    unsalted, salted = inside.engine.bodies
    assert unsalted == text
    assert json.loads(salted).keys() == {"messages", "cache_salt"}


async def test_tenants_do_not_meet_in_what_an_engine_keeps(tmp_path: Path) -> None:
    """The same name means one thing to one tenant, on whatever endpoint, and other things to others."""
    kept = b'{"messages":[{"role":"user","content":[{"image_url":null,"uuid":"u"}]}]}'
    told: list[str] = []

    async with around(tmp_path) as (_, inside):
        for owner in ("a", "a", "b"):
            for path in (b"/v1/chat/completions", b"/tokenize"):
                await inside.ask(kept, principal=Principal(Owner(owner)), path=path)
                part = json.loads(inside.engine.bodies[-1])["messages"][0]["content"][0]
                assert part.pop("image_url") is None
                told.append(part.pop("uuid"))
        await inside.ask(kept)

    assert len(set(told[:4])) == len(set(told[4:])) == 1
    assert told[0] != told[4]
    assert "u" not in told
    assert inside.engine.bodies[-1] == kept
