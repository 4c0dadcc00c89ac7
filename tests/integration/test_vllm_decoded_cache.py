"""Decoded media that a real vLLM keeps: nothing is decoded twice that is kept, and nothing is kept that should be gone.

What happened is read off `/metrics`. vLLM keeps no processed media here, so that the memory of its process is ours.
"""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
import vllm_questions as questions
import vllm_servers
from corpus import Media
from servers import Answer
from vllm_questions import CHAT, Asker, Said, by_id, chat, inline
from vllm_servers import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.media]

MIB = 1024**2
BOUND_GB = "0.1"
BOUND_BYTES = int(0.1 * 1024**3)
TTL_S = 5
FPS = 2
"""So many frames of a second are decoded, for this model, unless a request wants others."""
FRAMES = 32
RELEASED_S = 60.0
"""Files of other processes are asked for every 30 s."""
LONGER = {"expires_after__anchor": "created_at", "expires_after__seconds": "3600"}


@dataclass(frozen=True, slots=True)
class Counts:
    """What `/metrics` says of decoded media, all API servers together."""

    decodings: int
    reuses: int
    evictions: int
    held_bytes: int

    def since(self, before: "Counts") -> tuple[int, int]:
        """How much was decoded, and how much was not as it was there already."""
        return self.decodings - before.decodings, self.reuses - before.reuses


