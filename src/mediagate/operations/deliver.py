"""How an upstream gets a file: as bytes inside its request, or as a handle that it turns into the file itself."""

import hmac
import re
import secrets
import time
from binascii import b2a_base64
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from mediagate.blobs.driver import BlobReader
from mediagate.core.errors import InternalError, SourceNotAllowed
from mediagate.core.files import FileId, FileObject
from mediagate.core.leases import LeaseId
from mediagate.core.media_hosts import MediaHosts
from mediagate.core.references import HANDLE_SCHEME as HANDLE_SCHEME
from mediagate.core.store_key import StoreKey, Use
from mediagate.dialects.parts import Source
from mediagate.index.driver import Index
from mediagate.operations.files import file_not_found


@dataclass(frozen=True, slots=True)
class Base64Of:
    """The bytes of a file in base64, encoded when they are sent."""

    file: FileObject


MEDIA_PATH = "/v1/media/"
"""A token follows: no route of OpenAI's, nor of any engine's."""

_TOKEN = re.compile(r"([0-9a-f]{32})([0-9a-f]{4})[0-9a-f]{64}")
"""The lease, the file's position in it, and the signature of both."""

Piece = bytes | Base64Of
"""A stretch of an outgoing body."""

OpenBlob = Callable[[FileObject], Awaitable[BlobReader]]


class Delivery(Protocol):
    """Names files to the upstream for the time of one request."""

    @property
    def sources(self) -> Sequence[Source]:
        """What it can tell the upstream."""

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """What stands for `file` as one of `sources`, fit to be put between the quotes of a JSON string."""

    async def close(self) -> None:
        """The request is over; what was handed out means nothing any more. Safe to call more than once."""


class InlineDelivery:
    """The file itself, in base64."""

    sources = (Source.DATA_URI, Source.BASE64)

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """A `data:` URI, or bare base64."""
        if source is Source.BASE64:
            return (Base64Of(file),)
        return (f"data:{file.mime_type};base64,".encode(), Base64Of(file))

    async def close(self) -> None:
        """Nothing was handed out."""


class Deliveries:
    """Several ways, the best one first.

    Args:
        ways: Of which no two make the same source.
    """

    def __init__(self, *ways: Delivery) -> None:
        self._ways = ways
        self.sources = [source for way in ways for source in way.sources]

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """From whichever way makes that source."""
        way = next(way for way in self._ways if source in way.sources)
        return await way.pieces(file, source)

    async def close(self) -> None:
        """All of them."""
        for way in self._ways:
            await way.close()


class Handles:
    """Files that an engine in this process may open now, by unguessable tokens."""

    def __init__(self) -> None:
        self._files: dict[str, FileObject] = {}

    def add(self, file: FileObject) -> str:
        """A new token for `file`."""
        token = secrets.token_hex(16)
        self._files[token] = file
        return token

    def find(self, token: str) -> FileObject | None:
        """The file of that token, while its request runs."""
        return self._files.get(token)

    def drop(self, tokens: Collection[str]) -> None:
        """Forget tokens; unknown ones are no error."""
        for token in tokens:
            self._files.pop(token, None)


class HandleDelivery:
    """`mediagate-media:<token>`, one a file, for an engine in this process that has `handles` too."""

    sources = (Source.HANDLE,)

    def __init__(self, *, handles: Handles) -> None:
        self._handles = handles
        self._tokens: dict[FileId, str] = {}

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """The file's handle."""
        if file.id not in self._tokens:
            self._tokens[file.id] = self._handles.add(file)
        return ((HANDLE_SCHEME + self._tokens[file.id]).encode(),)

    async def close(self) -> None:
        """Forget the tokens."""
        self._handles.drop(self._tokens.values())
        self._tokens.clear()


class Leased(Protocol):
    """Files under a lease."""

    @property
    def lease_id(self) -> LeaseId:
        """The lease."""

    @property
    def files(self) -> Mapping[FileId, FileObject]:
        """What it holds."""


class Links(Protocol):
    """Gives leased files names in a directory that the engine reads."""

    async def add(self, lease_id: LeaseId, position: int, file: FileObject) -> str:
        """The name of a new link to the bytes of `file`; it goes with the lease."""

    async def drop(self, names: Collection[str]) -> None:
        """Remove links; those that are gone are no error."""


class PathDelivery:
    """A link in the lease directory, one a file.

    Args:
        leased: The files that may be named.
        links: Makes the links.
        seen_by_upstream: Where a link of that name is, as the upstream sees it.
    """

    sources = (Source.FILE_URL, Source.PATH, Source.MEDIA_DIR_URL)

    def __init__(
        self, leased: Leased, *, links: Links, seen_by_upstream: Callable[[str], PurePosixPath]
    ) -> None:
        self._lease_id = leased.lease_id
        self._positions = positions(leased)
        self._links = links
        self._seen_by_upstream = seen_by_upstream
        self._names: dict[FileId, str] = {}

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """Where the link is: as a URL, a path, or a URL below the upstream's own media directory."""
        if file.id not in self._names:
            position = self._positions[file.id]
            self._names[file.id] = await self._links.add(self._lease_id, position, file)
        path = self._seen_by_upstream(self._names[file.id])
        match source:
            case Source.FILE_URL:
                return (path.as_uri().encode(),)
            case Source.MEDIA_DIR_URL:
                return (f"file://{path.name}".encode(),)
        return (str(path).encode(),)

    async def close(self) -> None:
        """Remove the links; what the engine has open it goes on reading."""
        names = list(self._names.values())
        self._names.clear()
        await self._links.drop(names)


