import base64
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.errors import InternalError
from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.dialects.fields import Form
from mediagate.operations.deliver import (
    Base64Of,
    HandleDelivery,
    Handles,
    InlineDelivery,
    Piece,
    content_length,
    stream,
)


class Chunks:
    """A blob that comes in given chunks."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks
        self.is_closed = False

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self._chunks))

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        assert (start, stop) == (0, None)
        for chunk in self._chunks:
            yield chunk

    async def close(self) -> None:
        self.is_closed = True


class Plain(Chunks):
    """Chunks out of a plain iterator, which has nothing to close."""

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        return _Plain(iter(self._chunks))


class _Plain:
    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> "_Plain":
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


def a_file(size_bytes: int, *, name: int = 1, mime_type: str = "video/mp4") -> FileObject:
    return FileObject(
        id=FileId(f"file-{name:032x}"),
        scope=DEFAULT_SCOPE,
        blob=BlobKey(f"{name:032x}"),
        filename="clip.mp4",
        purpose=Purpose.USER_DATA,
        mime_type=mime_type,
        size_bytes=size_bytes,
        digest=Digest("blake3:" + "0" * 64),
        created_at=0,
        last_used_at=0,
        expires_at=None,
        ttl_s=None,
    )


async def sent(pieces: Sequence[Piece], reader: Chunks) -> bytes:
    async def open_blob(_: FileObject) -> Chunks:
        return reader

    return b"".join([chunk async for chunk in stream(pieces, open_blob=open_blob)])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=12))
async def test_every_split_into_chunks_gives_the_same_base64(chunks: list[bytes]) -> None:
    blob = b"".join(chunks)
    pieces: Sequence[Piece] = (b"<", Base64Of(a_file(len(blob))), b">")

    body = await sent(pieces, Chunks(chunks))

    assert body == b"<" + base64.b64encode(blob) + b">"
    assert content_length(pieces) == len(body)


async def test_a_blob_out_of_a_plain_iterator_is_sent_too() -> None:
    pieces = (Base64Of(a_file(5)),)

    assert await sent(pieces, Plain([b"ab", b"cde"])) == base64.b64encode(b"abcde")


async def test_a_blob_is_closed_when_the_body_ends() -> None:
    reader = Chunks([b"abcd"])

    await sent((Base64Of(a_file(4)),), reader)

    assert reader.is_closed


async def test_a_blob_is_closed_when_the_receiver_goes_away() -> None:
    reader = Chunks([b"abc", b"def"])

    async def open_blob(_: FileObject) -> Chunks:
        return reader

    body = stream((Base64Of(a_file(6)), b"rest"), open_blob=open_blob)
    first = await anext(body)
    await body.aclose()

    assert first == b"YWJj"
    assert reader.is_closed


async def test_a_blob_of_another_length_than_announced_is_not_sent() -> None:
    reader = Chunks([b"abc"])

    with pytest.raises(InternalError):
        await sent((Base64Of(a_file(4)),), reader)

    assert reader.is_closed


async def test_inline_delivery_is_a_data_uri_or_bare_base64() -> None:
    file = a_file(3, mime_type="audio/wav")
    delivery = InlineDelivery()

    uri = await sent(delivery.pieces(file, form=Form.URI), Chunks([b"abc"]))
    bare = await sent(delivery.pieces(file, form=Form.BASE64), Chunks([b"abc"]))
    delivery.close()

    assert (uri, bare) == (b"data:audio/wav;base64,YWJj", b"YWJj")


def test_a_handle_means_its_file_until_the_request_ends() -> None:
    handles = Handles()
    delivery = HandleDelivery(handles=handles)
    first, second = a_file(1), a_file(1, name=2)

    (handle,) = delivery.pieces(first, form=Form.URI)
    again = delivery.pieces(first, form=Form.BASE64)
    (other,) = delivery.pieces(second, form=Form.URI)

    assert isinstance(handle, bytes)
    assert isinstance(other, bytes)
    token = handle.decode().removeprefix("mediagate-media:")
    assert len(token) == 32
    assert again == (handle,)
    assert handles.find(token) is first
    assert handles.find(other.decode().removeprefix("mediagate-media:")) is second

    delivery.close()
    delivery.close()

    assert handles.find(token) is None


def test_one_request_does_not_end_the_handles_of_another() -> None:
    handles = Handles()
    one, two = HandleDelivery(handles=handles), HandleDelivery(handles=handles)
    file = a_file(1)
    one.pieces(file, form=Form.URI)
    (handle,) = two.pieces(file, form=Form.URI)

    one.close()

    assert isinstance(handle, bytes)
    assert handles.find(handle.decode().removeprefix("mediagate-media:")) is file


async def test_nothing_is_kept_of_what_was_handed_over() -> None:
    """An upstream may take minutes to answer; the megabytes it was sent are not kept for so long."""
    freed: list[str] = []

    class Noted(bytes):
        def __del__(self) -> None:
            freed.append(self[:1].decode())

    async def refuse(_file: FileObject) -> Chunks:
        raise AssertionError

    pieces: Sequence[Piece] = (Noted(b"a"), Noted(b"b"))
    chunks = stream(pieces, open_blob=refuse)
    del pieces

    await anext(chunks)
    first = freed.copy()
    await anext(chunks)

    assert first == ["a"]
    assert freed == ["a", "b"]
    await chunks.aclose()
