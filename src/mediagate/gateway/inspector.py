"""The built-in engine: an OpenAI-compatible server without a model, which answers with what it measured.

    GET  /v1/models, /v1/models/{id}
    POST /v1/chat/completions            streamed or not

It stands where an upstream stands, behind the step that resolves references: a media field holds a handle of ours
(`mediagate-media:<token>`), inline data, or an address, which is refused, for the inspector fetches nothing. All files
are measured before the answer begins, so a broken one is a 400 and never a stream that stops.

Usage is counted in words of the answer: there is no tokenizer, and no word of the prompt is read.
"""

import binascii
import errno
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from blake3 import blake3

from mediagate.blobs.driver import DiskFullError
from mediagate.core.errors import (
    BodyTooLarge,
    EmptyFile,
    InvalidReference,
    InvalidRequest,
    InvalidValue,
    MediaKindMismatch,
    MethodNotAllowed,
    NotFound,
    NotSupported,
    RouteNotFound,
    SourceNotAllowed,
    UnsupportedMedia,
)
from mediagate.core.files import MediaKind
from mediagate.core.references import looks_like_reference
from mediagate.dialects.strict_json import parse_object
from mediagate.executor import Executor
from mediagate.gateway.inspector_report import Measured, report
from mediagate.gateway.inspector_request import (
    MODEL,
    ChatRequest,
    MediaField,
    check_model,
    parse_chat,
)
from mediagate.media.probe import Prober
from mediagate.media.sniff import HEAD_BYTES, MEDIA_TYPES, sniff
from mediagate.operations.deliver import HANDLE_SCHEME
from mediagate.operations.resolve import PARSED_IN_PLACE_BYTES
from mediagate.web.asgi import Receive, Scope, Send, unless_gone
from mediagate.web.body import Body, Patience
from mediagate.web.replies import JsonReply

_BASE64_CHARS = 256 * 1024
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class OpenedMedia:
    """Media that stays readable while it is open.

    Attributes:
        file: The bytes; seekable, and with a descriptor.
        filename: As the client named it, sanitised; None: it has no name.
        mime_type: Decided by the bytes.
        size_bytes: Exact length.
        digest: Of exactly those bytes.
    """

    file: BinaryIO | int | Path
    filename: str | None
    mime_type: str
    size_bytes: int
    digest: str


OpenMedia = Callable[[str], AbstractAsyncContextManager[OpenedMedia]]


