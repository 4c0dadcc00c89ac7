import base64
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.errors import FileNotFound, InternalError
from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.core.store_key import StoreKey
from mediagate.dialects.parts import Source
from mediagate.operations.deliver import (
    Base64Of,
    Deliveries,
    HandleDelivery,
    Handles,
    InlineDelivery,
    LeasedMedia,
    Piece,
    UrlDelivery,
    content_length,
    stream,
)
from mediagate.operations.files import file_not_found
from stores import PNG, Clock, Store


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

    uri = await sent(await delivery.pieces(file, Source.DATA_URI), Chunks([b"abc"]))
    bare = await sent(await delivery.pieces(file, Source.BASE64), Chunks([b"abc"]))
    await delivery.close()

    assert (uri, bare) == (b"data:audio/wav;base64,YWJj", b"YWJj")


async def test_a_handle_means_its_file_until_the_request_ends() -> None:
    handles = Handles()
    delivery = HandleDelivery(handles=handles)
    first, second = a_file(1), a_file(1, name=2)

    (handle,) = await delivery.pieces(first, Source.HANDLE)
    again = await delivery.pieces(first, Source.HANDLE)
    (other,) = await delivery.pieces(second, Source.HANDLE)

    assert isinstance(handle, bytes)
    assert isinstance(other, bytes)
    token = handle.decode().removeprefix("mediagate-media:")
    assert len(token) == 32
    assert again == (handle,)
    assert handles.find(token) is first
    assert handles.find(other.decode().removeprefix("mediagate-media:")) is second

    await delivery.close()
    await delivery.close()

    assert handles.find(token) is None


async def test_one_request_does_not_end_the_handles_of_another() -> None:
    handles = Handles()
    one, two = HandleDelivery(handles=handles), HandleDelivery(handles=handles)
    file = a_file(1)
    await one.pieces(file, Source.HANDLE)
    (handle,) = await two.pieces(file, Source.HANDLE)

    await one.close()

    assert isinstance(handle, bytes)
    assert handles.find(handle.decode().removeprefix("mediagate-media:")) is file


# URLs --------------------------------------------------------------------------------------------

BASE = "http://127.0.0.1:8080"


async def token_of(delivery: UrlDelivery, file: FileObject) -> str:
    (url,) = await delivery.pieces(file, Source.HTTP_URL)
    assert isinstance(url, bytes)
    return url.decode().removeprefix(f"{BASE}/v1/media/")


async def leased_media(store: Store, clock: Clock) -> LeasedMedia:
    return LeasedMedia(
        index=store.index,
        open_blob=lambda file: store.blobs.read(file.blob),
        key=await store.index.key(),
        clock=clock,
    )


async def test_url_leads_to_its_file_for_as_long_as_the_lease_lives(
    store: Store, clock: Clock
) -> None:
    """H53: deleted meanwhile, it is still there for the request that named it."""
    files = [await store.receive(PNG + bytes([n])) for n in range(20)]
    hold = await store.claims.hold([file.id for file in files], scope=DEFAULT_SCOPE)
    delivery = UrlDelivery(hold, base=BASE, key=await store.index.key())
    media = await leased_media(store, clock)
    tokens = [await token_of(delivery, file) for file in files]
    await store.files.delete(files[7].id, scope=DEFAULT_SCOPE)

    for file, token in zip(files, tokens, strict=True):
        for _ in range(2):
            found, reader = await media.open(token)
            assert (found.id, found.mime_type) == (file.id, "image/png")
            assert b"".join([c async for c in reader.chunks()]) == PNG + bytes([files.index(file)])
            await reader.close()

    await delivery.close()
    await hold.release()
    for token in tokens:
        with pytest.raises(FileNotFound):
            await media.open(token)


async def test_url_tells_nothing_of_the_file(store: Store) -> None:
    file = await store.receive()
    hold = await store.claims.hold([file.id], scope=DEFAULT_SCOPE)

    token = await token_of(UrlDelivery(hold, base=BASE, key=await store.index.key()), file)

    for secret in (file.id, file.id[5:], file.blob, file.digest[7:], file.filename):
        assert secret not in token


async def test_url_of_a_process_that_died_dies_with_its_lease(store: Store, clock: Clock) -> None:
    file = await store.receive()
    hold = await store.claims.hold([file.id], scope=DEFAULT_SCOPE)
    token = await token_of(UrlDelivery(hold, base=BASE, key=await store.index.key()), file)
    media = await leased_media(store, clock)
    clock.now += 60

    with pytest.raises(FileNotFound):
        await media.open(token)


async def test_fetching_a_url_is_no_use_of_the_file(store: Store, clock: Clock) -> None:
    """H58: the reference was the use."""
    file = await store.receive()
    hold = await store.claims.hold([file.id], scope=DEFAULT_SCOPE)
    token = await token_of(UrlDelivery(hold, base=BASE, key=await store.index.key()), file)
    before = await store.files.get(file.id, scope=DEFAULT_SCOPE)
    clock.now += 30

    _, reader = await (await leased_media(store, clock)).open(token)
    await reader.close()

    assert await store.files.get(file.id, scope=DEFAULT_SCOPE) == before


async def test_token_that_was_changed_is_worth_nothing(store: Store, clock: Clock) -> None:
    """Any character of the lease, the position or the signature; the file beside it in the same lease too."""
    files = [await store.receive(), await store.receive()]
    hold = await store.claims.hold([file.id for file in files], scope=DEFAULT_SCOPE)
    delivery = UrlDelivery(hold, base=BASE, key=await store.index.key())
    media = await leased_media(store, clock)
    token, other = [await token_of(delivery, file) for file in files]
    changed = [
        token[:at] + ("0" if token[at] != "0" else "1") + token[at + 1 :]
        for at in range(len(token))
    ]
    changed += [
        other[:36] + token[36:],
        token[:36] + other[36:],
        token.upper(),
        token[:-1],
        token + "0",
        token + "\n",
        token[:36] + "\u0660" * 64,
        "",
        files[0].id,
    ]

    for wrong in changed:
        with pytest.raises(FileNotFound) as caught:
            await media.open(wrong)
        assert caught.value.message == file_not_found().message


async def test_token_of_another_store_is_worth_nothing(store: Store, clock: Clock) -> None:
    file = await store.receive()
    hold = await store.claims.hold([file.id], scope=DEFAULT_SCOPE)
    foreign = UrlDelivery(hold, base=BASE, key=StoreKey(bytes(32)))
    media = await leased_media(store, clock)

    with pytest.raises(FileNotFound):
        await media.open(await token_of(foreign, file))


async def test_forged_token_costs_the_index_nothing(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = await leased_media(store, clock)

    async def leased(*_: object, **__: object) -> None:
        raise AssertionError("the index was asked")

    monkeypatch.setattr(store.index, "leased", leased)

    with pytest.raises(FileNotFound):
        await media.open("0" * 100)


async def test_several_ways_are_one(store: Store) -> None:
    """The best one first; each source comes from the way that makes it."""
    file = await store.receive()
    hold = await store.claims.hold([file.id], scope=DEFAULT_SCOPE)
    url = UrlDelivery(hold, base=BASE, key=await store.index.key())
    ways = Deliveries(url, InlineDelivery())

    assert list(ways.sources) == [Source.HTTP_URL, Source.DATA_URI, Source.BASE64]
    assert await ways.pieces(file, Source.HTTP_URL) == await url.pieces(file, Source.HTTP_URL)
    assert await ways.pieces(file, Source.BASE64) == (Base64Of(file),)


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
