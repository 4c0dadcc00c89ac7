"""Our sniffer and libmagic, side by side on files that FFmpeg and Pillow encoded.

What libmagic is allowed to say instead of our type is listed here, each with its reason; all else is a disagreement.
"""

import json
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import corpus
from mediagate.media.libmagic import LibmagicOpinion, decide
from mediagate.media.sniff import HEAD_BYTES, MEDIA_TYPES, sniff

pytestmark = [pytest.mark.services, pytest.mark.media]

SEED = 39_003

AIFF = b"FORM\0\0\0\x40AIFFCOMM\0\0\0\x12\0\1\0\0\0\0\0\x10\x40\x0e\xac\x44" + bytes(40)

OTHER_NAMES = {
    "audio/x-hx-aac-adts": "audio/aac",  # names from before IANA's
    "audio/x-m4a": "audio/mp4",
    "audio/x-wav": "audio/wav",
    "image/x-ms-bmp": "image/bmp",
    "video/x-m4v": "video/mp4",  # Apple's brand for the same boxes
}

LESS_EXACT = {
    # (libmagic, ours): it does not look at the tracks
    ("video/webm", "audio/webm"),
    ("video/x-matroska", "audio/x-matroska"),
    ("video/mp4", "audio/mp4"),
    ("application/ogg", "video/ogg"),
    ("audio/mp4", "video/mp4"),  # Sony's brand, which stands for films too
}

SILENT = {
    "flash.f4v",  # not among its brands
    "video/mp2t",  # it knows the first packet of one kind of stream only
    "video/ogg",  # VP8 in Ogg is none of its codecs
    "audio/mpeg",  # some rates and layers are not in its table
    "audio/aac",
}
"""Types, and one file, of which libmagic may have no opinion."""

# What Debian's ffmpeg has and PyAV has not, or makes in another way. Each ends with the file it writes.
PICTURES = ("-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=2")
SOUND = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=2")
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "theora.ogv": ("video/ogg", (*PICTURES, *SOUND, "-c:v", "libtheora", "-c:a", "libvorbis")),
    "libvorbis.ogg": ("audio/ogg", (*SOUND, "-c:a", "libvorbis")),
    "speex.spx": ("audio/ogg", (*SOUND, "-ar", "16000", "-c:a", "libspeex", "-f", "ogg")),
    "opus.opus": ("audio/ogg", (*SOUND, "-c:a", "libopus")),
    "cells.m2ts": ("video/mp2t", (*PICTURES, *SOUND, "-c:v", "libx264", "-c:a", "aac")),
    "mpeg2.ts": ("video/mp2t", (*PICTURES, *SOUND, "-c:v", "mpeg2video", "-c:a", "mp2")),
    "h264.mpg": ("video/mpeg", (*PICTURES, *SOUND, "-c:v", "mpeg2video", "-f", "dvd")),
    "vcd.mpg": ("video/mpeg", (*PICTURES, *SOUND, "-c:v", "mpeg1video", "-f", "vcd")),
    "sorenson.flv": ("video/x-flv", (*PICTURES, *SOUND, "-c:v", "flv", "-c:a", "libmp3lame")),
    "sound.flv": ("video/x-flv", (*SOUND, "-c:a", "aac")),
    "flash.f4v": ("video/mp4", (*PICTURES, "-c:v", "libx264", "-f", "f4v")),
    "psp.mp4": ("video/mp4", (*PICTURES, *SOUND, "-c:v", "libx264", "-c:a", "aac", "-f", "psp")),
    "fast.mp4": ("video/mp4", (*PICTURES, *SOUND, "-c:v", "libx264", "-movflags", "+faststart")),
    "smooth.ismv": ("video/mp4", (*PICTURES, "-c:v", "libx264", "-f", "ismv")),
    "sound.mp4": ("video/mp4", (*SOUND, "-c:a", "aac")),
    "book.m4b": ("audio/mp4", (*SOUND, "-c:a", "aac", "-f", "ipod")),
    "prores.mov": ("video/quicktime", (*PICTURES, "-c:v", "prores")),
    "h263.3gp": ("video/3gpp", (*PICTURES, "-s", "176x144", "-c:v", "h263")),
    "mjpeg.avi": ("video/x-msvideo", (*PICTURES, *SOUND, "-c:v", "mjpeg", "-c:a", "pcm_s16le")),
    "opendml.avi": ("video/x-msvideo", (*PICTURES, "-c:v", "rawvideo")),
    "sound.webm": ("audio/webm", (*SOUND, "-c:a", "libopus")),
    "sound.mka": ("audio/x-matroska", (*SOUND, "-c:a", "flac")),
    "vp9.webm": ("video/webm", (*PICTURES, "-c:v", "libvpx-vp9", "-deadline", "realtime")),
    "alaw.wav": ("audio/wav", (*SOUND, "-c:a", "pcm_alaw")),
    "large.wav": ("audio/wav", (*SOUND, "-rf64", "always")),
    "tagged.flac": ("audio/flac", (*SOUND, "-metadata", "title=a tone")),
    "fast.mp3": ("audio/mpeg", (*SOUND, "-b:a", "320k")),
    "variable.mp3": ("audio/mpeg", (*SOUND, "-q:a", "9", "-id3v2_version", "3")),
    "slow.mp3": ("audio/mpeg", (*SOUND, "-ar", "8000", "-b:a", "8k", "-write_id3v2", "0")),
    "layer2.mp2": ("audio/mpeg", (*SOUND, "-c:a", "mp2")),
    "surround.aac": ("audio/aac", (*SOUND, "-ac", "6", "-c:a", "aac", "-b:a", "400k")),
    "one.png": ("image/png", (*PICTURES, "-frames:v", "1")),
    "moving.apng": ("image/png", (*PICTURES, "-frames:v", "3", "-f", "apng")),
    "one.jpg": ("image/jpeg", (*PICTURES, "-frames:v", "1")),
    "one.bmp": ("image/bmp", (*PICTURES, "-frames:v", "1")),
    "one.tiff": ("image/tiff", (*PICTURES, "-frames:v", "1", "-s", "640x480")),
    "moving.gif": ("image/gif", (*PICTURES, "-frames:v", "5")),
    "one.webp": ("image/webp", (*PICTURES, "-frames:v", "1")),
}


