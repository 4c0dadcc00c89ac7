"""Forms with a question and its files, as an ASGI app sees them: what is kept, and what is left behind."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import corpus
import stores
from mediagate.core.errors import (
    BodyTooLarge,
    EmptyFile,
    FileTooLarge,
    InsufficientStorage,
    InvalidReference,
    InvalidScope,
    InvalidValue,
    MalformedBody,
    MediagateError,
    NoSlot,
    SourceNotAllowed,
    UnsupportedMedia,
    UpstreamUnreachable,
)
from mediagate.core.events import FileEvicted
from mediagate.core.scopes import DEFAULT_SCOPE, Principal
from mediagate.dialects.fields import Judge
from mediagate.executor import Executor
from mediagate.gateway.multipart_request import MAX_FILES, MultipartRequests
from mediagate.web.asgi import ASGIApp, ClientGone, Headers, Message, Receive, Scope, Send
from mediagate.web.body import Patience
from mediagate.web.multipart import FORM_OVERHEAD_BYTES
from stores import PNG, Clock, Store

CHAT = b"/v1/chat/completions"
TYPE = (b"content-type", b"multipart/form-data; boundary=XX")
END = b"--XX--\r\n"
GIF = corpus.gif_pixel()
QUESTION = {"messages": [{"role": "user", "content": "What?"}]}


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--XX\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (disposition.encode(), data)


def payload(body: object = QUESTION) -> bytes:
    return part("payload", json.dumps(body).encode())


NAMED = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]
}


def naming(url: str) -> bytes:
    return payload(json.loads(json.dumps(NAMED).replace('""', json.dumps(url))))


FILE = part("file", PNG, "a.png")


class Client:
    """A request that comes chunk by chunk, and the answer to it; one that `leaves` or `waits` is never complete.

    Attributes:
        taken: Chunks that were received.
    """

    def __init__(self, *chunks: bytes, leaves: bool = False, waits: bool = False) -> None:
        self._chunks = chunks
        self._leaves = leaves
        self._waits = waits
        self.taken = 0
        self.status = 0
        self.headers: Headers = []
        self.answer = b""

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if self.taken == len(self._chunks):
            if not self._leaves:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        chunk = self._chunks[self.taken]
        self.taken += 1
        more = self._leaves or self._waits or self.taken < len(self._chunks)
        return {"type": "http.request", "body": chunk, "more_body": more}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.answer += message["body"]

    @property
    def file_ids(self) -> list[str]:
        (value,) = (value for name, value in self.headers if name == b"x-mediagate-file-ids")
        return value.decode().split(",")


class Behind:
    """What stands behind: it remembers the request, and answers or ends as told."""

    def __init__(
        self, *, status: int = 200, headers: Headers | None = None, ends: Exception | None = None
    ):
        self.scopes: list[Scope] = []
        self.bodies: list[Any] = []
        self._status = status
        self._headers = headers or []
        self._ends = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        if self._status:
            await send(
                {"type": "http.response.start", "status": self._status, "headers": self._headers}
            )
        if self._ends is not None:
            raise self._ends
        await send({"type": "http.response.body", "body": b"an answer"})


def layer(
    store: Store,
    app: ASGIApp,
    executor: Executor,
    *,
    max_lifetime_s: float | None = None,
    judge: Judge = Judge.WALL,
) -> MultipartRequests:
    return MultipartRequests(
        app,
        receiver=store.receiver,
        files=store.files,
        holder=store.claims,
        executor=executor,
        max_payload_bytes=400_000,
        max_lifetime_s=max_lifetime_s,
        patience=Patience(),
        judge=judge,
    )


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor("test", threads=1)
    yield executor
    executor.close()


Ask = Callable[..., Any]


@contextlib.asynccontextmanager
async def asking(
    tmp_path: Path, executor: Executor, app: ASGIApp, **limits: Any
) -> AsyncIterator[tuple[Store, Ask]]:
    """A store, and what sends a request into the layer in front of `app`."""

    async def ask(
        client: Client,
        *headers: tuple[bytes, bytes],
        method: str = "POST",
        raw_path: bytes = CHAT,
        principal: Principal | None = None,
    ) -> None:
        scope = {
            "type": "http",
            "method": method,
            "raw_path": raw_path,
            "headers": [TYPE, *headers],
            "principal": principal or Principal(),
        }
        await layer(store, app, executor, **own)(scope, client.receive, client.send)

    own = {
        "max_lifetime_s": limits.pop("max_lifetime_s", None),
        "judge": limits.pop("judge", Judge.WALL),
    }
    async with stores.opened(tmp_path, Clock(), **limits) as store:
        yield store, ask


async def refusal(
    tmp_path: Path, executor: Executor, *chunks: bytes, **limits: Any
) -> tuple[MediagateError, int]:
    """What a form is refused with, and after how many chunks; nothing may reach the app, or stay."""
    client = Client(*chunks)
    behind = Behind()
    async with asking(tmp_path, executor, behind, **limits) as (store, ask):
        with pytest.raises(MediagateError) as raised:
            await ask(client)
        assert await store.is_clean()
        assert behind.bodies == []
        store.receiver.take_slot(DEFAULT_SCOPE)
    return raised.value, client.taken


# what comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("chunk_bytes", [7, 10_000])
async def test_form_becomes_json_that_names_stored_files(
    tmp_path: Path, executor: Executor, order: Sequence[int], chunk_bytes: int
) -> None:
    parts = (payload(), part("file", PNG, "a.png"), part("other", GIF, "b.gif"))
    form = b"".join(parts[i] for i in order) + END
    client = Client(*(form[at : at + chunk_bytes] for at in range(0, len(form), chunk_bytes)))
    behind = Behind()

    async with asking(tmp_path, executor, behind) as (store, ask):
        await ask(client, (b"content-length", b"%d" % len(form)), (b"x-other", b"1"))
        files = [await store.files.get(each, scope=DEFAULT_SCOPE) for each in client.file_ids]
        usage = await store.index.usage()

    assert [(file.filename, file.mime_type, file.purpose) for file in files] == [
        ("a.png", "image/png", "user_data"),
        ("b.gif", "image/gif", "user_data"),
    ]
    assert (usage.used_bytes, usage.files) == (len(PNG) + len(GIF), 2)
    assert (client.status, client.answer) == (200, b"an answer")
    (body,) = behind.bodies
    (message,) = json.loads(body)["messages"]
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        *({"type": "file", "file": {"file_id": file.id}} for file in files),
    ]
    assert behind.scopes[0]["headers"] == [
        (b"x-other", b"1"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]


async def test_payload_may_come_as_a_file_and_be_long(tmp_path: Path, executor: Executor) -> None:
    """`curl -F payload=@request.json` sends a filename; a text field ends at 1 MiB, this is a JSON body."""
    question = {"messages": [{"role": "user", "content": "x" * 300_000}]}
    sent = part("payload", json.dumps(question).encode(), "request.json")
    behind = Behind()

    async with asking(tmp_path, executor, behind) as (_, ask):
        await ask(Client(part("file", PNG, "a.png") + sent + END))

    text = json.loads(behind.bodies[0])["messages"][0]["content"][0]["text"]
    assert len(text) == 300_000


async def test_form_without_files_is_just_its_payload(tmp_path: Path, executor: Executor) -> None:
    behind, client = Behind(), Client(payload() + END)

    async with asking(tmp_path, executor, behind) as (_, ask):
        await ask(client)

    assert json.loads(behind.bodies[0]) == QUESTION
    assert (client.status, client.headers) == (200, [])


@pytest.mark.parametrize(
    "request_line",
    [
        ("PUT", CHAT),
        ("GET", CHAT),
        ("POST", CHAT + b"/render"),
        ("POST", b"/v1/files"),
        ("POST", b"/v1/audio/transcriptions"),
    ],
)
async def test_no_other_request_is_touched(
    tmp_path: Path, executor: Executor, request_line: tuple[str, bytes]
) -> None:
    passed: list[tuple[Scope, Receive, Send]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))

    client = Client(payload() + part("file", PNG, "a.png") + END)
    async with asking(tmp_path, executor, app) as (store, ask):
        await ask(client, method=request_line[0], raw_path=request_line[1])
        assert await store.is_clean()

    ((scope, receive, send),) = passed
    assert scope["headers"] == [TYPE]
    assert (receive, send) == (client.receive, client.send)


@pytest.mark.parametrize(("max_lifetime_s", "lives_s"), [(None, 3600), (7200, 3600), (600, 600)])
async def test_file_lives_an_hour_whatever_the_use(
    tmp_path: Path, executor: Executor, max_lifetime_s: float | None, lives_s: float
) -> None:
    client = Client(payload() + part("file", PNG, "a.png") + END)

    async with asking(tmp_path, executor, Behind(), max_lifetime_s=max_lifetime_s) as (store, ask):
        await ask(client)
        file = await store.files.get(client.file_ids[0], scope=DEFAULT_SCOPE)

    assert file.expires_at == file.created_at + lives_s
    assert file.ttl_s is None


async def test_header_of_that_name_that_an_upstream_sends_is_not_passed_on(
    tmp_path: Path, executor: Executor
) -> None:
    client = Client(payload() + part("file", PNG, "a.png") + END)
    behind = Behind(headers=[(b"x-mediagate-file-ids", b"file-x"), (b"x-other", b"1")])

    async with asking(tmp_path, executor, behind) as (_, ask):
        await ask(client)

    assert [name for name, _ in client.headers] == [b"x-other", b"x-mediagate-file-ids"]
    assert client.file_ids != ["file-x"]


# files stay if their ids reach the client ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_answer_of_the_engine_whatever_it_is_carries_the_ids_and_files_stay(
    tmp_path: Path, executor: Executor, status: int
) -> None:
    client = Client(payload() + part("file", PNG, "a.png") + END)

    async with asking(tmp_path, executor, Behind(status=status)) as (store, ask):
        await ask(client)

        assert (client.status, len(client.file_ids)) == (status, 1)
        assert (await store.index.usage()).files == 1


async def test_answer_that_breaks_off_has_told_the_ids_and_files_stay(
    tmp_path: Path, executor: Executor
) -> None:
    client = Client(payload() + part("file", PNG, "a.png") + END)

    async with asking(tmp_path, executor, Behind(ends=ClientGone())) as (store, ask):
        with pytest.raises(ClientGone):
            await ask(client)

        assert (await store.index.usage()).files == 1


@pytest.mark.parametrize("ends", [UpstreamUnreachable("no"), InvalidValue("no"), ClientGone()])
async def test_without_an_answer_of_the_engine_nothing_stays(
    tmp_path: Path, executor: Executor, ends: Exception
) -> None:
    client = Client(payload() + part("file", PNG, "a.png") + part("file", GIF, "b.gif") + END)

    async with asking(tmp_path, executor, Behind(status=0, ends=ends)) as (store, ask):
        with pytest.raises(type(ends)):
            await ask(client)

        assert await store.is_clean()


async def test_client_that_is_gone_when_the_answer_begins_never_had_the_ids(
    tmp_path: Path, executor: Executor
) -> None:
    class Gone(Client):
        async def send(self, message: Message) -> None:
            raise ClientGone

    async with asking(tmp_path, executor, Behind()) as (store, ask):
        with pytest.raises(ClientGone):
            await ask(Gone(payload() + FILE + END))

        assert await store.is_clean()


@pytest.mark.parametrize("cut", ["in the first file", "in the second file", "behind all files"])
async def test_client_that_leaves_leaves_nothing(
    tmp_path: Path, executor: Executor, cut: str
) -> None:
    first, second = part("a", PNG + bytes(9000), "a.png"), part("b", GIF + bytes(9000), "b.gif")
    whole = first + second + payload()
    at = {"in the first file": 6000, "in the second file": len(first) + 6000}.get(cut, len(whole))
    behind = Behind()

    async with asking(tmp_path, executor, behind) as (store, ask):
        with pytest.raises(ClientGone):
            await ask(Client(whole[:at], leaves=True))

        assert await store.is_clean()
        assert behind.bodies == []


async def test_request_that_is_cancelled_leaves_nothing(tmp_path: Path, executor: Executor) -> None:
    client = Client(FILE, part("b", GIF + bytes(9000), "b.gif")[:-4], waits=True)

    async with asking(tmp_path, executor, Behind()) as (store, ask):
        task = asyncio.ensure_future(ask(client))
        while len(store.on_disk()) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await store.is_clean()


async def test_file_that_was_deleted_meanwhile_is_no_failure(
    tmp_path: Path, executor: Executor
) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        page = await store.files.list(scope=DEFAULT_SCOPE, limit=10)
        await store.files.delete(page.files[0].id, scope=DEFAULT_SCOPE)
        raise UpstreamUnreachable("no")

    client = Client(payload() + part("file", PNG, "a.png") + part("file", GIF, "b.gif") + END)
    async with asking(tmp_path, executor, app) as (store, ask):
        with pytest.raises(UpstreamUnreachable):
            await ask(client)

        assert await store.is_clean()


async def test_failure_to_delete_hides_no_answer(
    tmp_path: Path, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite3")) as connection:
            connection.execute("ALTER TABLE files RENAME TO elsewhere")
        raise UpstreamUnreachable("no")

    client = Client(payload() + part("file", PNG, "a.png") + END)
    async with asking(tmp_path, executor, app) as (_, ask):
        with caplog.at_level(logging.ERROR), pytest.raises(UpstreamUnreachable):
            await ask(client)

    assert "a file of a refused form was not deleted" in caplog.messages


# what is refused, and how early ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "error", "param"),
    [
        (FILE, InvalidValue, "payload"),
        (FILE + payload() + payload(), InvalidValue, "payload"),
        (FILE + part("payload", b""), MalformedBody, "payload"),
        (FILE + part("payload", b"\xff"), MalformedBody, "payload"),
        (FILE + part("payload", b"[1]"), MalformedBody, "payload"),
        (FILE + part("payload", b'{"a":1,"a":2}'), MalformedBody, "payload"),
        (FILE + payload({}), InvalidValue, "messages"),
        (FILE + naming("attachment://b.png"), InvalidReference, None),
        (FILE + FILE + naming("attachment://a.png"), InvalidReference, None),
        (FILE + naming("/etc/passwd"), SourceNotAllowed, None),
        (FILE + part("model", b"m") + payload(), InvalidValue, "model"),
        (FILE + part("picture", b"/local/a.png") + payload(), InvalidValue, "picture"),
        (FILE + part("sound", b"", "a.wav") + payload(), EmptyFile, "sound"),
        (FILE + part("page", b"<html>", "a.png") + payload(), UnsupportedMedia, "page"),
        (FILE + part("x" * 99, b"<html>", "a.png") + payload(), UnsupportedMedia, "x" * 64),
    ],
)
async def test_what_cannot_be_asked_is_refused_and_leaves_nothing(
    tmp_path: Path,
    executor: Executor,
    sent: bytes,
    error: type[MediagateError],
    param: str | None,
) -> None:
    found, _ = await refusal(tmp_path, executor, sent + END)

    assert type(found) is error
    assert found.param == (param or "messages[0].content[0].image_url.url")


async def test_form_that_is_cut_off_leaves_nothing(tmp_path: Path, executor: Executor) -> None:
    found, _ = await refusal(tmp_path, executor, payload() + FILE)

    assert type(found) is MalformedBody


@pytest.mark.parametrize("sent", [part("payload", b"{"), naming("file:///etc/passwd")])
async def test_bad_payload_is_refused_before_the_files_are_taken(
    tmp_path: Path, executor: Executor, sent: bytes
) -> None:
    """Clients put what they type first first: then no byte of the media is read."""
    chunks = (sent, part("file", PNG + bytes(1000), "a.png"), END)

    _, taken = await refusal(tmp_path, executor, *chunks)

    assert taken <= 2


async def test_payload_has_the_limit_of_json(tmp_path: Path, executor: Executor) -> None:
    found, taken = await refusal(tmp_path, executor, part("payload", bytes(400_001)), END)

    assert (type(found), taken) == (BodyTooLarge, 1)


async def test_file_has_the_limit_of_files(tmp_path: Path, executor: Executor) -> None:
    chunks = (FILE, part("clip", PNG + bytes(9000), "b.png"), payload(), END)

    found, taken = await refusal(tmp_path, executor, *chunks, max_file_bytes=9000)

    assert (type(found), found.param, taken) == (FileTooLarge, "clip", 2)


async def test_form_has_a_hundred_files_at_most(tmp_path: Path, executor: Executor) -> None:
    found, _ = await refusal(tmp_path, executor, FILE * (MAX_FILES + 1) + payload() + END)

    assert type(found) is InvalidValue


@pytest.mark.parametrize("before", [True, False])
async def test_what_is_neither_file_nor_payload_has_a_limit(
    tmp_path: Path, executor: Executor, before: bool
) -> None:
    junk = [b"\r\n" * 50_000] * 12
    form = [FILE + payload() + END]

    found, _ = await refusal(tmp_path, executor, *([*junk, *form] if before else [*form, *junk]))

    assert type(found) in ({BodyTooLarge, MalformedBody} if before else {BodyTooLarge})


@pytest.mark.parametrize("raw_path", [b"/x" + CHAT, b"/" + CHAT, b"/chat/completions", CHAT + b"/"])
async def test_engine_that_guards_itself_gets_forms_at_paths_it_does_not_know(
    tmp_path: Path, executor: Executor, raw_path: bytes
) -> None:
    """It asks for no key there, so nothing may be stored."""
    passed: list[Receive] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        passed.append(receive)

    client = Client(payload() + FILE + END)
    async with asking(tmp_path, executor, app, judge=Judge.ENGINE) as (store, ask):
        await ask(client, raw_path=raw_path)
        assert await store.is_clean()

    assert passed == [client.receive]
    assert client.taken == 0


async def test_payload_may_name_what_the_engine_judges(tmp_path: Path, executor: Executor) -> None:
    form = naming("file:///clip.png") + FILE + END
    behind = Behind()

    async with asking(tmp_path, executor, behind, judge=Judge.ENGINE) as (_, ask):
        await ask(Client(form))

    first, second = json.loads(behind.bodies[0])["messages"][0]["content"]
    assert first["image_url"] == {"url": "file:///clip.png"}
    assert second["type"] == "file"


async def test_form_of_nobody_is_refused_before_it_is_read(
    tmp_path: Path, executor: Executor
) -> None:
    """H65: its files would be nobody's."""
    nobody = Principal(InvalidScope("Say for whom.", param="X-Tenant"))
    client = Client(payload() + FILE + END)

    async with asking(tmp_path, executor, Behind(), judge=Judge.ENGINE) as (store, ask):
        with pytest.raises(InvalidScope):
            await ask(client, principal=nobody)
        assert await store.is_clean()

    assert client.taken == 0


