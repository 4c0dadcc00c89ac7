"""The cache of decoded media: nothing is decoded twice that is held, nothing is held that should not be."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stores
from decoders import FrameLoader, ImageDecoder, MediaWithBytes, OtherFrameLoader, VideoDecoder
from mediagate.core.events import (
    DecodedMediaEvicted,
    DecodedMediaHeld,
    DecodedMediaReused,
    Event,
    FileDeleted,
    FileEvicted,
    FileExpired,
    FileResolved,
    MediaDecoded,
)
from mediagate.core.files import (
    Digest,
    FileId,
    FileObject,
    Purpose,
    new_blob_key,
    new_file_id,
)
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.vllm_plugin.decoded import ENTRY_BYTES, DecodedMedia, Settings, settings_of
from mediagate.vllm_plugin.media_values import own, size_of
from stores import TTL_S, Clock, Store

TESTS = Path(__file__).parents[2]
PLENTY = 10**9
COARSE = Settings("a" * 64)
FINE = Settings("b" * 64)


def new_file(scope: Scope = DEFAULT_SCOPE) -> FileObject:
    return FileObject(
        id=new_file_id(),
        scope=scope,
        blob=new_blob_key(),
        filename="clip.mp4",
        purpose=Purpose.VISION,
        mime_type="video/mp4",
        size_bytes=1000,
        digest=Digest("blake3:" + "0" * 64),
        created_at=0,
        last_used_at=0.0,
        expires_at=None,
        ttl_s=None,
    )


FILE = new_file()
OTHER = new_file()


class Decoder:
    """Counts what it decodes; goes on when it is let."""

    def __init__(self, *, error: Exception | None = None, is_held_up: bool = False) -> None:
        self.calls = 0
        self.error = error
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.was_cancelled = False
        if not is_held_up:
            self.may_end.set()

    async def __call__(self) -> list[Any]:
        self.calls += 1
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return [self.calls, {"fps": 30}]


def cost(media: object) -> int:
    """What keeping it takes: what is kept is a copy, and lists are not the same size when they are copied."""
    size_bytes = size_of(own(media))
    assert size_bytes is not None
    return size_bytes + ENTRY_BYTES


async def waiting(
    decoded: DecodedMedia, decoder: Decoder, askers: int
) -> list[asyncio.Task[list[Any]]]:
    """So many askers of the same, all of whom wait for one decoding."""
    tasks = [asyncio.create_task(decoded.decoded(FILE, COARSE, decoder)) for _ in range(askers)]
    await decoder.began.wait()
    return tasks


# ---- who gets what


async def test_second_question_decodes_nothing() -> None:
    """Issue: neither read nor decoded again; and it is told for the metrics."""
    events: list[Event] = []
    decoded = DecodedMedia(max_bytes=PLENTY, observer=events.append)
    decode = Decoder()

    first = await decoded.decoded(FILE, COARSE, decode)
    second = await decoded.decoded(FILE, COARSE, decode)

    assert (first, second, decode.calls) == ([1, {"fps": 30}], [1, {"fps": 30}], 1)
    held, told, reused = events
    assert isinstance(held, MediaDecoded)
    assert held.elapsed_s >= 0
    assert told == DecodedMediaHeld(size_bytes_delta=cost(first))
    assert reused == DecodedMediaReused()
    assert decoded.held_bytes == cost(first)


@pytest.mark.parametrize(
    ("file", "how"),
    [
        (OTHER, COARSE),
        (FILE, FINE),
        (replace(FILE, scope=Scope("tenant-b")), COARSE),
    ],
    ids=["another file of the same content", "other settings", "another scope"],
)
async def test_nothing_else_is_served(file: FileObject, how: Settings) -> None:
    """P7: what is held for one scope is for no other, be the content the same."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()
    await decoded.decoded(FILE, COARSE, decode)

    assert decoded.get(file, how) is None
    assert await decoded.decoded(file, how, decode) == [2, {"fps": 30}]


