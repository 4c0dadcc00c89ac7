"""The prober on real media, on broken media, and on media made to hurt. Each test starts real child processes."""

import asyncio
import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

import corpus
from mediagate.core.errors import FileNotFound, InternalError, UnreadableMedia, UnsupportedMedia
from mediagate.media.colours import Colour
from mediagate.media.facts import FactsError, MediaFacts, parse_facts
from mediagate.media.probe import READERS, Prober
from mediagate.media.sniff import MEDIA_TYPES

pytestmark = pytest.mark.media

SEED = random.SystemRandom().randrange(2**32)
RED, GREEN, BLUE = (200, 30, 40), (20, 200, 30), (10, 10, 240)


async def probe(
    data: bytes,
    mime_type: str,
    tmp_path: Path,
    max_pixels: int = 50_000_000,
    memory_bytes: int = 1024**3,
) -> MediaFacts:
    path = tmp_path / "media"
    path.write_bytes(data)
    prober = Prober(max_pixels=max_pixels, memory_bytes=memory_bytes)
    return await prober.probe(path, mime_type=mime_type)


async def probe_or_none(data: bytes, mime_type: str, tmp_path: Path) -> MediaFacts | None:
    try:
        return await probe(data, mime_type, tmp_path)
    except UnreadableMedia:
        return None


def is_near(colour: Colour, wanted: corpus.Colour, tolerance: int = 12) -> bool:
    found = (colour.red, colour.green, colour.blue)
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def child(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", sorted(corpus.CLIPS))
async def test_clip_is_measured_as_it_was_encoded(container: str, tmp_path: Path) -> None:
    media = corpus.encode_clip(
        container=container, width=96, height=64, fps=25, seconds=1.2, colours=(RED, GREEN, BLUE)
    )

    facts = await probe(media.data, media.mime_type, tmp_path)

    assert facts.video is not None
    assert (facts.video.width, facts.video.height) == (96, 64)
    assert facts.video.codec == media.video_codec
    assert facts.video.frame_rate in {25, None}
    assert [track.codec for track in facts.audio] == [media.audio_codec]
    assert facts.audio[0].sample_rate_hz == media.sample_rate
    assert facts.duration_s == pytest.approx(1.2, abs=0.15)
    assert facts.undecoded_samples == 0
    assert is_near(facts.frames[0].colour, RED)
    assert is_near(facts.frames[2].colour, GREEN)
    assert is_near(facts.frames[4].colour, BLUE)


@pytest.mark.parametrize("container", sorted(corpus.SOUNDS))
async def test_sound_is_measured_as_it_was_encoded(container: str, tmp_path: Path) -> None:
    media = corpus.encode_sound(container=container, seconds=0.7)

    facts = await probe(media.data, media.mime_type, tmp_path)

    assert facts.video is None
    assert facts.image is None
    assert facts.frames == ()
    (track,) = facts.audio
    assert track.codec == media.audio_codec
    assert (track.sample_rate_hz, track.channels) == (media.sample_rate, media.channels)
    assert facts.duration_s == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("container", sorted(corpus.IMAGES))
async def test_image_is_measured_as_it_was_encoded(container: str, tmp_path: Path) -> None:
    media = corpus.encode_image(container=container, width=37, height=21, colours=(GREEN, RED))

    facts = await probe(media.data, media.mime_type, tmp_path)

    assert facts.image is not None
    assert (facts.image.width, facts.image.height) == (37, 21)
    assert facts.image.format == corpus.IMAGES[container].format
    assert facts.image.frame_count == len(media.colours)
    assert len(facts.frames) == len(media.colours)
    assert all(is_near(f.colour, c) for f, c in zip(facts.frames, media.colours, strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
async def test_image_modes_keep_their_brightness(mode: str, tmp_path: Path) -> None:
    from PIL import Image

    target = io.BytesIO()
    light = (
        Image.new(mode, (8, 8), 0x8000)
        if mode == "I;16"
        else Image.new("L", (8, 8), 128).convert("RGB").convert(mode)
    )
    light.save(target, "TIFF" if mode == "CMYK" else "PNG")

    facts = await probe(
        target.getvalue(), "image/tiff" if mode == "CMYK" else "image/png", tmp_path
    )

    assert facts.frames[0].colour.brightness_percent == pytest.approx(50, abs=2)


async def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(target, "PNG")

    facts = await probe(target.getvalue(), "image/png", tmp_path)

    assert facts.frames[0].colour.name == "white"


async def test_orientation_of_a_photo_is_reported(tmp_path: Path) -> None:
    from PIL import Image

    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), RED).save(target, "JPEG", exif=exif)

    facts = await probe(target.getvalue(), "image/jpeg", tmp_path)

    assert facts.image is not None
    assert (facts.image.width, facts.image.height, facts.image.rotation_degrees) == (40, 20, 90)


async def test_cover_picture_is_no_video(tmp_path: Path) -> None:
    import av

    cover = corpus.encode_image(container="jpg").data
    target = io.BytesIO()
    with av.open(target, "w", format="mp3") as output:
        sound = output.add_stream("libmp3lame", rate=48_000, layout="mono")
        with av.open(io.BytesIO(cover), "r", format="jpeg_pipe") as source:
            picture = output.add_stream_from_template(source.streams.video[0])
            picture.disposition = av.stream.Disposition.attached_pic
            packet = next(source.demux())
            packet.stream = picture
            output.mux(packet)
        for _ in range(20):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1152)
            frame.sample_rate = 48_000
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))

    facts = await probe(target.getvalue(), "audio/mpeg", tmp_path)

    assert facts.video is None
    assert facts.audio[0].codec == "mp3"


