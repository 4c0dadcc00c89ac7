"""The Files API: parse, call one operation, serialise."""

from collections.abc import Sequence
from urllib.parse import quote

from mediagate.core.errors import FileTooLarge, InvalidValue, ListingDisabled, RouteNotFound
from mediagate.core.expiry import Lifetime
from mediagate.core.files import FileObject
from mediagate.operations.files import Files
from mediagate.operations.receive import Receive, Receiver
from mediagate.web import wire
from mediagate.web.asgi import Headers, header_values
from mediagate.web.content import content_reply
from mediagate.web.multipart import (
    FORM_OVERHEAD_BYTES,
    FileBegin,
    FileChunk,
    FileEnd,
    FormParser,
    Text,
    form_boundary,
    is_form,
)
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Request, Route

_RAW_TYPES = (b"application/octet-stream", b"image/", b"audio/", b"video/")
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)


class FilesApi:
    """`/v1/files` and below, for one store.

    Args:
        files: What is there.
        receiver: Takes in what comes.
        max_expires_after_s: A longer `expires_after` is clamped to it, in seconds; None: it is not.
        listing_refused_by: Files are not listed, and this is the status that says so: 403, or the 404 of a server
            without such a route. None: they are.
    """

    def __init__(
        self,
        *,
        files: Files,
        receiver: Receiver,
        max_expires_after_s: float | None,
        listing_refused_by: int | None = None,
    ) -> None:
        self._files = files
        self._receiver = receiver
        self._max_expires_after_s = max_expires_after_s
        self._listing_refused_by = listing_refused_by

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (
            Route("/v1/files", {"GET": self.list, "POST": self.upload, "PUT": self.upload}),
            Route("/v1/files/{}", {"GET": self.retrieve, "DELETE": self.delete}),
            Route("/v1/files/{}/content", {"GET": self.content}),
        )

    async def upload(self, request: Request) -> Reply:
        """Receive one file, as a form or as the raw body."""
        if is_form(request.headers):
            file = await self._receive_form(request, form_boundary(request.headers))
        elif _is_raw(request.headers):
            file = await self._receive_raw(request)
        else:
            message = (
                "Send the file as multipart/form-data in a part named 'file', or as the raw body with its media "
                "type or application/octet-stream."
            )
            raise InvalidValue(message, param="content-type")
        return JsonReply(wire.file_json(file))

    async def _receive_form(self, request: Request, boundary: bytes) -> FileObject:
        form = _Form(max_expires_after_s=self._max_expires_after_s)
        parser = FormParser(boundary)
        declared = request.body.declared_bytes
        at_least = max((declared or 0) - FORM_OVERHEAD_BYTES, 0)
        max_bytes = self._receiver.limits.max_file_bytes + FORM_OVERHEAD_BYTES
        body_bytes = 0
        async with self._receiver.receive(
            scope=request.principal.scope, at_least=at_least, at_most=declared
        ) as receive:
            async for chunk in request.body.chunks():
                body_bytes += len(chunk)
                if body_bytes > max_bytes:
                    message = "The form is larger than the largest file with its fields may be."
                    raise FileTooLarge(message, param="file")
                for event in parser.feed(chunk):
                    if isinstance(event, FileChunk):
                        await receive.write(event.data)
                    else:
                        form.take(event)
            parser.finish()
            return await form.finish(receive)

    async def _receive_raw(self, request: Request) -> FileObject:
        form = _Form(max_expires_after_s=self._max_expires_after_s)
        for name in _FIELDS:
            if name in request.query:
                form.add(name, request.query[name])
        declared = request.body.declared_bytes
        async with self._receiver.receive(
            scope=request.principal.scope, at_least=declared or 0, at_most=declared
        ) as receive:
            async for chunk in request.body.chunks():
                await receive.write(chunk)
            return await form.commit(receive, request.query.get("filename"))

    async def list(self, request: Request) -> Reply:
        """One page of the caller's files."""
        if self._listing_refused_by is not None:
            error = RouteNotFound if self._listing_refused_by == 404 else ListingDisabled
            raise error("File listing is disabled on this server.")
        query = request.query
        purpose = query.get("purpose")
        page = await self._files.list(
            scope=request.principal.scope,
            limit=wire.parse_limit(query.get("limit")),
            order=wire.parse_order(query.get("order")),
            after=query.get("after"),
            purpose=None if purpose is None else wire.parse_purpose(purpose),
        )
        return JsonReply(wire.page_json(page))

    async def retrieve(self, request: Request) -> Reply:
        """The metadata of one file."""
        file = await self._files.get(request.path[0], scope=request.principal.scope)
        return JsonReply(wire.file_json(file))

    async def delete(self, request: Request) -> Reply:
        """Delete one file."""
        file_id = await self._files.delete(request.path[0], scope=request.principal.scope)
        return JsonReply(wire.deleted_json(file_id))

    async def content(self, request: Request) -> Reply:
        """The bytes of one file, or one range of them (RFC 9110 §14)."""
        opened = await self._files.open(request.path[0], scope=request.principal.scope)
        return await content_reply(
            opened.file,
            asked=request.headers,
            chunks=opened.chunks,
            close=opened.close,
            disposition=_disposition(opened.file.filename),
        )