async def test_later_use_of_the_same_file_finds_it() -> None:
    """Each use changes its row."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    decoded.put(FILE, COARSE, [1])

    assert decoded.get(replace(FILE, last_used_at=99.0, expires_at=9999.0), COARSE) == [1]


async def test_what_cannot_be_told_apart_is_decoded_each_time() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()

    assert (await decoded.decoded(FILE, None, decode))[0] == 1
    assert (await decoded.decoded(FILE, None, decode))[0] == 2
    decoded.put(FILE, None, [3])
    assert decoded.get(FILE, None) is None
    assert decoded.held_bytes == 0


async def test_nobody_can_change_what_others_get() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder(is_held_up=True)
    tasks = await waiting(decoded, decode, 3)
    decode.may_end.set()

    for media in await asyncio.gather(*tasks):
        assert media == [1, {"fps": 30}]
        media[1]["fps"] = None
        media.append("mine")
    for _ in range(2):
        known = decoded.get(FILE, COARSE)
        assert known == [1, {"fps": 30}]
        known[1].clear()


async def test_put_returns_what_everybody_gets_and_keeps_another() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    media = decoded.put(FILE, COARSE, MediaWithBytes([1], b"encoded"))
    assert isinstance(media, MediaWithBytes)
    media.media.append(2)

    assert decoded.get(FILE, COARSE) == MediaWithBytes([1], b"encoded")


async def test_what_is_of_no_known_kind_is_handed_through() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    frames = [object()]

    async def decode() -> list[object]:
        return frames

    assert await decoded.decoded(FILE, COARSE, decode) is frames
    assert decoded.put(FILE, COARSE, frames) is frames
    assert decoded.get(FILE, COARSE) is None


# ---- who waits for whom


async def test_all_who_ask_at_once_wait_for_one_decoding() -> None:
    events: list[Event] = []
    decoded = DecodedMedia(max_bytes=PLENTY, observer=events.append)
    decode = Decoder(is_held_up=True)
    tasks = await waiting(decoded, decode, 5)

    decode.may_end.set()

    assert await asyncio.gather(*tasks) == [[1, {"fps": 30}]] * 5
    assert decode.calls == 1
    assert [type(event) for event in events].count(DecodedMediaReused) == 4


async def test_too_large_to_be_kept_is_decoded_once_for_all_who_wait() -> None:
    decoded = DecodedMedia(max_bytes=0)
    decode = Decoder(is_held_up=True)
    tasks = await waiting(decoded, decode, 3)

    decode.may_end.set()

    for media in await asyncio.gather(*tasks):
        assert media == [1, {"fps": 30}]
        media.clear()
    assert decoded.held_bytes == 0
    assert await decoded.decoded(FILE, COARSE, decode) == [2, {"fps": 30}]


async def test_who_wait_for_what_cannot_be_copied_decode_for_themselves() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    gate = Decoder(is_held_up=True)

    async def decode() -> list[object]:
        await gate()
        return [object()]

    tasks = [asyncio.create_task(decoded.decoded(FILE, COARSE, decode)) for _ in range(2)]
    await gate.began.wait()
    gate.may_end.set()
    one, other = await asyncio.gather(*tasks)

    assert one[0] is not other[0]
    assert gate.calls == 2


async def test_failure_is_told_to_all_who_wait_and_forgotten() -> None:
    events: list[Event] = []
    decoded = DecodedMedia(max_bytes=PLENTY, observer=events.append)
    broken = Decoder(error=ValueError("damaged"), is_held_up=True)
    tasks = await waiting(decoded, broken, 3)
    broken.may_end.set()

    for task in tasks:
        with pytest.raises(ValueError, match="damaged"):
            await task
    assert (broken.calls, events) == (1, [])
    assert await decoded.decoded(FILE, COARSE, Decoder()) == [1, {"fps": 30}]


@pytest.mark.parametrize("leaves", [0, 1], ids=["who began it", "who joined"])
async def test_one_who_leaves_does_not_end_it_for_the_others(leaves: int) -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder(is_held_up=True)
    tasks = await waiting(decoded, decode, 3)
    tasks[leaves].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks.pop(leaves)

    decode.may_end.set()

    assert await asyncio.gather(*tasks) == [[1, {"fps": 30}]] * 2
    assert decode.calls == 1


async def test_decoding_that_fails_for_its_request_being_gone_is_begun_anew() -> None:
    """P5: its right to open the file ended with it; those who joined have their own."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    gone = Decoder(error=LookupError("the handle is gone"), is_held_up=True)
    mine = Decoder()
    (first,) = await waiting(decoded, gone, 1)
    others = [asyncio.create_task(decoded.decoded(FILE, COARSE, mine)) for _ in range(3)]
    await asyncio.sleep(0)  # one turn of the loop: they have joined
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gone.may_end.set()

    assert await asyncio.gather(*others) == [[1, {"fps": 30}]] * 3
    assert (gone.calls, mine.calls) == (1, 1)