@pytest.fixture(scope="module")
def libmagic() -> LibmagicOpinion:
    return LibmagicOpinion()


@pytest.fixture(scope="module")
def ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("ffmpeg is not installed")
    return found


def agrees(own: str, opinion: str | None, name: str = "") -> bool:
    if opinion is None:
        return bool({own, name} & SILENT)
    return own == OTHER_NAMES.get(opinion, opinion) or (opinion, own) in LESS_EXACT


@pytest.mark.parametrize("container", [*corpus.CLIPS, *corpus.SOUNDS, *corpus.IMAGES])
def test_files_of_pyav_and_pillow(container: str, libmagic: LibmagicOpinion) -> None:
    rng = random.Random(f"{container} {SEED}")
    draw = next(
        draw
        for table, draw in (
            (corpus.CLIPS, corpus.random_clip),
            (corpus.SOUNDS, corpus.random_sound),
            (corpus.IMAGES, corpus.random_image),
        )
        if container in table
    )
    media = draw(rng, container=container)
    head = media.data[:HEAD_BYTES]

    own, opinion = sniff(head, is_whole=len(media.data) <= HEAD_BYTES), libmagic(head)

    assert own == media.mime_type, f"seed {SEED}"
    assert agrees(own, opinion), f"seed {SEED}: {own}, libmagic {opinion}"
    assert decide(own, opinion, MEDIA_TYPES) == own


@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_ffmpeg(name: str, ffmpeg: str, libmagic: LibmagicOpinion, tmp_path: Path) -> None:
    mime_type, arguments = COMMANDS[name]
    path = tmp_path / name
    subprocess.run([ffmpeg, "-v", "error", "-y", *arguments, "-strict", "-2", path], check=True)
    head = path.read_bytes()[:HEAD_BYTES]

    own, opinion = sniff(head, is_whole=path.stat().st_size <= HEAD_BYTES), libmagic(head)

    assert own == mime_type
    assert agrees(own, opinion, name), f"{own}, libmagic {opinion}"
    assert decide(own, opinion, MEDIA_TYPES) == own


def test_what_the_corpus_was_asked_for_is_what_ffprobe_measures(
    ffmpeg: str, tmp_path: Path
) -> None:
    """The facts of a `Media` are what other tests compare answers with; so they are checked once themselves."""
    probe = str(Path(ffmpeg).with_name("ffprobe"))
    rng = random.Random(SEED)

    for container in ("mp4", "mov", "webm", "mkv", "avi"):
        clip = corpus.random_clip(rng, container=container)
        command = [probe, "-v", "error", "-of", "json", "-show_streams", "-show_format"]
        found = json.loads(
            subprocess.run([*command, clip.write(tmp_path)], check=True, capture_output=True).stdout
        )
        streams = {stream["codec_type"]: stream for stream in found["streams"]}
        pictures, sound = streams["video"], streams.get("audio")
        assert (pictures["width"], pictures["height"]) == (clip.width, clip.height), f"seed {SEED}"
        assert pictures["codec_name"] == clip.video_codec
        assert pictures["avg_frame_rate"] == f"{clip.fps}/1"
        assert clip.seconds is not None
        assert abs(float(found["format"]["duration"]) - clip.seconds) < 0.15
        assert (sound and sound["codec_name"]) == clip.audio_codec
        if sound:
            assert int(sound["sample_rate"]) == clip.sample_rate
            assert sound["channels"] == clip.channels


class TestSecondOpinion:
    def test_hostile_input_stays_refused(self) -> None:
        opinion = LibmagicOpinion()

        for name, data in corpus.HOSTILE:
            head = data[:HEAD_BYTES]
            decided = decide(sniff(head), opinion(head), MEDIA_TYPES)
            assert decided not in MEDIA_TYPES, name

    def test_a_sound_we_do_not_know_is_admitted_where_the_operator_allowed_it(self) -> None:
        opinion = LibmagicOpinion()(AIFF)

        assert decide(sniff(AIFF), opinion, MEDIA_TYPES | {"audio/x-aiff"}) == "audio/x-aiff"
        assert decide(sniff(AIFF), opinion, MEDIA_TYPES) not in MEDIA_TYPES

    def test_it_says_nothing_of_what_it_does_not_know(self) -> None:
        opinion = LibmagicOpinion()

        assert opinion(b"") is None
        assert opinion(dict(corpus.HOSTILE)["noise"]) is None

    def test_many_threads_may_ask_one_object(self) -> None:
        opinion = LibmagicOpinion()
        heads = {"image/png": corpus.png_pixel(), "image/gif": corpus.gif_pixel()}

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(opinion, [*heads.values()] * 200))

        assert answers == [*heads] * 200