class UrlDelivery:
    """A signed URL of this server, one a file, that lives exactly as long as the lease; `LeasedMedia` answers it.

    Args:
        leased: The files that may be named.
        base: Where the upstream reaches this server, without a path.
        key: Signs.
    """

    def __init__(self, leased: Leased, *, base: str, key: StoreKey) -> None:
        self.sources = url_sources(base)
        self._lease_id = leased.lease_id
        self._positions = positions(leased)
        self._base = base
        self._key = key

    async def pieces(self, file: FileObject, source: Source) -> Sequence[Piece]:
        """The file's URL."""
        token = _token(self._key, self._lease_id, self._positions[file.id])
        return (f"{self._base}{MEDIA_PATH}{token}".encode(),)

    async def close(self) -> None:
        """What was handed out ends with the lease."""


class LeasedMedia:
    """What the URLs of `UrlDelivery` lead to, whichever process that shares the index made them.

    Args:
        index: Knows the leases.
        open_blob: Opens the bytes.
        key: Signed the URLs.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        index: Index,
        open_blob: OpenBlob,
        key: StoreKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._open_blob = open_blob
        self._key = key
        self._clock = clock

    async def open(self, token: str) -> tuple[FileObject, BlobReader]:
        """The file that `token` names, open. No use of it: the request that leased it was one.

        Raises:
            FileNotFound: The token is none of ours, or its request is over: one and the same.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise file_not_found()
        lease_id, position = LeaseId(match[1]), int(match[2], 16)
        # Before the index is asked: whoever cannot sign costs nothing.
        if not hmac.compare_digest(token, _token(self._key, lease_id, position)):
            raise file_not_found()
        file = await self._index.leased(lease_id, position, now=self._clock())
        if file is None:
            raise file_not_found()
        return file, await self._open_blob(file)


def url_sources(base: str) -> Sequence[Source]:
    """What URLs below `base` are: some engines fetch from public hosts only, and one by https only."""
    try:
        MediaHosts().judge(base, param="")
    except SourceNotAllowed:
        return (Source.HTTP_URL,)
    if not base.startswith("https:"):
        return Source.PUBLIC_URL, Source.HTTP_URL
    return Source.PUBLIC_HTTPS_URL, Source.PUBLIC_URL, Source.HTTP_URL


def positions(leased: Leased) -> Mapping[FileId, int]:
    """Where each file stands in its lease, as the index counts."""
    return {file_id: n for n, file_id in enumerate(sorted(leased.files))}


def _token(key: StoreKey, lease_id: LeaseId, position: int) -> str:
    named = f"{lease_id}{position:04x}"
    return named + key.tag(Use.URL, named)


def content_length(pieces: Iterable[Piece]) -> int:
    """How many bytes `stream` will send."""
    return sum(
        len(piece) if isinstance(piece, bytes) else (piece.file.size_bytes + 2) // 3 * 4
        for piece in pieces
    )


async def stream(pieces: Iterable[Piece], *, open_blob: OpenBlob) -> AsyncGenerator[bytes, None]:
    """The body; files are read and encoded chunk by chunk, one at a time.

    Nothing is kept of what was taken, while the caller waits for something else.

    A file that is named twice is read twice: the second time out of the page cache, never out of our memory.

    Raises:
        InternalError: A blob is not as long as its row says, so the announced length cannot be kept.
    """
    left = deque(pieces)
    del pieces
    while left:
        piece = left.popleft()
        if isinstance(piece, bytes):
            handed_over = [piece]
            del piece
            yield handed_over.pop()
            continue
        reader = await open_blob(piece.file)
        try:
            if reader.size_bytes != piece.file.size_bytes:
                raise InternalError("A stored file could not be read.")
            encoded = _encode(reader)
            try:
                async for chunk in encoded:
                    yield chunk
            finally:
                await encoded.aclose()
        finally:
            await reader.close()


async def _encode(reader: BlobReader) -> AsyncGenerator[bytes, None]:
    """Base64 without a break: what does not fill three bytes waits for the next chunk."""
    rest = b""
    chunks = reader.chunks()
    try:
        async for chunk in chunks:
            data = rest + chunk
            whole = len(data) - len(data) % 3
            rest = data[whole:]
            if whole:
                yield b2a_base64(data[:whole], newline=False)
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
    if rest:
        yield b2a_base64(rest, newline=False)