async def test_decoding_that_nobody_waits_for_is_cancelled() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder(is_held_up=True)
    tasks = await waiting(decoded, decode, 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert await decoded.decoded(FILE, COARSE, Decoder()) == [1, {"fps": 30}]
    assert decode.was_cancelled


# ---- bounds


async def test_least_recently_used_goes_first() -> None:
    events: list[Event] = []
    one = cost([0])
    decoded = DecodedMedia(max_bytes=3 * one, observer=events.append)
    files = [new_file() for _ in range(4)]
    for n, file in enumerate(files[:3]):
        decoded.put(file, COARSE, [n])
    assert decoded.get(files[0], COARSE) == [0]

    decoded.put(files[3], COARSE, [3])

    assert [decoded.get(file, COARSE) for file in files] == [[0], None, [2], [3]]
    assert events.count(DecodedMediaEvicted()) == 1
    assert decoded.held_bytes == 3 * one


async def test_larger_than_the_whole_is_not_kept_and_displaces_nothing() -> None:
    decoded = DecodedMedia(max_bytes=cost([0]))
    decoded.put(FILE, COARSE, [0])

    assert decoded.put(OTHER, COARSE, [b"x" * 1000]) == [b"x" * 1000]

    assert decoded.get(OTHER, COARSE) is None
    assert decoded.get(FILE, COARSE) == [0]


async def test_zero_keeps_nothing() -> None:
    decoded = DecodedMedia(max_bytes=0)
    decode = Decoder()

    await decoded.decoded(FILE, COARSE, decode)
    await decoded.decoded(FILE, COARSE, decode)

    assert (decode.calls, decoded.held_bytes) == (2, 0)


@settings(max_examples=200)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "forget"]),
            st.integers(0, 4),
            st.sampled_from([COARSE, FINE]),
            st.integers(0, 4000),
        ),
        max_size=60,
    )
)
def test_bound_order_and_account_hold_whatever_happens(
    steps: list[tuple[str, int, Settings, int]],
) -> None:
    """Against a list, least recently used first; what is told adds up to what is held, and is never too much."""
    max_bytes = 10_000
    told = 0

    def observe(event: Event) -> None:
        nonlocal told
        if isinstance(event, DecodedMediaHeld):
            told += event.size_bytes_delta
            assert 0 <= told <= max_bytes

    decoded = DecodedMedia(max_bytes=max_bytes, observer=observe)
    files = [new_file() for _ in range(5)]
    expected: list[tuple[int, Settings, bytes]] = []

    for what, n, how, size_bytes in steps:
        same = [entry for entry in expected if entry[:2] == (n, how)]
        match what:
            case "put":
                media = b"x" * size_bytes
                decoded.put(files[n], how, media)
                if cost(media) <= max_bytes:
                    expected = [entry for entry in expected if entry not in same]
                    expected.append((n, how, media))
                while sum(cost(entry[2]) for entry in expected) > max_bytes:
                    del expected[0]
            case "get":
                found = decoded.get(files[n], how)
                assert found == (same[0][2] if same else None)
                expected = [entry for entry in expected if entry not in same] + same
            case "forget":
                decoded.forget([files[n].id])
                expected = [entry for entry in expected if entry[0] != n]
        assert decoded.held_bytes == told == sum(cost(entry[2]) for entry in expected)

    for n, how, media in expected:
        assert decoded.get(files[n], how) == media


def test_threads_do_not_upset_the_account() -> None:
    told: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, DecodedMediaHeld):
            told.append(event.size_bytes_delta)

    decoded = DecodedMedia(max_bytes=20_000, observer=observe)
    files = [new_file() for _ in range(6)]
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for n in range(300):
            file = files[(n * seed) % 6]
            decoded.put(file, COARSE, b"x" * (n * 7 % 3000))
            decoded.get(files[n % 6], COARSE)
            if n % 10 == 0:
                decoded.forget([file.id])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    held = [media for file in files if (media := decoded.get(file, COARSE)) is not None]
    assert decoded.held_bytes == sum(told) == sum(map(cost, held))
    decoded.forget([file.id for file in files])
    assert decoded.held_bytes == 0


# ---- what is gone


