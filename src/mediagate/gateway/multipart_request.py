"""A question and its files in one request: multipart/form-data on the endpoints for chat (vLLM issue #38531).

    parts, in any order ─▶ files into the store, one by one ─▶ their ids into the JSON of `payload` ─▶ the gateway

Behind this layer the request is plain JSON that names stored files, and nothing else knows that it came as a form.

The files stay exactly if their ids reach the client: they are in a header of the answer. Whatever ends the request
before an answer of the engine begins (a refusal of ours, an engine that cannot be reached, a client that leaves),
deletes them again.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from mediagate.core.errors import (
    BodyTooLarge,
    FileNotFound,
    FileTooLarge,
    InsufficientStorage,
    InvalidValue,
    MalformedBody,
    MediagateError,
)
from mediagate.core.expiry import MIN_EXPIRES_AFTER_S, Lifetime
from mediagate.core.files import FileId, Purpose
from mediagate.core.scopes import Scope as Owner
from mediagate.dialects.attachments import Attachment, Conversation, Payload
from mediagate.dialects.fields import Dialect, Judge
from mediagate.executor import Executor, complete
from mediagate.gateway.media_endpoints import (
    body_too_large,
    check_encoding,
    form_conversation,
    media_dialect,
)
from mediagate.operations.files import Files
from mediagate.operations.receive import Receiver
from mediagate.operations.resolve import PARSED_IN_PLACE_BYTES, HeldFiles, Holder
from mediagate.web.asgi import ASGIApp, Headers, Message, Receive, Scope, Send
from mediagate.web.body import Body, Patience
from mediagate.web.multipart import (
    FORM_OVERHEAD_BYTES,
    Event,
    FileBegin,
    FileChunk,
    FormParser,
    Text,
    form_boundary,
    is_form,
)

FILE_IDS = b"x-mediagate-file-ids"
"""Header of the answer: the ids of the files of the request, in the order of its parts."""

PAYLOAD = "payload"
MAX_FILES = 100
LIFETIME_S = MIN_EXPIRES_AFTER_S

logger = logging.getLogger(__name__)

_NOT_SENT_ON = frozenset({b"content-type", b"content-length", b"transfer-encoding"})
_MAX_NAME_CHARS = 64  # of a client's own words in an error

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Events = AsyncGenerator[Event, None]


class MultipartRequests:
    """An ASGI app around the gateway; what is no form passes through as it is.

    Args:
        app: Answers the request once it is JSON.
        receiver: Takes the files in.
        files: Deletes them again.
        holder: Leases them until the gateway has, so that one does not make room for the next.
        executor: Where a large payload is parsed.
        max_payload_bytes: Of the part `payload`.
        max_lifetime_s: The files live no longer, in seconds; None: as long as they are meant to.
        patience: With clients that send a form.
        judge: Who judges what the payload names and is no file of ours.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        receiver: Receiver,
        files: Files,
        holder: Holder,
        executor: Executor,
        max_payload_bytes: int,
        max_lifetime_s: float | None,
        patience: Patience,
        judge: Judge = Judge.WALL,
    ) -> None:
        self.judge = judge
        self.receiver = receiver
        self.files = files
        self.holder = holder
        self.executor = executor
        self.max_payload_bytes = max_payload_bytes
        lifetime_s = LIFETIME_S if max_lifetime_s is None else min(LIFETIME_S, max_lifetime_s)
        self.lifetime = Lifetime(lifetime_s, is_sliding=False)
        self._app = app
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = scope["headers"]
        reader = _reader(scope, self.judge) if is_form(headers) else None
        if reader is None:
            await self._app(scope, receive, send)
            return
        check_encoding(headers)
        dialect, conversation = reader
        form = _Form(
            self, owner=scope["principal"].scope, dialect=dialect, conversation=conversation
        )
        try:
            body = Body(headers, receive, patience=self._patience)
            source = _Replay(await form.read(body, form_boundary(headers)), receive)
            framed = {**scope, "headers": _framed(headers, source.length)}
            await self._app(framed, source.receive, form.announcing(send))
        finally:
            await complete(form.close())