async def test_recording_without_a_duration_gets_one_counted(tmp_path: Path) -> None:
    media = corpus.encode_clip(container="webm", fps=25, seconds=1.6, muxer_options={"live": "1"})

    facts = await probe(media.data, media.mime_type, tmp_path)

    assert facts.duration_s == pytest.approx(1.6, abs=0.1)
    assert len(facts.frames) == 5


async def test_slides_that_stay_on_screen_are_sampled(tmp_path: Path) -> None:
    media = corpus.encode_clip(fps=1, seconds=4, colours=(RED, GREEN, BLUE, RED), audio=None)

    facts = await probe(media.data, media.mime_type, tmp_path)

    assert facts.undecoded_samples == 0
    assert [frame.at_s for frame in facts.frames] == [0, 1, 2, 3]


async def test_open_file_keeps_its_position(tmp_path: Path) -> None:
    media = corpus.encode_clip()
    path = media.write(tmp_path)

    with path.open("rb") as file:
        file.seek(17)
        os.lseek(file.fileno(), 17, os.SEEK_SET)
        by_file = await Prober().probe(file, mime_type=media.mime_type)
        by_descriptor = await Prober().probe(file.fileno(), mime_type=media.mime_type)

        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 17

    assert by_file == by_descriptor == await Prober().probe(path, mime_type=media.mime_type)


def test_every_type_of_the_sniffer_has_a_reader() -> None:
    assert set(READERS) >= MEDIA_TYPES


async def test_type_without_a_reader_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="application/pdf"):
        await probe(b"%PDF-1.7", "application/pdf", tmp_path)


# --- broken media -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "decoded"), [(0.3, 1), (0.5, 2), (0.75, 4)])
async def test_truncated_clip_tells_of_frames_that_are_missing(
    keep: float, decoded: int, tmp_path: Path
) -> None:
    index_bytes = 20_000
    media = corpus.encode_clip(
        width=320, height=240, fps=25, seconds=4, colours=[(i * 5, 90, 200 - i) for i in range(40)],
        audio=None, muxer_options={"moov_size": f"{index_bytes}"},
    )  # fmt: skip
    cut = index_bytes + int((len(media.data) - index_bytes) * keep)

    facts = await probe(media.data[:cut], media.mime_type, tmp_path)

    assert facts.duration_s == pytest.approx(4, abs=0.1)
    assert len(facts.frames) + facts.undecoded_samples == 5
    assert len(facts.frames) == pytest.approx(decoded, abs=1)