async def test_forgotten_is_decoded_anew() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()
    for how in (COARSE, FINE):
        await decoded.decoded(FILE, how, decode)
    await decoded.decoded(OTHER, COARSE, decode)

    decoded.forget([FILE.id, FileId("file-" + "0" * 32)])

    assert decoded.get(FILE, COARSE) is None
    assert decoded.get(FILE, FINE) is None
    assert decoded.get(OTHER, COARSE) is not None
    assert await decoded.decoded(FILE, COARSE, decode) == [4, {"fps": 30}]


async def test_forgotten_while_it_is_decoded_is_not_kept() -> None:
    """The request that began it is answered; the next one begins anew."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    before = Decoder(is_held_up=True)
    (task,) = await waiting(decoded, before, 1)

    decoded.forget([FILE.id])
    after = Decoder()
    assert await decoded.decoded(FILE, FINE, after) == [1, {"fps": 30}]
    assert await decoded.decoded(FILE, COARSE, after) == [2, {"fps": 30}]
    decoded.forget([FILE.id])
    before.may_end.set()

    assert await task == [1, {"fps": 30}]
    assert decoded.held_bytes == 0


@pytest.mark.parametrize("removed", [FileDeleted, FileExpired, FileEvicted])
async def test_what_this_process_removes_leaves_memory_at_once(
    removed: type[FileDeleted | FileExpired | FileEvicted],
) -> None:
    """Deleted, expired, evicted."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    decoded.put(FILE, COARSE, [1])

    decoded.heed(FileResolved(scope=FILE.scope, file_id=FILE.id, size_bytes=1))
    assert decoded.held_bytes
    decoded.heed(removed(scope=FILE.scope, file_id=FILE.id, size_bytes=1))

    assert decoded.held_bytes == 0


class Leased(TypedDict):
    file_id: FileId
    scope: Scope


async def ask(
    store: Store, decoded: DecodedMedia, decode: Decoder, *, file_id: FileId, scope: Scope
) -> list[Any] | None:
    """As a request does it: a lease for its scope comes first; None: it gets none."""
    hold = await store.claims.hold([file_id], scope=scope)
    try:
        file = hold.files.get(file_id)
        return None if file is None else await decoded.decoded(file, COARSE, decode)
    finally:
        await hold.release()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path, clock) as opened:
        yield opened


