"""How an upstream gets a file: as bytes inside its request, or as a handle that it turns into the file itself."""

import secrets
from binascii import b2a_base64
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mediagate.blobs.driver import BlobReader
from mediagate.core.errors import InternalError
from mediagate.core.files import FileId, FileObject
from mediagate.dialects.fields import Form

HANDLE_SCHEME = "mediagate-media:"
"""Never passes from a client: the wall knows no such scheme."""


@dataclass(frozen=True, slots=True)
class Base64Of:
    """The bytes of a file in base64, encoded when they are sent."""

    file: FileObject


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