async def test_clip_of_which_nothing_decodes_is_unreadable(tmp_path: Path) -> None:
    media = corpus.encode_clip(audio=None, muxer_options={"moov_size": "20000"})

    with pytest.raises(UnreadableMedia, match="damaged or incomplete"):
        await probe(media.data[:20_100], media.mime_type, tmp_path)


@pytest.mark.parametrize("container", sorted({*corpus.CLIPS, *corpus.SOUNDS, *corpus.IMAGES}))
async def test_head_alone_is_unreadable_or_measured(container: str, tmp_path: Path) -> None:
    media = _any(container)

    facts = await probe_or_none(media.data[:60], media.mime_type, tmp_path)

    assert facts is None or facts.frames or facts.audio


async def test_flipped_bytes_never_get_past_the_error_tree(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for container in (
        "mp4",
        "webm",
        "avi",
        "ts",
        "ogg",
        "flac",
        "png",
        "gif",
        "animated.webp",
        "tiff",
    ):
        media = _any(container)
        for _ in range(2):
            data = bytearray(media.data)
            for _ in range(rng.randint(1, 40)):
                data[rng.randrange(len(data))] = rng.randrange(256)

            facts = await probe_or_none(bytes(data), media.mime_type, tmp_path)

            assert facts is None or facts.frames or facts.audio or facts.video, SEED


@pytest.mark.parametrize(
    "mime_type", sorted({reader: name for name, reader in READERS.items()}.values())
)
async def test_junk_is_unreadable(mime_type: str, tmp_path: Path) -> None:
    data = random.Random(7).randbytes(5000)

    with pytest.raises(UnreadableMedia):
        await probe(data, mime_type, tmp_path)


async def test_playlist_behind_a_media_type_opens_nothing(tmp_path: Path) -> None:
    secret = corpus.encode_clip(container="ts").write(tmp_path)
    playlist = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    )
    concat = f"ffconcat version 1.0\nfile '{secret}'\n".encode()

    for data in (playlist, concat):
        for mime_type in ("video/mp4", "video/mp2t", "audio/mpeg", "audio/aac"):
            with pytest.raises(UnreadableMedia):
                await probe(data, mime_type, tmp_path)


# --- media made to hurt -----------------------------------------------------------------------------------------------


def _png(width: int, height: int, bits: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bits) + chunk(b"IEND", b"")
    )


async def test_png_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    began = time.monotonic()

    with pytest.raises(UnreadableMedia, match="million pixels"):
        await probe(_png(50_000, 50_000, zlib.compress(bytes(10**6))), "image/png", tmp_path)

    assert time.monotonic() - began < 5


async def test_gif_of_huge_dimensions_is_refused(tmp_path: Path) -> None:
    data = (
        b"GIF89a"
        + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;"
    )

    with pytest.raises(UnreadableMedia, match="million pixels"):
        await probe(data, "image/gif", tmp_path)


async def test_memory_limit_stops_what_the_pixel_limit_lets_through(tmp_path: Path) -> None:
    side = 20_000
    squeezer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    bits = b"".join(squeezer.compress(row) for _ in range(side)) + squeezer.flush()
    data = _png(side, side, bits)

    with pytest.raises(UnreadableMedia, match="more memory"):
        await probe(data, "image/png", tmp_path, max_pixels=10**9, memory_bytes=512 * 1024**2)


async def test_video_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    media = corpus.encode_clip(width=640, height=480, seconds=0.2, audio=None)

    with pytest.raises(UnreadableMedia, match="million pixels"):
        await probe(media.data, media.mime_type, tmp_path, max_pixels=300_000)


# --- the child --------------------------------------------------------------------------------------------------------


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _hanging(pid_file: Path) -> tuple[str, ...]:
    """A child that tells its process id, then neither ends nor answers; as does a process that it started."""
    return child(
        "import os, time, pathlib\n"
        "other = os.fork()\n"
        f"if other: pathlib.Path({str(pid_file)!r}).write_text(f'{{os.getpid()}} {{other}} ')\n"
        "time.sleep(600)"
    )