async def test_what_another_process_deletes_is_never_served_again_and_leaves_memory(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    """P7: the index decides who gets it, whatever is still in memory."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()
    gone, kept = await store.receive(), await store.receive()
    for file in (gone, kept):
        await ask(store, decoded, decode, file_id=file.id, scope=DEFAULT_SCOPE)
    both = decoded.held_bytes

    async with stores.opened(tmp_path, clock) as other_process:
        await other_process.files.delete(gone.id, scope=DEFAULT_SCOPE)

    of_gone = Leased(file_id=gone.id, scope=DEFAULT_SCOPE)
    assert await ask(store, decoded, decode, **of_gone) is None
    await decoded.check(store.claims.exists)
    assert decoded.held_bytes == both // 2
    assert decoded.get(gone, COARSE) is None
    assert decoded.get(kept, COARSE) is not None


async def test_expired_file_is_never_served_again_and_leaves_memory(
    store: Store, clock: Clock
) -> None:
    """Without any sweep, nor any traffic."""
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()
    file = await store.receive()
    leased = Leased(file_id=file.id, scope=DEFAULT_SCOPE)
    await ask(store, decoded, decode, **leased)
    clock.now += TTL_S

    assert await ask(store, decoded, decode, **leased) is None
    await decoded.check(store.claims.exists)
    assert decoded.held_bytes == 0


async def test_another_scope_gets_no_lease_and_so_nothing(store: Store) -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decode = Decoder()
    file = await store.receive(scope=Scope("tenant-a"))
    of = partial(ask, store, decoded, decode, file_id=file.id)

    assert await of(scope=Scope("tenant-a")) == [1, {"fps": 30}]
    assert await of(scope=Scope("tenant-b")) is None
    assert await of(scope=Scope("tenant-a")) == [1, {"fps": 30}]
    assert decode.calls == 1


async def test_check_runs_for_ever_whatever_fails() -> None:
    decoded = DecodedMedia(max_bytes=PLENTY)
    decoded.put(FILE, COARSE, [1])
    answers: Iterator[bool | Exception]
    answers = iter([OSError("the index is not reachable"), True, False])
    empty = asyncio.Event()

    async def exists(file_id: FileId) -> bool:
        assert file_id == FILE.id
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            empty.set()
        return answer

    task = asyncio.create_task(decoded.run(exists, every_s=0))
    await empty.wait()

    assert decoded.held_bytes == 0
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# ---- settings


class Slotted(ImageDecoder):
    __slots__ = ("hidden",)


class Listed(list[int]):
    def load_bytes(self, data: bytes) -> object:
        return data


NAMED: dict[str, Any] = {
    "fps": 2,
    "device": "cpu",
    "frames": [1, 2],
    "nested": {"a": (1, 2.5, None, b"x", True)},
}
DIFFERENT: list[Callable[[], object]] = [
    VideoDecoder,
    ImageDecoder,
    lambda: VideoDecoder(num_frames=16),
    lambda: VideoDecoder(num_frames=32.0),
    lambda: VideoDecoder(num_frames="32"),
    lambda: VideoDecoder(num_frames=True),
    lambda: VideoDecoder(num_frames=1),
    lambda: VideoDecoder(num_frames=None),
    lambda: VideoDecoder(ImageDecoder("L")),
    lambda: VideoDecoder(ImageDecoder(dither=True)),
    lambda: VideoDecoder(loader=OtherFrameLoader),
    lambda: VideoDecoder(**NAMED),
    lambda: VideoDecoder(**{**NAMED, "fps": 3}),
    lambda: VideoDecoder(frames=[1, 2]),
    lambda: VideoDecoder(frames=(1, 2)),
    lambda: VideoDecoder(frames={1, 2}),
    lambda: VideoDecoder(frames=frozenset({1, 2})),
    lambda: VideoDecoder(frames=[[1], 2]),
    lambda: VideoDecoder(frames="int(1),int(2)"),
    lambda: VideoDecoder(frames=["1),int(2"]),
    lambda: VideoDecoder(a="b"),
    lambda: VideoDecoder(a=b"b"),
    lambda: VideoDecoder(kind=FrameLoader),
    lambda: VideoDecoder(kind=OtherFrameLoader),
    lambda: VideoDecoder(kind={1: 2}),
    lambda: VideoDecoder(kind={"1": 2}),
]


def test_settings_are_the_same_for_equal_decoders_and_no_others() -> None:
    told = [settings_of(make()) for make in DIFFERENT]

    assert None not in told
    assert len(set(told)) == len(DIFFERENT)
    assert [settings_of(make()) for make in DIFFERENT] == told
    turned_round = VideoDecoder(**dict(reversed(NAMED.items())))
    assert settings_of(turned_round) == settings_of(VideoDecoder(**NAMED))


def test_attribute_that_nobody_has_thought_of_counts() -> None:
    changed = VideoDecoder()
    changed.__dict__["crop"] = (0, 0, 10, 10)

    assert settings_of(changed) is not None
    assert settings_of(changed) != settings_of(VideoDecoder())


def test_settings_are_the_same_in_every_process() -> None:
    """Those of one store agree on what stands for encoded bytes, so on the keys of caches that they share."""
    script = (
        "from decoders import VideoDecoder\n"
        "from mediagate.vllm_plugin.decoded import settings_of\n"
        "print(settings_of(VideoDecoder(names={'a', 'b', 'c'}, fps=2)))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=TESTS,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }

    assert told == {settings_of(VideoDecoder(names={"a", "b", "c"}, fps=2))}


def _endless() -> list[object]:
    endless: list[object] = []
    endless.append(endless)
    return endless


class Local:
    """Its name leads to another class."""

    def load_bytes(self, data: bytes) -> object:
        return data


Hidden = Local


class Local:  # type: ignore[no-redef]
    pass


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: None,
        print,
        threading.Lock(),
        Path("/"),
        bytearray(b"x"),
        DecodedMedia(max_bytes=0),
        Slotted(),
        Listed(),
        Hidden(),
        _endless(),
        10**5000,
        type("Made", (), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_written_down_cannot_be_kept(value: object) -> None:
    """An attribute of a kind that nobody has thought of makes nothing wrong, only slow."""
    assert settings_of(VideoDecoder(unheard_of=value)) is None
    assert settings_of(VideoDecoder(nested=[{"a": value}])) is None
    decoder = VideoDecoder()
    decoder.__dict__["unheard_of"] = value
    assert settings_of(decoder) is None


def test_what_decodes_nothing_has_no_settings() -> None:
    for value in (None, "x", {}, object()):
        assert settings_of(value) is None