@pytest.mark.parametrize(
    ("limits", "at_least", "error"),
    [
        ({"max_file_bytes": 1000}, 1000 * MAX_FILES + 1, FileTooLarge),
        ({"store_bytes": 5000}, 5001, InsufficientStorage),
    ],
)
async def test_what_is_certain_to_be_too_much_is_refused_before_it_is_read(
    tmp_path: Path,
    executor: Executor,
    limits: dict[str, int],
    at_least: int,
    error: type[MediagateError],
) -> None:
    around = 400_000 + FORM_OVERHEAD_BYTES
    client = Client(payload() + FILE + END)
    behind = Behind()

    async with asking(tmp_path, executor, behind, **limits) as (_, ask):
        with pytest.raises(error):
            await ask(client, (b"content-length", b"%d" % (at_least + around)))
        assert client.taken == 0
        await ask(client, (b"content-length", b"%d" % (at_least - 1 + around)))

    assert client.status == 200


@pytest.mark.parametrize(
    "header",
    [(b"content-encoding", b"gzip"), (b"content-type", b"multipart/form-data; charset=utf-7")],
)
async def test_form_that_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, executor: Executor, header: tuple[bytes, bytes]
) -> None:
    client = Client(payload() + FILE + END)

    async with asking(tmp_path, executor, Behind()) as (_, ask):
        with pytest.raises(MalformedBody):
            await ask(client, header)

    assert client.taken == 0