class Inspector:
    """The ASGI application. It raises `MediagateError`s; a layer around it answers them.

    Args:
        prober: Measures.
        open_media: The media behind the token of a handle.
        executor: Runs what blocks: parsing large bodies, decoding inline data.
        spool_dir: Where inline data lies, nameless, while it is measured.
        clock: Unix seconds.
        token_hex: Source of completion ids.
        max_body_bytes: Of a request.
    """

    def __init__(
        self,
        *,
        prober: Prober,
        open_media: OpenMedia,
        executor: Executor,
        spool_dir: Path,
        clock: Callable[[], float],
        token_hex: Callable[[int], str] = secrets.token_hex,
        max_body_bytes: int = 64 * 1024**2,
    ) -> None:
        self._prober = prober
        self._open_media = open_media
        self._executor = executor
        self._spool_dir = spool_dir
        self._clock = clock
        self._token_hex = token_hex
        self._max_body_bytes = max_body_bytes
        self._model = {
            "id": MODEL,
            "object": "model",
            "created": int(clock()),
            "owned_by": "mediagate",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotSupported("The inspector speaks HTTP only.")
        path = scope["path"]
        if path == "/v1/chat/completions":
            _allow(scope, "POST")
            await self._chat(scope, receive, send)
        elif path == "/v1/models":
            _allow(scope, "GET", "HEAD")
            await JsonReply({"object": "list", "data": [self._model]})(scope, receive, send)
        elif path.startswith("/v1/models/"):
            _allow(scope, "GET", "HEAD")
            check_model(path.removeprefix("/v1/models/"))
            await JsonReply(self._model)(scope, receive, send)
        else:
            raise RouteNotFound(
                "The built-in inspector has GET /v1/models and POST /v1/chat/completions. "
                "Start the gateway with --upstream for more."
            )

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(scope["headers"], receive, patience=Patience())
        too_large = BodyTooLarge(
            "Upload the media with POST /v1/files and name it by its id: this body is too large."
        )
        raw = await body.read(max_bytes=self._max_body_bytes, too_large=too_large)
        if len(raw) > PARSED_IN_PLACE_BYTES:
            request = parse_chat(await self._executor.run(parse_object, raw))
        else:
            request = parse_chat(parse_object(raw))
        del raw
        text = report(await unless_gone(self._measure_all(request), receive))
        completion = _Completion(f"chatcmpl-{self._token_hex(16)}", int(self._clock()), text)
        if not request.is_streamed:
            await JsonReply(completion.whole())(scope, receive, send)
            return
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in completion.events(includes_usage=request.includes_usage):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _measure_all(self, request: ChatRequest) -> list[Measured]:
        known: dict[str, Measured] = {}
        files = []
        for field in request.media:
            try:
                file = await self._measure(field, known)
            except (InvalidRequest, NotFound) as error:
                error.param = error.param or field.param
                raise
            known.setdefault(file.digest, file)
            files.append(file)
        return files

    async def _measure(self, field: MediaField, known: dict[str, Measured]) -> Measured:
        """Measure what `field` names; bytes that are `known` are not measured twice."""
        if field.value.startswith(HANDLE_SCHEME):
            async with self._open_media(field.value.removeprefix(HANDLE_SCHEME)) as media:
                return await self._measured(media, known)
        start = _inline_start(field)
        with tempfile.TemporaryFile(dir=self._spool_dir, buffering=0) as file:
            head, size_bytes, digest = await self._executor.run(_decode, field.value, start, file)
            mime_type = _inline_type(head, size_bytes, field.kind)
            media = OpenedMedia(file.fileno(), None, mime_type, size_bytes, digest)
            return await self._measured(media, known)

    async def _measured(self, media: OpenedMedia, known: dict[str, Measured]) -> Measured:
        twin = known.get(media.digest)
        return Measured(
            filename=media.filename,
            mime_type=media.mime_type,
            size_bytes=media.size_bytes,
            digest=media.digest,
            facts=twin.facts
            if twin
            else await self._prober.probe(media.file, mime_type=media.mime_type),
        )


class _Completion:
    """One answer in OpenAI's two forms."""

    def __init__(self, completion_id: str, created_at: int, text: str) -> None:
        self._id = completion_id
        self._created_at = created_at
        self._text = text
        words = len(text.split())
        self._usage = {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}

    def whole(self) -> dict[str, Any]:
        """The `chat.completion` object."""
        message = {"role": "assistant", "content": self._text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self._envelope("chat.completion", [choice]) | {"usage": self._usage}

    def events(self, *, includes_usage: bool) -> Iterator[bytes]:
        """Server-sent events: the role, the text line by line, the end."""
        usage: dict[str, Any] = {"usage": None} if includes_usage else {}
        yield self._event(self._choice({"role": "assistant", "content": ""}), usage)
        for line in self._text.splitlines(keepends=True):
            yield self._event(self._choice({"content": line}), usage)
        yield self._event(self._choice({}, "stop"), usage)
        if includes_usage:
            yield self._event([], {"usage": self._usage})
        yield b"data: [DONE]\n\n"

    def _choice(
        self, delta: dict[str, Any], finish_reason: str | None = None
    ) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> bytes:
        chunk = self._envelope("chat.completion.chunk", choices) | usage
        return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": name,
            "created": self._created_at,
            "model": MODEL,
            "choices": choices,
        }


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise MethodNotAllowed(f"This path takes {' and '.join(methods)}.", allow=methods)


def _inline_start(field: MediaField) -> int:
    """Where the base64 of inline data begins.

    Raises:
        InvalidReference: The value names a file; behind the gateway none is left.
        SourceNotAllowed: It is an address or a path.
        InvalidValue: It is a `data:` URI that is not base64.
    """
    if looks_like_reference(field.value):
        raise InvalidReference(
            "This file id was not resolved: ask through the gateway.", param=field.param
        )
    if field.value[:5].lower() != "data:":
        if field.is_bare and ":" not in field.value[:16]:
            return 0
        raise SourceNotAllowed(
            "The inspector fetches nothing. Upload the media with POST /v1/files and name it by its id.",
            param=field.param,
        )
    header, comma, _ = field.value[:512].partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidValue("A data: URI must read data:<type>;base64,<data>.", param=field.param)
    return len(header) + 1


def _decode(text: str, start: int, file: IO[bytes]) -> tuple[bytes, int, str]:
    """Write the base64 of `text` into `file`; its head, length and digest.

    Either alphabet, with or without line breaks, as engines take it.

    Raises:
        InvalidValue: It is no base64.
        DiskFullError: There is no room for the file.
    """
    hasher = blake3()
    head = b""
    size_bytes = 0
    rest = b""
    is_padded = False
    try:
        for at in range(start, len(text), _BASE64_CHARS):
            piece = text[at : at + _BASE64_CHARS].encode("ascii")
            rest += piece.translate(_STANDARD_ALPHABET, b" \t\r\n")
            whole = len(rest) // 4 * 4
            group, rest = rest[:whole], rest[whole:]
            if is_padded and group:
                raise ValueError  # noqa: TRY301 - it goes on behind its end
            is_padded = is_padded or group.endswith(b"=")
            chunk = binascii.a2b_base64(group, strict_mode=True)
            hasher.update(chunk)
            file.write(chunk)
            head += chunk[: HEAD_BYTES - len(head)]
            size_bytes += len(chunk)
        if rest:
            raise ValueError  # noqa: TRY301 - it stops within a group
    except ValueError as error:
        raise InvalidValue("The inline data is no base64.") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError from error
        raise
    return head, size_bytes, f"blake3:{hasher.hexdigest()}"


def _inline_type(head: bytes, size_bytes: int, wanted: MediaKind) -> str:
    """The type of inline data, if the content part takes it.

    Raises:
        EmptyFile, UnsupportedMedia, MediaKindMismatch: It does not.
    """
    if not size_bytes:
        raise EmptyFile("The inline data is empty.")
    mime_type = sniff(head, is_whole=size_bytes <= HEAD_BYTES)
    if mime_type not in MEDIA_TYPES:
        raise UnsupportedMedia(
            f"The inline data is {mime_type}, which is no media that is accepted."
        )
    is_image = mime_type.startswith("image/")
    # Sound and moving pictures share containers: they are not told apart.
    if is_image != (wanted is MediaKind.IMAGE):
        raise MediaKindMismatch(
            f"The inline data is {mime_type}, which a part for {wanted.value} does not take."
        )
    return mime_type
