"""The Uploads API: parse, call one operation, serialise."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mediagate.core.errors import BodyTooLarge, InvalidValue, PartTooLarge
from mediagate.core.expiry import Lifetime
from mediagate.core.uploads import MAX_PART_BYTES, MAX_PARTS, Part
from mediagate.dialects.strict_json import parse_object
from mediagate.executor import Executor
from mediagate.operations.parts import PartReceive
from mediagate.operations.uploads import Uploads
from mediagate.web import wire
from mediagate.web.multipart import (
    FORM_OVERHEAD_BYTES,
    FileBegin,
    FileChunk,
    FormParser,
    form_boundary,
    is_form,
)
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Request, Route

MAX_JSON_BYTES = 1024**2
"""The ids of as many parts as there may be, with room to spare."""

_MD5 = re.compile(r"[0-9a-fA-F]{32}")


class UploadsApi:
    """`/v1/uploads` and below, for one store.

    Args:
        uploads: What is there.
        executor: Where JSON is parsed: ten thousand ids take a while.
        max_expires_after_s: A longer `expires_after` is clamped to it, in seconds; None: it is not.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        uploads: Uploads,
        executor: Executor,
        max_expires_after_s: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._uploads = uploads
        self._executor = executor
        self._max_expires_after_s = max_expires_after_s
        self._clock = clock

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (
            Route("/v1/uploads", {"POST": self.create}),
            Route("/v1/uploads/{}", {"GET": self.retrieve}),
            Route("/v1/uploads/{}/parts", {"POST": self.add_part}),
            Route("/v1/uploads/{}/complete", {"POST": self.complete}),
            Route("/v1/uploads/{}/cancel", {"POST": self.cancel}),
        )

    async def create(self, request: Request) -> Reply:
        """Begin an Upload: a file that will come in parts."""
        body = await self._read(request)
        purpose = wire.parse_purpose(_text(body, "purpose"))
        _text(body, "mime_type")  # the bytes decide
        lifetime = self._lifetime(body["expires_after"]) if "expires_after" in body else None
        upload = await self._uploads.create(
            scope=request.principal.scope,
            size_bytes=_size(body.get("bytes")),
            filename=_text(body, "filename"),
            purpose=purpose,
            lifetime=lifetime,
        )
        return JsonReply(wire.upload_json(upload, upload.status))

    async def retrieve(self, request: Request) -> Reply:
        """One Upload and the parts that have arrived, in the order of their arrival."""
        upload, parts, file = await self._uploads.get(
            request.path[0], scope=request.principal.scope
        )
        shown = wire.upload_json(upload, upload.status_at(self._clock()), file=file)
        return JsonReply(shown | {"parts": [wire.part_json(part) for part in parts]})

    async def add_part(self, request: Request) -> Reply:
        """Receive one part, in any order, and beside others."""
        if not is_form(request.headers):
            message = "Send the part as multipart/form-data, in a field named 'data'."
            raise InvalidValue(message, param="content-type")
        parser = FormParser(form_boundary(request.headers), as_file="data")
        declared = request.body.declared_bytes
        body_bytes = 0
        has_begun = False
        async with await self._uploads.receive_part(
            request.path[0],
            scope=request.principal.scope,
            at_least=max((declared or 0) - FORM_OVERHEAD_BYTES, 0),
            at_most=declared,
        ) as receive:
            async for chunk in request.body.chunks():
                body_bytes += len(chunk)
                if body_bytes > MAX_PART_BYTES + FORM_OVERHEAD_BYTES:
                    message = "The form is larger than the largest part with its fields may be."
                    raise PartTooLarge(message, param="data")
                for event in parser.feed(chunk):
                    if isinstance(event, FileChunk):
                        await receive.write(event.data)
                    elif isinstance(event, FileBegin):
                        _check_field(event.name, has_begun=has_begun)
                        has_begun = True
            parser.finish()
            return JsonReply(wire.part_json(await _finish(receive, has_begun=has_begun)))

    async def complete(self, request: Request) -> Reply:
        """Make a file of parts, in the order that is given; asked again, it is the same file."""
        body = await self._read(request)
        upload, file = await self._uploads.complete(
            request.path[0],
            scope=request.principal.scope,
            part_ids=_part_ids(body.get("part_ids")),
            md5=_md5(body["md5"]) if "md5" in body else None,
        )
        return JsonReply(wire.upload_json(upload, upload.status, file=file))

    async def cancel(self, request: Request) -> Reply:
        """End an Upload; its bytes go at once."""
        upload = await self._uploads.cancel(request.path[0], scope=request.principal.scope)
        return JsonReply(wire.upload_json(upload, upload.status))

    async def _read(self, request: Request) -> Mapping[str, Any]:
        too_large = BodyTooLarge(f"The JSON body exceeds {MAX_JSON_BYTES // 1024**2} MiB.")
        raw = await request.body.read(max_bytes=MAX_JSON_BYTES, too_large=too_large)
        return await self._executor.run(parse_object, raw)

    def _lifetime(self, value: object) -> Lifetime | None:
        fields = value if isinstance(value, dict) else {}
        anchor, seconds = fields.get("anchor"), fields.get("seconds")
        return wire.parse_expires_after(
            anchor if isinstance(anchor, str) else "",
            str(seconds) if type(seconds) is int else "",
            max_seconds=self._max_expires_after_s,
        )


def _check_field(name: str, *, has_begun: bool) -> None:
    if name != "data":
        raise InvalidValue("The part of the form must be named 'data'.", param="data")
    if has_begun:
        raise InvalidValue("One request takes one part: 'data' is given twice.", param="data")


async def _finish(receive: PartReceive, *, has_begun: bool) -> Part:
    if not has_begun:
        message = "There is no 'data' in the form: with curl, write -F data=@chunk."
        raise InvalidValue(message, param="data")
    return await receive.finish()


def _text(body: Mapping[str, Any], name: str) -> str | None:
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, str):
        raise InvalidValue(f"'{name}' must be a string.", param=name)
    return value


def _size(value: object) -> int:
    if type(value) is not int or value < 1:
        message = "'bytes' must be the size of the file: a whole number, at least 1."
        raise InvalidValue(message, param="bytes")
    return value


def _part_ids(value: object) -> Sequence[str]:
    ids = value if isinstance(value, list) else []
    if not 1 <= len(ids) <= MAX_PARTS or not all(isinstance(each, str) for each in ids):
        message = f"'part_ids' must be a list of 1 to {MAX_PARTS} ids of parts, in the order of their bytes."
        raise InvalidValue(message, param="part_ids")
    return ids


def _md5(value: object) -> str:
    if not isinstance(value, str) or not _MD5.fullmatch(value):
        raise InvalidValue("'md5' must be 32 hex digits.", param="md5")
    return value.lower()