async def _pids(pid_file: Path) -> list[int]:
    async with asyncio.timeout(20):
        while not pid_file.exists() or not pid_file.read_text().endswith(" "):
            await asyncio.sleep(0.01)
    return [int(pid) for pid in pid_file.read_text().split()]


async def _gone(pids: list[int]) -> None:
    async with asyncio.timeout(
        5
    ):  # an orphan is reaped by another process than us, in its own time
        while any(_is_running(pid) and not _is_zombie(pid) for pid in pids):
            await asyncio.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return False


async def test_hanging_child_is_killed_at_the_timeout(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    # Time enough for the child to tell its process id first.
    prober = Prober(timeout_s=3, command=_hanging(pid_file))

    with pytest.raises(UnreadableMedia, match="within 3 seconds"):
        await prober.probe(corpus.encode_image().write(tmp_path), mime_type="image/png")

    await _gone(await _pids(pid_file))


async def test_cancelled_probe_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    prober = Prober(command=_hanging(pid_file))
    task = asyncio.create_task(
        prober.probe(corpus.encode_image().write(tmp_path), mime_type="image/png")
    )
    pids = await _pids(pid_file)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not _is_running(pids[0])
    await _gone(pids)


async def test_no_more_children_run_than_are_allowed(tmp_path: Path) -> None:
    path = corpus.encode_image().write(tmp_path)
    logs = tmp_path / "log"
    source = (
        "import os, time\n"
        f"log = os.open({str(logs)!r}, os.O_RDWR | os.O_APPEND | os.O_CREAT)\n"
        "os.write(log, b'+')\n"
        "for _ in range(500):\n"  # the first one gives the second time to start
        "    if os.pread(log, 99, 0).count(b'+') > 1: break\n"
        "    time.sleep(0.01)\n"
        "time.sleep(0.1); os.write(log, b'-')"
    )
    prober = Prober(max_children=2, command=child(source))

    await asyncio.gather(
        *(prober.probe(path, mime_type="image/png") for _ in range(6)), return_exceptions=True
    )

    running = [logs.read_text()[:i].count("+") - logs.read_text()[:i].count("-") for i in range(13)]
    assert max(running) == 2


@pytest.mark.parametrize(
    "source",
    [
        "pass",
        "print('no json')",
        "print('[' * 50000)",
        "print('[]')",
        "print('{\"facts\": null}')",
        'print(\'{"facts": {"audio": NaN}}\')',
        "print('x' * 10**7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    ],
)
async def test_child_that_dies_or_lies_is_unreadable_media(source: str, tmp_path: Path) -> None:
    prober = Prober(command=child(source))

    with pytest.raises(UnreadableMedia):
        await prober.probe(corpus.encode_image().write(tmp_path), mime_type="image/png")


async def test_child_sees_no_secret_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAGATE_API_KEY", "hunter2")
    seen = tmp_path / "seen"
    prober = Prober(
        command=child(f"import os; open({str(seen)!r}, 'w').write(str(dict(os.environ)))")
    )

    with pytest.raises(UnreadableMedia):
        await prober.probe(corpus.encode_image().write(tmp_path), mime_type="image/png")

    assert "PATH" in seen.read_text()
    assert "hunter2" not in seen.read_text()


@pytest.mark.parametrize(
    "attempt", ["open('/etc/hostname')", "import socket; socket.socket()", "os.dup(0)"]
)
def test_sealed_child_opens_nothing(attempt: str) -> None:
    source = (
        "import os, socket, sys\n"
        "from mediagate.media.probe_child import seal\n"
        "seal()\n"
        f"try:\n    {attempt}\nexcept OSError as error:\n    os.write(1, str(error.errno).encode())\nos._exit(0)"
    )

    answer = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)

    assert answer.stdout == b"24"


@pytest.mark.parametrize(
    ("library", "mime_type"), [("av", "video/mp4"), ("PIL.Image", "image/png")]
)
async def test_library_that_opens_a_file_of_its_own_fails(
    library: str, mime_type: str, tmp_path: Path
) -> None:
    source = (
        f"import {library}\n"
        "from mediagate.media import probe_child\n"
        f"{library}.open = lambda *_, **__: open('/etc/hostname')\n"
        "probe_child.main()"
    )
    prober = Prober(command=child(source))

    with pytest.raises(InternalError):
        await prober.probe(corpus.encode_image().write(tmp_path), mime_type=mime_type)


async def test_path_that_leads_nowhere_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFound):
        await Prober().probe(tmp_path / "gone", mime_type="image/png")