def counts(server: VllmServer) -> Counts:
    text = servers.get(server, "/metrics").body.decode()

    def value(name: str) -> int:
        (found,) = re.findall(rf"^mediagate_{name} (\S+)$", text, re.MULTILINE)
        return int(float(found))

    return Counts(
        value("decodings_total"),
        value("decoded_reuses_total"),
        value("decoded_evictions_total"),
        value("decoded_held_bytes"),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    flags = (
        *("--file-upload-decoded-cache-gb", BOUND_GB, "--file-upload-ttl-seconds", str(TTL_S)),
        *("--mm-processor-cache-gb", "0", "--trust-request-mm-kwargs"),
    )
    with vllm_servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture
def asker(server: VllmServer) -> Iterator[Asker]:
    """Afterwards nothing is there and nothing is kept."""
    asker = Asker(server)
    yield asker
    for file in asker.request("GET", "/v1/files").json()["data"]:
        assert asker.delete(file["id"]).status == 200
    assert counts(server).held_bytes == 0
    # What expired goes with the next sweep.
    servers.until(lambda: server.is_clean() and server.leases() == 0, timeout_s=30)


def upload(server: VllmServer, media: Media) -> str:
    """For an hour."""
    return str(servers.upload(server, media.data, filename=media.filename, **LONGER)["id"])


def ask(asker: Asker, file_id: str, media: Media, **more: Any) -> Said:
    answer = post(asker, file_id, media, **more)
    assert answer.status == 200, answer
    return questions.read_chat(answer.json())


def post(asker: Asker, file_id: str, media: Media, **more: Any) -> Answer:
    return asker.post(CHAT, chat(by_id(file_id, media).part, **more))


def at_rate(fps: int) -> dict[str, Any]:
    return {"media_io_kwargs": {"video": {"fps": fps}}}


@contextlib.contextmanager
def unreadable(server: VllmServer) -> Iterator[None]:
    """All bytes of all files are gone meanwhile."""
    blobs = [path for path in (server.store / "blobs").glob("*/*") if path.is_file()]
    assert blobs
    for blob in blobs:
        blob.rename(blob.with_suffix(".away"))
    try:
        yield
    finally:
        for blob in blobs:
            blob.with_suffix(".away").rename(blob)


def clip(number: int = 0, *, width: int = 320, height: int = 240, fps: int = FPS) -> Media:
    """`FRAMES` frames; no two numbers have the same bytes."""
    colour = (40 + number * 7 % 200, 200 - number * 5 % 200, 90)
    return corpus.encode_clip(
        width=width, height=height, fps=fps, seconds=FRAMES / fps,
        colours=(colour, (200, 10, 10)), audio=None,
    )  # fmt: skip


def decoded_bytes(media: Media) -> int:
    assert media.width is not None
    assert media.height is not None
    return FRAMES * media.width * media.height * 3


# what is kept --------------------------------------------------------------------------------------------


def test_what_is_counted_is_what_is_held_and_never_more_than_allowed(
    server: VllmServer, asker: Asker
) -> None:
    """The first of all tests, as memory that was once used may be used again unseen."""
    ask(asker, upload(server, clip()), clip())  # whatever is loaded or made once
    rss_before, before = rss_bytes(server), counts(server)
    media = [clip(number) for number in range(1, 13)]
    files = [upload(server, each) for each in media]
    for file_id, each in zip(files, media, strict=True):
        ask(asker, file_id, each)

    grown_bytes, held = rss_bytes(server) - rss_before, counts(server)

    held_bytes = held.held_bytes - before.held_bytes
    assert held.evictions == before.evictions
    assert held_bytes == pytest.approx(sum(map(decoded_bytes, media)), rel=0.01)
    assert 0.8 * held_bytes < grown_bytes < 1.6 * held_bytes

    for number in range(13, 37):
        ask(asker, upload(server, clip(number)), clip(number))
        assert BOUND_BYTES * 0.9 < counts(server).held_bytes <= BOUND_BYTES or number < 16
    last = counts(server)
    assert last.evictions - held.evictions >= 20
    assert rss_bytes(server) - rss_before < 1.6 * BOUND_BYTES


def rss_bytes(server: VllmServer) -> int:
    """Of the process that answers and decodes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found) * 1024


@pytest.mark.parametrize("kind", ["video", "image"])
def test_second_question_neither_reads_nor_decodes(
    server: VllmServer, asker: Asker, kind: str
) -> None:
    """The bytes are gone meanwhile; the answer and the length of the question are those by value."""
    media = clip() if kind == "video" else questions.image(questions.RED)
    file_id = upload(server, media)
    before = counts(server)
    first = ask(asker, file_id, media)
    assert counts(server).since(before) == (1, 0)

    with unreadable(server):
        again = [ask(asker, file_id, media) for _ in range(3)]
        elsewhere = asker.post(
            "/tokenize", {"model": "tiny", "messages": chat(by_id(file_id, media).part)["messages"]}
        )
        anew = post(asker, file_id, media, media_io_kwargs={kind: {"num_frames": 7}})

    assert again == [first] * 3
    assert elsewhere.json()["count"] == first.prompt_tokens
    assert anew.status == 404, "without the bytes nothing can be decoded"
    assert counts(server).since(before) == (1, 4)
    assert asker.ask(questions.IN_CHAT["file"], inline(media)) == first
    assert counts(server).since(before) == (1, 4)


def test_other_settings_decode_anew_and_are_kept_beside(server: VllmServer, asker: Asker) -> None:
    media = clip(fps=4)
    file_id = upload(server, media)
    before = counts(server)

    said = {fps: ask(asker, file_id, media, **at_rate(fps)) for fps in (1, 2, 4)}

    assert counts(server).since(before) == (3, 0)
    assert len({each.prompt_tokens for each in said.values()}) == 3
    for fps, first in said.items():
        assert ask(asker, file_id, media, **at_rate(fps)) == first
        by_value = chat(inline(media).part, **at_rate(fps))
        assert questions.read_chat(asker.post(CHAT, by_value).json()) == first
    assert counts(server).since(before) == (3, 3)
    assert counts(server).held_bytes == pytest.approx(decoded_bytes(media) * 7 / 4, rel=0.01)


def test_equal_bytes_under_another_id_are_another_file(server: VllmServer, asker: Asker) -> None:
    """It has an owner and a life of its own."""
    media = clip()
    files = [upload(server, media) for _ in range(2)]
    before = counts(server)

    said = [ask(asker, file_id, media) for file_id in files]

    assert said[0] == said[1]
    assert counts(server).since(before) == (2, 0)


def test_all_who_ask_at_once_are_answered_from_one_decoding(
    server: VllmServer, asker: Asker
) -> None:
    media = clip(width=640, height=480)
    file_id = upload(server, media)
    expected = asker.ask(questions.IN_CHAT["file"], inline(media))
    before = counts(server)

    heard = at_once([lambda: ask(asker, file_id, media)] * 12)

    assert heard == [expected] * 12
    assert counts(server).since(before) == (1, 11)


def at_once(calls: list[Any]) -> list[Any]:
    heard: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def call(number: int) -> None:
        start.wait()
        heard[number] = calls[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def test_nobody_writes_to_what_all_share(server: VllmServer, asker: Asker) -> None:
    """After fifty questions, some of them at once, the frames are still those of the file."""
    media = clip()
    file_id = upload(server, media)
    expected = asker.ask(questions.IN_CHAT["file"], inline(media))
    before = counts(server)

    for _ in range(10):
        heard = at_once([lambda: ask(asker, file_id, media)] * 5)
        assert heard == [expected] * 5

    assert counts(server).since(before) == (1, 49)


def test_too_large_to_be_kept_is_decoded_each_time_and_displaces_nothing(
    server: VllmServer, asker: Asker
) -> None:
    small, large = clip(), clip(width=1280, height=960)
    assert decoded_bytes(large) > BOUND_BYTES
    of_small, of_large = upload(server, small), upload(server, large)
    ask(asker, of_small, small)
    before = counts(server)

    said = [ask(asker, of_large, large) for _ in range(2)]

    assert said[0] == said[1] == asker.ask(questions.IN_CHAT["file"], inline(large))
    assert counts(server).since(before) == (2, 0)
    assert counts(server).held_bytes == before.held_bytes
    ask(asker, of_small, small)
    assert counts(server).since(before) == (2, 1)


def test_the_least_recently_used_makes_room(server: VllmServer, asker: Asker) -> None:
    """Three of four fit."""
    media = [clip(number, width=640, height=480) for number in range(4)]
    assert 3 * decoded_bytes(media[0]) < BOUND_BYTES < 4 * decoded_bytes(media[0])
    files = [upload(server, each) for each in media]
    for number in (0, 1, 2, 0, 3):
        ask(asker, files[number], media[number])
    before = counts(server)

    for number in (0, 2, 3):
        ask(asker, files[number], media[number])
    assert counts(server).since(before) == (0, 3)
    ask(asker, files[1], media[1])

    assert counts(server).since(before) == (1, 3)
    assert counts(server).evictions - before.evictions == 1


# what is gone --------------------------------------------------------------------------------------------


def test_deleted_is_gone_from_memory_at_once(server: VllmServer, asker: Asker) -> None:
    """P5, P7: and from no answer can anybody tell that it was ever there."""
    media = clip()
    kept, gone = upload(server, media), upload(server, media)
    ask(asker, kept, media)
    before = counts(server).held_bytes
    ask(asker, gone, media)
    ask(asker, gone, media, **at_rate(1))
    assert counts(server).held_bytes > before

    assert asker.delete(gone).status == 200

    assert counts(server).held_bytes == before
    assert post(asker, gone, media).code == (404, "file_not_found")
    assert counts(server).held_bytes == before


def test_deleted_while_it_is_asked_about_is_answered_and_not_kept(
    server: VllmServer, asker: Asker
) -> None:
    """Whatever comes first: an answer that had begun is right, later ones are 404, and soon nothing stays."""
    media = clip(width=640, height=480)
    expected = asker.ask(questions.IN_CHAT["file"], inline(media))
    for _ in range(5):
        file_id = upload(server, media)
        heard = at_once(
            [
                *[lambda file_id=file_id: post(asker, file_id, media)] * 4,
                lambda file_id=file_id: asker.delete(file_id),
            ]
        )

        assert heard.pop().status == 200
        for answer in heard:
            if answer.status == 200:
                assert questions.read_chat(answer.json()) == expected
            else:
                assert answer.code == (404, "file_not_found")
        assert post(asker, file_id, media).code == (404, "file_not_found")
    servers.until(lambda: counts(server).held_bytes == 0, timeout_s=RELEASED_S)


def test_removed_by_others_or_by_time_is_served_no_more_and_leaves_memory(
    server: VllmServer, asker: Asker
) -> None:
    """P5, P7: a side-car deletes one, and the time of another runs out."""
    media = clip()
    kept, deleted = upload(server, media), upload(server, media)
    ask(asker, kept, media)
    before = counts(server).held_bytes
    ask(asker, deleted, media)
    expired = str(servers.upload(server, media.data, filename="a.mp4")["id"])
    ask(asker, expired, media)
    assert counts(server).held_bytes == pytest.approx(3 * before)

    with servers.serving("--files-only", store=server.store) as side_car:
        assert servers.delete(side_car, f"/v1/files/{deleted}").status == 200
        assert post(asker, deleted, media).code == (404, "file_not_found")
        servers.until(
            lambda: servers.get(side_car, f"/v1/files/{expired}").status == 404, timeout_s=30
        )
        assert post(asker, expired, media).code == (404, "file_not_found")

    servers.until(lambda: counts(server).held_bytes == before, timeout_s=RELEASED_S)
    was = counts(server)
    ask(asker, kept, media)
    assert counts(server).since(was) == (0, 1)


# nothing is kept -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keeping_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """Two API servers."""
    flags = ("--file-upload-decoded-cache-gb", "0", "--api-server-count", "2")
    with vllm_servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as started:
        yield started
        assert "Traceback" not in started.log()


def test_zero_keeps_nothing_and_the_counts_are_those_of_all_api_servers(
    keeping_nothing: VllmServer,
) -> None:
    media: Mapping[str, Media] = {"video": clip(), "image": questions.image(questions.BLUE)}
    asker = Asker(keeping_nothing)
    files = {kind: asker.upload(each) for kind, each in media.items()}
    before = counts(keeping_nothing)

    for kind, each in media.items():
        expected = asker.ask(questions.IN_CHAT["file"], inline(each))
        # A connection for each, which the kernel hands to either process.
        assert [ask(asker, files[kind], each) for _ in range(8)] == [expected] * 8

    assert counts(keeping_nothing).since(before) == (16, 0)
    assert counts(keeping_nothing).held_bytes == 0