async def test_file_does_not_make_room_for_the_next_of_its_own_request(
    tmp_path: Path, executor: Executor
) -> None:
    """Each would fit alone: the second evicts what others left there, but not the first."""
    one, two = (part(name, PNG + bytes(6000), "a.png") for name in "ab")

    async with asking(tmp_path, executor, Behind(), store_bytes=10_000) as (store, ask):
        old = await store.receive(PNG + bytes(3000))
        client = Client(one, two, payload(), END)
        with pytest.raises(InsufficientStorage):
            await ask(client)

        assert await store.is_clean()
        assert client.taken == 2
        evicted = [event.file_id for event in store.events if isinstance(event, FileEvicted)]
        assert evicted == [old.id]


# slots ---------------------------------------------------------------------------------------------------


async def test_form_takes_one_slot_however_many_files_and_gives_it_back_for_the_answer(
    tmp_path: Path, executor: Executor
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await store.receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    client = Client(FILE, FILE, FILE, payload() + END)
    async with asking(tmp_path, executor, app, max_concurrent=1) as (store, ask):
        await ask(client)

        assert len(client.file_ids) == 3
        assert (await store.index.usage()).files == 4


async def test_without_a_slot_a_form_is_refused_before_it_is_read(
    tmp_path: Path, executor: Executor
) -> None:
    client = Client(FILE + payload() + END)

    async with asking(tmp_path, executor, Behind(), max_concurrent=1) as (store, ask):
        store.receiver.take_slot(DEFAULT_SCOPE)
        with pytest.raises(NoSlot):
            await ask(client)

    assert client.taken == 0


async def test_file_is_on_disk_while_it_comes_and_not_in_memory(
    tmp_path: Path, executor: Executor
) -> None:
    """Each chunk is written before the next is taken."""
    sizes: list[int] = []

    class Watching(Client):
        async def receive(self) -> Message:
            written = (tmp_path / "blobs").glob("*/*")
            sizes.append(sum(path.stat().st_size for path in written))
            return await super().receive()

    head, tail = part("file", PNG, "a.png")[:-2], b"\r\n" + payload() + END
    client = Watching(head, *[bytes(1024**2)] * 8, tail)
    async with asking(tmp_path, executor, Behind()) as (_, ask):
        await ask(client)

    lags = [n * 1024**2 - size for n, size in enumerate(sizes[2:-1])]
    assert max(lags) < 2.5 * 1024**2