async def test_missing_extra_is_named(tmp_path: Path) -> None:
    prober = Prober(command=child('print(\'{"refused": "extra"}\')'))

    with pytest.raises(Exception, match=r"pip install 'mediagate\[media\]'"):
        await prober.probe(corpus.encode_image().write(tmp_path), mime_type="image/png")


def test_server_side_loads_no_decoder() -> None:
    source = (
        "import sys, mediagate.media.probe, mediagate.gateway.inspector\n"
        "print([name for name in ('av', 'PIL', 'numpy') if name in sys.modules])"
    )

    answer = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=True, text=True
    )

    assert answer.stdout == "[]\n"


# --- facts and colours ------------------------------------------------------------------------------------------------

WHOLE = {
    "container": "mov", "duration_s": 1.5, "bit_rate_bps": 1000, "audio": [], "image": None, "undecoded_samples": 0,
    "video": {
        "codec": "h264", "width": 2, "height": 2, "rotation_degrees": 0,
        "frame_rate": "30000/1001", "frame_count": None, "pixel_format": "yuv420p",
    },
    "frames": [{"number": None, "at_s": 0.5, "rgb": [1, 2, 3]}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("duration_s",), -1), (("duration_s",), float("nan")), (("duration_s",), float("inf")), (("duration_s",), "1"),
        (("bit_rate_bps",), 1.5), (("bit_rate_bps",), True), (("bit_rate_bps",), 2**60),
        (("container",), "a\nb"), (("container",), "x" * 100), (("container",), 7),
        (("audio",), None), (("audio",), [None]), (("audio",), [{}] * 65),
        (("video", "width"), "2"), (("video", "frame_rate"), "1/0"), (("video", "frame_rate"), "nan"),
        (("video", "codec"), "<script>"), (("video", "codec"), None), (("frames", 0, "rgb"), [1, 2]),
        (("frames", 0, "rgb"), [1, 2, 256]), (("undecoded_samples",), None),
    ],
)  # fmt: skip
def test_facts_of_a_wrong_type_or_range_are_refused(
    path: tuple[str | int, ...], value: object
) -> None:
    facts = json.loads(json.dumps(WHOLE))
    assert parse_facts(facts).container == "mov"
    holder = facts
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value

    with pytest.raises(FactsError):
        parse_facts(facts)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"), ((60, 60, 60), "dark grey"),
        ((255, 0, 0), "red"), ((0, 255, 0), "green"), ((0, 0, 255), "blue"), ((255, 255, 0), "yellow"),
        ((0, 255, 255), "cyan"), ((255, 128, 0), "orange"), ((120, 60, 10), "brown"), ((128, 0, 200), "purple"),
        ((255, 0, 200), "pink"), ((0, 60, 0), "dark green"), ((180, 200, 255), "light blue"),
    ],
)  # fmt: skip
def test_colours_have_the_names_that_people_use(rgb: corpus.Colour, name: str) -> None:
    assert Colour(*rgb).name == name


def test_brightness_and_hex_of_a_colour() -> None:
    assert (Colour(255, 255, 255).brightness_percent, Colour(0, 0, 0).brightness_percent) == (
        100,
        0,
    )
    assert Colour(0, 171, 5).hex == "#00ab05"


def _any(container: str) -> corpus.Media:
    if container in corpus.CLIPS:
        return corpus.encode_clip(container=container)
    if container in corpus.SOUNDS:
        return corpus.encode_sound(container=container)
    return corpus.encode_image(container=container)
