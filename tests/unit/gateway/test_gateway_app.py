"""The gateway as an ASGI app, where a server of another kind, or a rude upstream, makes a difference."""

import asyncio
import json
from pathlib import Path

import pytest

import stores
from mediagate.core.scopes import Principal
from mediagate.executor import Executor
from mediagate.gateway.app import Gateway
from mediagate.operations.deliver import Delivery, InlineDelivery, Leased
from mediagate.operations.resolve import Resolver
from mediagate.web.asgi import Message, Receive, Scope, Send
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
