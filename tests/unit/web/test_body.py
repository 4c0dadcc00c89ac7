"""A request's body: its length, its end, and how long we wait for it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mediagate.core.errors import BodyTooLarge, MalformedBody, ReceiveTimeout
from mediagate.web.asgi import ClientGone, Message
from mediagate.web.body import Body, Patience

TOO_LARGE = BodyTooLarge("too large")


class Client:
    """Sends chunks, each after a pause; None stands for leaving."""

    def __init__(self, *chunks: bytes | None, pause_s: float = 0.0) -> None:
        self._chunks = list(chunks)
        self._pause_s = pause_s
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        if not self._chunks:
            await asyncio.Event().wait()
        await asyncio.sleep(self._pause_s)
        chunk = self._chunks.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}


def body(client: Client, *headers: tuple[bytes, bytes], patience: Patience | None = None) -> Body:
    return Body(headers, client.receive, patience=patience or Patience())


async def collect(chunks: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in chunks]


async def test_chunks_come_as_they_are_without_empty_ones() -> None:
    assert await collect(body(Client(b"a", b"", b"bc")).chunks()) == [b"a", b"bc"]


async def test_whole_body_is_joined() -> None:
    read = await body(Client(b"a", b"", b"bc")).read(max_bytes=3, too_large=TOO_LARGE)

    assert read == b"abc"


async def test_body_over_the_limit_is_refused_as_soon_as_it_is_known() -> None:
    client = Client(b"ab", b"cd", b"ef")
    with pytest.raises(BodyTooLarge):
        await body(client).read(max_bytes=3, too_large=TOO_LARGE)
    assert client.asked == 2

    client = Client(b"abcd")
    with pytest.raises(BodyTooLarge):
        await body(client, (b"content-length", b"4")).read(max_bytes=3, too_large=TOO_LARGE)
    assert client.asked == 0


async def test_client_that_leaves_is_not_the_end_of_its_body() -> None:
    """H22."""
    with pytest.raises(ClientGone):
        await collect(body(Client(b"a", None)).chunks())


@pytest.mark.parametrize(
    ("values", "declared"), [([], None), ([b"0"], 0), ([b" 12 "], 12), ([b"9" * 40], 10**20 - 1)]
)
def test_declared_length(values: list[bytes], declared: int | None) -> None:
    headers = [(b"content-length", value) for value in values]

    assert body(Client(), *headers).declared_bytes == declared


@pytest.mark.parametrize("values", [[b"-1"], [b"+1"], [b""], [b"a"], [b"1", b"1"], [b"1.5"]])
def test_ambiguous_length_is_refused(values: list[bytes]) -> None:
    with pytest.raises(MalformedBody):
        body(Client(), *[(b"content-length", value) for value in values])


async def test_silence_ends_the_patience() -> None:
    """P10."""
    patience = Patience(idle_timeout_s=0.02, min_bytes_per_s=0, deadline_s=10)

    with pytest.raises(ReceiveTimeout):
        await collect(body(Client(b"a", b"b", pause_s=1), patience=patience).chunks())


async def test_trickle_ends_the_patience() -> None:
    """P10: each chunk in time, all of them too slow."""
    patience = Patience(idle_timeout_s=0.5, min_bytes_per_s=10_000, deadline_s=10)
    client = Client(*[b"x"] * 100, pause_s=0.02)

    with pytest.raises(ReceiveTimeout, match="slowly"):
        await collect(body(client, patience=patience).chunks())

    assert client.asked < 50


async def test_deadline_ends_the_patience_with_the_steadiest_client() -> None:
    """P10."""
    patience = Patience(idle_timeout_s=5, min_bytes_per_s=0, deadline_s=0.1)
    client = Client(*[bytes(1000)] * 200, pause_s=0.005)

    with pytest.raises(ReceiveTimeout):
        await collect(body(client, patience=patience).chunks())


async def test_only_waiting_for_the_client_counts() -> None:
    """A slow disk of ours is not the client's fault."""
    patience = Patience(idle_timeout_s=0.05, min_bytes_per_s=1000, deadline_s=0.05)
    got = []

    async for chunk in body(Client(*[b"x"] * 5), patience=patience).chunks():
        await asyncio.sleep(0.03)
        got.append(chunk)

    assert got == [b"x"] * 5