class _Form:
    """One form and what became of its files."""

    def __init__(
        self,
        requests: MultipartRequests,
        *,
        owner: Owner,
        dialect: Dialect,
        conversation: Conversation,
    ) -> None:
        self._requests = requests
        self._owner = owner
        self._dialect = dialect
        self._conversation = conversation
        self._declared: int | None = None
        self._done_bytes = 0
        self._attachments: list[Attachment] = []
        # Of all that may have been stored, whatever else went wrong; in the order of the parts.
        self._file_ids: list[FileId] = []
        self._holds: list[HeldFiles] = []
        self._is_answered = False

    async def read(self, body: Body, boundary: bytes) -> bytes:
        """Receive all of it; the JSON, in which the files are named by their ids."""
        self._declared = body.declared_bytes
        self._check_declared()
        receiver = self._requests.receiver
        payload: Payload | None = None
        receiver.take_slot(self._owner)
        try:
            async with aclosing(self._events(body, boundary)) as events:
                async for event in events:
                    match event:
                        case Text(name):
                            raise _unexpected_text(name)
                        case FileBegin(name) if name != PAYLOAD:
                            await self._receive_file(event, events)
                        case FileBegin():
                            if payload is not None:
                                raise InvalidValue("'payload' is given twice.", param=PAYLOAD)
                            payload = await self._read_payload(events)
        finally:
            receiver.release_slot(self._owner)
        if payload is None:
            message = (
                "There is no 'payload' in the form, the JSON of the request: with curl, write "
                "-F 'payload=<request.json'."
            )
            raise InvalidValue(message, param=PAYLOAD)
        return await self._run(payload.size_bytes, payload.with_ids, self._attachments)

    def _check_declared(self) -> None:
        """Refuse at once what is certain to be too much."""
        if self._declared is None:
            return
        limits = self._requests.receiver.limits
        at_least = self._declared - self._requests.max_payload_bytes - FORM_OVERHEAD_BYTES
        if at_least > MAX_FILES * limits.max_file_bytes:
            raise FileTooLarge("The form is larger than all files that it may hold.")
        if not limits.quota.can_ever_hold(max(at_least, 0)):
            message = "The form exceeds the space that this server keeps for your files together."
            raise InsufficientStorage(message)

    async def _events(self, body: Body, boundary: bytes) -> _Events:
        parser = FormParser(boundary, as_file=PAYLOAD)
        overhead = 0
        async for chunk in body.chunks():
            events = parser.feed(chunk)
            overhead += len(chunk) - sum(
                len(event.data) for event in events if isinstance(event, FileChunk)
            )
            if overhead > FORM_OVERHEAD_BYTES:
                raise BodyTooLarge("The form has too much in it beside 'payload' and files.")
            for event in events:
                yield event
            self._done_bytes += len(chunk)
        parser.finish()

    async def _receive_file(self, begin: FileBegin, events: _Events) -> None:
        requests = self._requests
        if len(self._file_ids) == MAX_FILES:
            raise InvalidValue(f"One request takes at most {MAX_FILES} files.")
        at_most = None if self._declared is None else self._declared - self._done_bytes
        try:
            async with requests.receiver.receive(
                scope=self._owner, at_most=at_most, has_slot=True
            ) as receive:
                while (data := await _next_bytes(events)) is not None:
                    await receive.write(data)
                self._file_ids.append(receive.file_id)
                file = await receive.finish(
                    filename=begin.filename, purpose=Purpose.USER_DATA, lifetime=requests.lifetime
                )
        except MediagateError as error:
            if error.param == "file":  # as the one of an upload is called
                error.param = begin.name[:_MAX_NAME_CHARS]
            raise
        self._holds.append(await requests.holder.hold((file.id,), scope=self._owner))
        names = frozenset({begin.name, begin.filename} - {""})
        self._attachments.append(Attachment(file.id, file.kind, names))

    async def _read_payload(self, events: _Events) -> Payload:
        """Judge the JSON as soon as it is there, which may be before the files."""
        max_bytes = self._requests.max_payload_bytes
        raw = bytearray()
        while (data := await _next_bytes(events)) is not None:
            if len(raw) + len(data) > max_bytes:
                raise body_too_large(max_bytes)
            raw += data
        try:
            return await self._run(len(raw), self._payload, bytes(raw))
        except MalformedBody as error:
            error.param = PAYLOAD
            raise

    def _payload(self, raw: bytes) -> Payload:
        return Payload(
            raw,
            dialect=self._dialect,
            conversation=self._conversation,
            judge=self._requests.judge,
        )

    async def _run(
        self, size_bytes: int, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Call what takes as long as the JSON is: off the event loop, if that is long."""
        if size_bytes > PARSED_IN_PLACE_BYTES:
            return await self._requests.executor.run(function, *args, **kwargs)
        return function(*args, **kwargs)

    def announcing(self, send: Send) -> Send:
        """Tell the client the ids in the head of the answer; from then on the files are its own."""

        async def announce(message: Message) -> None:
            if message["type"] != "http.response.start" or not self._file_ids:
                await send(message)
                return
            headers = [line for line in message["headers"] if line[0] != FILE_IDS]
            await send(
                {**message, "headers": [*headers, (FILE_IDS, ",".join(self._file_ids).encode())]}
            )
            self._is_answered = True

        return announce

    async def close(self) -> None:
        """The request has ended: files whose ids the client does not have are deleted."""
        for hold in self._holds:
            await hold.release()
        for file_id in () if self._is_answered else self._file_ids:
            try:
                await self._requests.files.delete(file_id, scope=self._owner)
            except FileNotFound:
                pass  # it never was, or somebody was faster
            except Exception:
                # The answer that is on its way matters more, and the file expires by itself.
                logger.exception("a file of a refused form was not deleted")


class _Replay:
    """The JSON as ASGI messages; behind its end, the client's own (that it left)."""

    def __init__(self, raw: bytes, receive: Receive) -> None:
        self.length = len(raw)
        self._raw: bytes | None = raw
        self._receive = receive

    async def receive(self) -> Message:
        if self._raw is None:
            return await self._receive()
        raw, self._raw = self._raw, None
        return {"type": "http.request", "body": raw, "more_body": False}


async def _next_bytes(events: _Events) -> memoryview | None:
    """Of the file that began; None: that was all."""
    event = await anext(events)
    return event.data if isinstance(event, FileChunk) else None


def _reader(scope: Scope, judge: Judge) -> tuple[Dialect, Conversation] | None:
    """How to read the JSON of a form; None: no form is taken here."""
    if scope["method"] != "POST":
        return None
    dialect = media_dialect("POST", scope["raw_path"])
    conversation = form_conversation(scope["raw_path"], judge=judge)
    return None if dialect is None or conversation is None else (dialect, conversation)


def _framed(headers: Headers, length: int) -> Headers:
    """The headers of the JSON instead of the form's; all others, and their order, stay."""
    kept = [(name, value) for name, value in headers if name.lower() not in _NOT_SENT_ON]
    return [
        *kept,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % length),
    ]


def _unexpected_text(name: str) -> InvalidValue:
    shown = name[:_MAX_NAME_CHARS]
    message = (
        f"'{shown}' is text, and the only text here is 'payload', the whole JSON of the request. "
        f"A file is sent with curl as -F {shown}=@clip.mp4."
    )
    return InvalidValue(message, param=shown)
