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
from typing import Protocol

from mediagate.blobs.driver import BlobReader
from mediagate.core.errors import InternalError
from mediagate.core.files import FileId, FileObject
from mediagate.core.leases import LeaseId
from mediagate.core.references import HANDLE_SCHEME as HANDLE_SCHEME
from mediagate.core.store_key import StoreKey, Use
from mediagate.dialects.fields import Form
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

    def pieces(self, file: FileObject, *, form: Form) -> Sequence[Piece]:
        """What stands for `file`, fit to be put between the quotes of a JSON string."""

    def close(self) -> None:
        """The request is over; what was handed out means nothing any more. Safe to call more than once."""


class InlineDelivery:
    """The file itself, in base64."""

    def pieces(self, file: FileObject, *, form: Form) -> Sequence[Piece]:
        """A `data:` URI, or bare base64."""
        if form is Form.BASE64:
            return (Base64Of(file),)
        return (f"data:{file.mime_type};base64,".encode(), Base64Of(file))

    def close(self) -> None:
        """Nothing was handed out."""


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

    def __init__(self, *, handles: Handles) -> None:
        self._handles = handles
        self._tokens: dict[FileId, str] = {}

    def pieces(self, file: FileObject, *, form: Form) -> Sequence[Piece]:
        """The file's handle, in every form."""
        if file.id not in self._tokens:
            self._tokens[file.id] = self._handles.add(file)
        return ((HANDLE_SCHEME + self._tokens[file.id]).encode(),)

    def close(self) -> None:
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


class UrlDelivery:
    """A signed URL of this server, one a file, that lives exactly as long as the lease; `LeasedMedia` answers it.

    Bare base64 can be no URL: there it stays inline.

    Args:
        leased: The files that may be named.
        base: Where the upstream reaches this server, without a path; None: nobody knows.
        key: Signs.
    """

    def __init__(self, leased: Leased, *, base: str | None, key: StoreKey) -> None:
        self._lease_id = leased.lease_id
        self._positions = {file_id: n for n, file_id in enumerate(sorted(leased.files))}
        self._base = base
        self._key = key

    def pieces(self, file: FileObject, *, form: Form) -> Sequence[Piece]:
        """The file's URL, or bare base64.

        Raises:
            InternalError: There is no base.
        """
        if form is Form.BASE64:
            return (Base64Of(file),)
        if self._base is None:
            raise InternalError("Set advertise_url: the upstream has to reach this server.")
        token = _token(self._key, self._lease_id, self._positions[file.id])
        return (f"{self._base}{MEDIA_PATH}{token}".encode(),)

    def close(self) -> None:
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