class _Form:
    """The fields of one upload, judged as they come: a bad one is refused before the file's bytes are taken."""

    def __init__(self, *, max_expires_after_s: float | None) -> None:
        self._max_expires_after_s = max_expires_after_s
        self._fields: dict[str, str] = {}
        self._filename: str | None = None

    def take(self, event: Text | FileBegin | FileEnd) -> None:
        """One part of a form, but for the bytes of the file."""
        if isinstance(event, Text):
            self.add(event.name, event.value)
        elif isinstance(event, FileBegin):
            self._begin_file(event)

    def add(self, name: str, value: str) -> None:
        """One text field; fields that nobody knows are ignored, as the official clients may send more."""
        if name == "file":
            message = "'file' must be a file, not text: with curl, write -F file=@clip.mp4."
            raise InvalidValue(message, param="file")
        if name not in _FIELDS:
            return
        if name in self._fields:
            raise InvalidValue(f"'{name}' is given twice.", param=name)
        self._fields[name] = value
        if name == "purpose":
            wire.parse_purpose(value)

    def _begin_file(self, begin: FileBegin) -> None:
        if begin.name != "file":
            message = "The part that carries the file must be named 'file'."
            raise InvalidValue(message, param="file")
        if self._filename is not None:
            raise InvalidValue("One request takes one file: 'file' is given twice.", param="file")
        self._filename = begin.filename
        if _ANCHOR in self._fields and _SECONDS in self._fields:
            self._lifetime()

    def _lifetime(self) -> Lifetime | None:
        return wire.parse_expires_after(
            self._fields.get(_ANCHOR),
            self._fields.get(_SECONDS),
            max_seconds=self._max_expires_after_s,
        )

    async def finish(self, receive: Receive) -> FileObject:
        """All parts have come."""
        if self._filename is None:
            message = "There is no 'file' in the form: with curl, write -F file=@clip.mp4."
            raise InvalidValue(message, param="file")
        return await self.commit(receive, self._filename)

    async def commit(self, receive: Receive, filename: str | None) -> FileObject:
        """Finish the receive with what the fields say."""
        purpose = wire.parse_purpose(self._fields.get("purpose"))
        return await receive.finish(filename=filename, purpose=purpose, lifetime=self._lifetime())


def _is_raw(headers: Headers) -> bool:
    """Whether the body is the file: its type says so, or there is none."""
    content_type = b"".join(header_values(headers, b"content-type")[:1]).strip().lower()
    return not content_type or content_type.startswith(_RAW_TYPES)


def _disposition(filename: str) -> bytes:
    """Never inline; the name as RFC 6266 §4.3 and RFC 8187 want it."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}".encode()
