"""A resolver for tests: what it makes of a request body, with files of a few bytes that are nowhere stored.

bench = Bench(executor)
await bench.body(chat({"type": "image_url", "image_url": {"url": IMAGE}}))    -> the body, with the file in it
await bench.refusal(raw)                                                      -> the error; nothing is leased
"""

import base64
import io
import json
import wave
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import pytest

from mediagate.core.errors import MediagateError
from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.scopes import Principal, Scope
from mediagate.dialects.fields import Dialect, Judge
from mediagate.dialects.openai_chat import find
from mediagate.dialects.parts import ANYTHING, Accepted
from mediagate.executor import Executor
from mediagate.operations.deliver import Delivery, InlineDelivery, Leased, stream
from mediagate.operations.resolve import Resolved, Resolver
from mediagate.operations.rewrite import CacheNames

OURS, THEIRS = Scope("ours"), Scope("theirs")
US = Principal(OURS)


def file_id(name: int) -> FileId:
    """An id that is easy to tell from others."""
    return FileId(f"file-{name:032x}")


VIDEO, IMAGE, WAV, MP3, M4A = map(file_id, range(1, 6))
GIF, FOREIGN, MISSING = map(file_id, range(6, 9))
BLOBS = {VIDEO: b"moving", IMAGE: b"picture!", WAV: b"sound", MP3: b"music", M4A: b"m4a", GIF: b"g"}
TYPES = {
    VIDEO: "video/mp4",
    IMAGE: "image/png",
    WAV: "audio/wav",
    MP3: "audio/mpeg",
    M4A: "audio/mp4",
    GIF: "image/gif",
    FOREIGN: "video/mp4",
}


def a_file(name: FileId) -> FileObject:
    """One of `TYPES`."""
    return FileObject(
        id=name,
        scope=THEIRS if name == FOREIGN else OURS,
        blob=BlobKey(name.removeprefix("file-")),
        filename="clip",
        purpose=Purpose.USER_DATA,
        mime_type=TYPES[name],
        size_bytes=len(BLOBS.get(name, b"")),
        digest=Digest("blake3:" + "0" * 64),
        created_at=0,
        last_used_at=0,
        expires_at=None,
        ttl_s=None,
    )


class Held:
    """A lease."""

    def __init__(self, store: "Store", files: Mapping[FileId, FileObject]) -> None:
        self._store = store
        self.lease_id = LeaseId("lease")
        self.files = files

    async def release(self) -> None:
        """End it."""
        self._store.held.discard(self)


class Store:
    """Files that can be leased, and what is leased."""

    def __init__(self) -> None:
        self.files = {name: a_file(name) for name in TYPES}
        self.asked: list[tuple[FileId, ...]] = []
        self.held: set[Held] = set()

    async def hold(self, file_ids: Collection[FileId], *, scope: Scope) -> Held:
        """As `Holder` says."""
        self.asked.append(tuple(file_ids))
        files = {
            name: self.files[name]
            for name in file_ids
            if name in self.files and self.files[name].scope == scope
        }
        held = Held(self, files)
        self.held.add(held)
        return held

    async def exists(self, file_id: FileId) -> bool:
        """As `Holder` says."""
        return file_id in self.files


class Blob:
    """The bytes of a file, in pieces of two."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        """All of them."""
        return len(self._data)

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """From the first to the last."""
        for at in range(0, len(self._data), 2):
            yield self._data[at : at + 2]

    async def close(self) -> None:
        """Nothing is open."""


async def open_blob(file: FileObject) -> Blob:
    """One of `BLOBS`."""
    return Blob(BLOBS[file.id])


def inline(_leased: Leased, _came_in_at: str | None) -> Delivery:
    """Base64."""
    return InlineDelivery()


class Bench:
    """A resolver and what stands around it."""

    def __init__(
        self,
        executor: Executor,
        dialect: Dialect = find,
        *,
        deliver: Callable[[Leased, str | None], Delivery] = inline,
        accepted: Accepted = ANYTHING,
    ) -> None:
        self.store = Store()
        self.dialect = dialect
        self.accepted = accepted
        self.resolver = Resolver(holder=self.store, deliver=deliver, executor=executor)

    async def resolve(
        self,
        raw: bytes,
        *,
        names: CacheNames | None = None,
        judge: Judge = Judge.WALL,
        principal: Principal = US,
    ) -> Resolved:
        """Resolve a body; the caller closes the result."""

        async def accepts() -> Accepted:
            return self.accepted

        return await self.resolver.resolve(
            raw,
            dialect=self.dialect,
            principal=principal,
            names=names,
            judge=judge,
            accepts=accepts,
        )

    async def body(self, raw: bytes, **how: Any) -> bytes:
        """What the engine gets; nothing is leased afterwards."""
        resolved = await self.resolve(raw, **how)
        body = b"".join([c async for c in stream(resolved.pieces, open_blob=open_blob)])
        assert resolved.content_length == len(body)
        await resolved.close()
        assert not self.store.held
        return body

    async def refusal(self, raw: bytes, **how: Any) -> MediagateError:
        """Why it gets nothing; nothing is leased."""
        with pytest.raises(MediagateError) as caught:
            await self.resolve(raw, **how)
        assert not self.store.held
        return caught.value


def data_uri(name: FileId) -> str:
    """The file itself."""
    return f"data:{TYPES[name]};base64,{bare(name)}"


def bare(name: FileId) -> str:
    """The same, without its type."""
    return base64.b64encode(BLOBS[name]).decode()


def chat(*parts: Any) -> bytes:
    """A chat completion about content parts."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


def parts_of(body: bytes) -> Any:
    """Its content parts."""
    return json.loads(body)["messages"][0]["content"]


def wav(seconds: float = 0.1) -> bytes:
    """A sound that is one."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\1\0" * int(8000 * seconds))
    return buffer.getvalue()


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return len(data).to_bytes(4, "big") + name + data + crc.to_bytes(4, "big")

    header = b"\0\0\0\1\0\0\0\1\x08\0\0\0\0"
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
