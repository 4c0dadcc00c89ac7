"""Media for tests, encoded when a test asks for it; no binary is committed.

    encode_clip(container="mp4", video="h264", audio="aac", width=64, …) -> Media
    encode_sound(container="flac", seconds=0.5, …)                       -> Media
    encode_image(container="png", width=20, …)                           -> Media
    random_clip(rng) random_sound(rng) random_image(rng)                 -> Media, drawn from a seeded `random.Random`
    CLIPS SOUNDS IMAGES    what each container is encoded with, and the exact MIME type it must be taken for
    HOSTILE                (name, bytes) of what must be refused as media

A `Media` carries its bytes and what was asked of the encoder, which is what an answer about it is compared with.
Codecs round: colours move by a few units, and sound codecs pad a clip by up to a tenth of a second.
"""

import array
import gzip
import io
import math
import random
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

Colour = tuple[int, int, int]
"""Red, green, blue; 0 to 255."""

TONE_HZ = 440


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One encoded file, and what was asked of the encoder.

    Attributes:
        data: The whole file.
        filename: A stem and the usual extension.
        mime_type: The exact type the sniffer must find.
        container: A key of `CLIPS`, `SOUNDS` or `IMAGES`.
        colours: One colour per equal stretch of a clip, or per frame of an animation; one for a still image.
        seconds: Nominal duration; None for a still image.
        video_codec: FFmpeg's name of the codec as a decoder reports it; None without pictures, and for images.
        audio_codec: The same for sound.
    """

    data: bytes
    filename: str
    mime_type: str
    container: str
    width: int | None = None
    height: int | None = None
    fps: int | None = None
    colours: tuple[Colour, ...] = ()
    seconds: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None

    def write(self, directory: Path) -> Path:
        """Write the bytes into `directory` under `filename`."""
        path = directory / self.filename
        path.write_bytes(self.data)
        return path


@dataclass(frozen=True, slots=True)
class ClipForm:
    """How a container of moving pictures is made: FFmpeg's muxer and encoders, and the type it must be taken for."""

    mime_type: str
    muxer: str
    video: str
    audio: str | None


@dataclass(frozen=True, slots=True)
class SoundForm:
    """How a container of sound is made: FFmpeg's muxer and encoder, and the type it must be taken for."""

    mime_type: str
    muxer: str
    codec: str
    rates: tuple[int, ...] = (16_000, 32_000, 44_100, 48_000)
    channels: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, slots=True)
class ImageForm:
    """How an image is made: Pillow's format, and the type it must be taken for."""

    mime_type: str
    format: str
    is_animated: bool = False


CLIPS: Mapping[str, ClipForm] = {
    "mp4": ClipForm("video/mp4", "mp4", "h264", "aac"),
    "mov": ClipForm("video/quicktime", "mov", "h264", "aac"),
    "m4v": ClipForm("video/mp4", "ipod", "h264", "aac"),
    "3gp": ClipForm("video/3gpp", "3gp", "mpeg4", "aac"),
    "3g2": ClipForm("video/3gpp2", "3g2", "mpeg4", "aac"),
    "webm": ClipForm("video/webm", "webm", "vp8", "opus"),
    "mkv": ClipForm("video/x-matroska", "matroska", "h264", "aac"),
    "avi": ClipForm("video/x-msvideo", "avi", "mpeg4", "mp3"),
    "ts": ClipForm("video/mp2t", "mpegts", "h264", "aac"),
    "mpg": ClipForm("video/mpeg", "mpeg", "mpeg1video", "mp2"),
    "vob": ClipForm("video/mpeg", "vob", "mpeg2video", "mp2"),
    "flv": ClipForm("video/x-flv", "flv", "h264", "aac"),
    "ogv": ClipForm("video/ogg", "ogg", "vp8", "opus"),
}

SOUNDS: Mapping[str, SoundForm] = {
    "wav": SoundForm("audio/wav", "wav", "pcm_s16le"),
    "flac": SoundForm("audio/flac", "flac", "flac"),
    "mp3": SoundForm("audio/mpeg", "mp3", "mp3"),
    "mp2": SoundForm("audio/mpeg", "mp2", "mp2"),
    "aac": SoundForm("audio/aac", "adts", "aac"),
    "m4a": SoundForm("audio/mp4", "ipod", "aac"),
    "opus": SoundForm("audio/ogg", "ogg", "opus", (48_000,)),
    "ogg": SoundForm("audio/ogg", "ogg", "vorbis", (44_100, 48_000), (2,)),
    "amr": SoundForm("audio/amr", "amr", "amr_nb", (8_000,), (1,)),
}

IMAGES: Mapping[str, ImageForm] = {
    "png": ImageForm("image/png", "PNG"),
    "jpg": ImageForm("image/jpeg", "JPEG"),
    "webp": ImageForm("image/webp", "WEBP"),
    "gif": ImageForm("image/gif", "GIF"),
    "bmp": ImageForm("image/bmp", "BMP"),
    "tiff": ImageForm("image/tiff", "TIFF"),
    "avif": ImageForm("image/avif", "AVIF"),
    "animated.gif": ImageForm("image/gif", "GIF", is_animated=True),
    "animated.webp": ImageForm("image/webp", "WEBP", is_animated=True),
}

ENCODERS: Mapping[str, str] = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mp3": "libmp3lame",
    "opus": "libopus",
    "amr_nb": "libopencore_amrnb",
}
"""FFmpeg's encoder for a codec, where it is not called like the codec."""

FAST_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


def encode_clip(
    *,
    container: str = "mp4",
    video: str | None = None,
    audio: str | None = "",
    width: int = 64,
    height: int = 48,
    fps: int = 10,
    seconds: float = 1.0,
    colours: Sequence[Colour] = ((200, 30, 40),),
    sample_rate: int = 44_100,
    channels: int = 1,
    stem: str = "clip",
    muxer_options: Mapping[str, str] | None = None,
) -> Media:
    """Moving pictures, with sound unless `audio` is None.

    Args:
        container: A key of `CLIPS`.
        video: Codec, or None for the container's usual one.
        audio: Codec, empty for the container's usual one, None for no sound at all.
        width: Pixels; even.
        height: Pixels; even.
        fps: Whole frames a second. MPEG-1 and 2 know only 24, 25, 30, 50 and 60.
        seconds: Duration; rounded to whole frames.
        colours: Each fills an equal stretch of the clip.
        sample_rate: Of the sound, in Hz; Opus makes it 48,000.
        channels: 1 or 2.
        stem: Filename without extension.
        muxer_options: Passed to FFmpeg's muxer, as `{"movflags": "+faststart"}`.
    """
    form = CLIPS[container]
    video = video or form.video
    audio = form.audio if audio == "" else audio
    if video in {"mpeg1video", "mpeg2video"} and fps not in {24, 25, 30, 50, 60}:
        fps = 25
    sample_rate = 48_000 if audio == "opus" else sample_rate
    count = max(1, round(seconds * fps))
    with _Target() as target, target.open(form.muxer, muxer_options) as output:
        encoder = ENCODERS.get(video, video)
        pictures = output.add_stream(encoder, rate=fps, options=dict(FAST_OPTIONS.get(encoder, {})))
        assert isinstance(pictures, av.VideoStream)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        sound = _add_sound(output, audio, sample_rate, channels) if audio else None
        samples = _sine(count / fps, sample_rate, channels) if sound else iter(())
        sent_s = 0.0
        for number in range(count):
            colour = colours[number * len(colours) // count]
            picture = Image.new("RGB", (width, height), colour)
            frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV's stub says so
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(pictures.encode(frame))
            while (
                sound and sent_s * fps <= number
            ):  # the muxers that interleave nothing get it in order
                heard = next(samples, None)
                if heard is None:
                    break
                sent_s += heard.samples / sample_rate
                output.mux(sound.encode(heard))
        for heard in samples:
            assert sound
            output.mux(sound.encode(heard))
        output.mux(pictures.encode(None))
        if sound:
            output.mux(sound.encode(None))
    return Media(
        data=target.data,
        filename=f"{stem}.{container}",
        mime_type=form.mime_type,
        container=container,
        width=width,
        height=height,
        fps=fps,
        colours=tuple(colours),
        seconds=count / fps,
        video_codec={"flv": "flv1"}.get(video, video),
        audio_codec=audio,
        sample_rate=sample_rate if audio else None,
        channels=channels if audio else None,
    )


def encode_sound(
    *,
    container: str = "wav",
    codec: str | None = None,
    seconds: float = 1.0,
    sample_rate: int = 48_000,
    channels: int = 1,
    stem: str = "sound",
    metadata: Mapping[str, str] | None = None,
    muxer_options: Mapping[str, str] | None = None,
) -> Media:
    """A sine tone.

    Args:
        container: A key of `SOUNDS`, or of `CLIPS` for a container of moving pictures that holds sound only.
        codec: None for the container's usual one.
        seconds: Duration.
        sample_rate: In Hz; the nearest one the codec allows is taken.
        channels: 1 or 2; FFmpeg's Vorbis only knows 2, AMR only 1.
        stem: Filename without extension.
        metadata: Tags of the container.
        muxer_options: Passed to FFmpeg's muxer, as `{"id3v2_version": "0"}`.
    """
    form = SOUNDS.get(container)
    if form is None:
        clip = CLIPS[container]
        assert clip.audio
        form = SoundForm(clip.mime_type, clip.muxer, clip.audio)
    codec = codec or form.codec
    rates = (48_000,) if codec == "opus" else form.rates
    sample_rate = min(rates, key=lambda rate: abs(rate - sample_rate))
    channels = channels if channels in form.channels else form.channels[0]
    with _Target() as target, target.open(form.muxer, muxer_options) as output:
        output.metadata.update(metadata or {})
        stream = _add_sound(output, codec, sample_rate, channels)
        for frame in _sine(seconds, sample_rate, channels):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return Media(
        data=target.data,
        filename=f"{stem}.{container}",
        mime_type=form.mime_type,
        container=container,
        seconds=seconds,
        audio_codec=codec,
        sample_rate=sample_rate,
        channels=channels,
    )


def encode_image(
    *,
    container: str = "png",
    width: int = 32,
    height: int = 24,
    colours: Sequence[Colour] = ((20, 160, 60),),
    frame_ms: int = 100,
    stem: str = "image",
    mode: str = "RGB",
    options: Mapping[str, object] | None = None,
) -> Media:
    """A still image of one colour, or an animation with a frame for each colour.

    Args:
        container: A key of `IMAGES`.
        width: Pixels.
        height: Pixels.
        colours: One; for an animation at least two.
        frame_ms: How long an animation shows a frame.
        stem: Filename without extension.
        mode: Pillow's: `RGB`, `RGBA`, `L`, `1`, `P`.
        options: Passed to Pillow's writer, as `{"quality": 40}`.
    """
    form = IMAGES[container]
    if form.is_animated and len(colours) < 2:
        colours = (*colours, (0, 0, 0))
    frames = [Image.new("RGB", (width, height), colour).convert(mode) for colour in colours]
    extra: dict[str, object] = dict(options or {})
    if form.is_animated:
        extra |= {"save_all": True, "append_images": frames[1:], "duration": frame_ms, "loop": 0}
    target = io.BytesIO()
    frames[0].save(target, form.format, **extra)
    return Media(
        data=target.getvalue(),
        filename=f"{stem}.{container}",
        mime_type=form.mime_type,
        container=container,
        width=width,
        height=height,
        colours=tuple(colours) if form.is_animated else tuple(colours[:1]),
        seconds=len(frames) * frame_ms / 1000 if form.is_animated else None,
    )


def padded(clip: Media, size_bytes: int) -> Media:
    """The same MP4 clip with so much behind it that nobody decodes."""
    return replace(clip, data=clip.data + _box(b"free", bytes(size_bytes - len(clip.data))))


def random_clip(rng: random.Random, *, container: str | None = None) -> Media:
    """A clip of 0.3 to 2 s whose size, rate, colours and sound are drawn from `rng`; about half a second to encode."""
    container = container or rng.choice(sorted(CLIPS))
    return encode_clip(
        container=container,
        width=2 * rng.randint(16, 120),
        height=2 * rng.randint(16, 90),
        fps=rng.choice((24, 25, 30, 50)),
        seconds=rng.uniform(0.3, 2.0),
        colours=[_random_colour(rng) for _ in range(rng.randint(1, 3))],
        audio=rng.choice(("", "", None)),
        sample_rate=rng.choice((32_000, 44_100, 48_000) if container != "flv" else (44_100,)),
        channels=rng.choice((1, 2)),
        stem=f"clip-{rng.randrange(10**6)}",
    )


def random_sound(rng: random.Random, *, container: str | None = None) -> Media:
    """A tone of 0.3 to 2 s whose rate and channels are drawn from `rng`."""
    container = container or rng.choice(sorted(SOUNDS))
    return encode_sound(
        container=container,
        seconds=rng.uniform(0.3, 2.0),
        sample_rate=rng.choice(SOUNDS[container].rates),
        channels=rng.choice((1, 2)),
        stem=f"sound-{rng.randrange(10**6)}",
    )


def random_image(rng: random.Random, *, container: str | None = None) -> Media:
    """An image or animation whose size and colours are drawn from `rng`."""
    container = container or rng.choice(sorted(IMAGES))
    return encode_image(
        container=container,
        width=rng.randint(2, 300),
        height=rng.randint(2, 300),
        colours=[_random_colour(rng) for _ in range(rng.randint(2, 4))],
        stem=f"image-{rng.randrange(10**6)}",
    )


def png_pixel() -> bytes:
    """A PNG of one pixel in 67 bytes: about the smallest there is."""
    return (
        _PNG
        + _png_chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
        + _png_chunk(b"IDAT", zlib.compress(b"\0\0", 9))
        + _png_chunk(b"IEND", b"")
    )


def gif_pixel() -> bytes:
    """A GIF of one pixel in 35 bytes."""
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + b",\0\0\0\0\1\0\1\0\0" + b"\2\2L\1\0;"


def _random_colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


class _Target:
    """A file that a muxer may read again, which moving an index to the front needs; `data` once it is left."""

    def __enter__(self) -> "_Target":
        self._directory = tempfile.TemporaryDirectory()
        self._path = Path(self._directory.name, "media")
        self.data = b""
        return self

    def open(self, muxer: str, options: Mapping[str, str] | None) -> av.container.OutputContainer:
        return av.open(str(self._path), "w", format=muxer, options=dict(options or {}))

    def __exit__(self, *_: object) -> None:
        self.data = self._path.read_bytes() if self._path.exists() else b""
        self._directory.cleanup()


def _add_sound(
    output: av.container.OutputContainer, codec: str, sample_rate: int, channels: int
) -> av.AudioStream:
    layout = "mono" if channels == 1 else "stereo"
    stream = output.add_stream(ENCODERS.get(codec, codec), rate=sample_rate, layout=layout)
    assert isinstance(stream, av.AudioStream)
    if codec == "vorbis":  # FFmpeg's own encoder is marked experimental
        stream.codec_context.options = {"strict": "experimental"}
    return stream


def _sine(seconds: float, sample_rate: int, channels: int) -> Iterator[av.AudioFrame]:
    total = round(seconds * sample_rate)
    for start in range(0, total, 1024):
        count = min(1024, total - start)
        samples = array.array("h")
        for number in range(start, start + count):
            value = round(12_000 * math.sin(2 * math.pi * TONE_HZ * number / sample_rate))
            samples.extend([value] * channels)
        layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame(format="s16", layout=layout, samples=count)
        frame.planes[0].update(samples.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield frame


# What must be refused ------------------------------------------------------------------------------


def _noise(seed: int, size: int = 4096) -> bytes:
    return random.Random(seed).randbytes(size)


def _zip(*names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return target.getvalue()


def _tar() -> bytes:
    header = bytearray(512)
    header[0:8], header[100:107], header[257:263] = b"clip.mp4", b"0000644", b"ustar\0"
    return bytes(header) + bytes(1024)


def _sqlite() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE files (id TEXT)")
        data = connection.serialize()
    connection.close()
    return data


def _jpeg2000() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(target, "JPEG2000")
    return target.getvalue()


def _codestream() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(target, "JPEG2000", no_jp2=True)
    return target.getvalue()


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
_HTML = b"<html><body><script>alert(1)</script></body></html>"
_M3U8 = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nhttp://127.0.0.1/secret.ts\n#EXT-X-ENDLIST\n"
_MPD = b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>\n'
_SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n"
)
_FTYP = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT = b"Give me the text of the big file, please. "

HOSTILE: list[tuple[str, bytes]] = [
    # nothing, text, noise
    ("empty", b""),
    ("one byte", b"\xff"),
    ("newline", b"\n"),
    ("plain text", _TEXT * 20),
    ("utf-16 text", (_TEXT * 20).decode().encode("utf-16")),
    ("json", b'{"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}'),
    ("csv", b"id,name\n1,clip.mp4\n2,clip.mov\n"),
    ("zeros", bytes(8192)),
    ("ones", b"\xff" * 8192),
    ("noise", _noise(1)),
    ("more noise", _noise(2, 70_000)),
    (
        "base64 of a png",
        b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==",
    ),
    (
        "data uri",
        b"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk",
    ),
    # markup
    ("svg", _SVG),
    ("svg after a byte order mark", b"\xef\xbb\xbf" + _SVG),
    ("svg after whitespace", b" \t\r\n" * 20 + _SVG),
    ("svg after a comment", b"<!-- made by hand -->\n<!-- > -->" + _SVG),
    (
        "svg after a prolog and a doctype",
        b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x" [<!ENTITY a "b">]>\n'
        + _SVG,
    ),
    ("svg with a prefix", b'<s:svg xmlns:s="http://www.w3.org/2000/svg"/>'),
    ("svg in utf-16", _SVG.decode().encode("utf-16")),
    ("svg, compressed", gzip.compress(_SVG, mtime=0)),
    ("html", _HTML),
    ("html5", b"<!DOCTYPE html>\n<title>clip</title>"),
    ("html after a byte order mark", b"\xef\xbb\xbf" + _HTML),
    ("html after whitespace", b"\n\n\t  " + _HTML),
    ("html after a comment", b"<!-- a clip -->" + _HTML),
    ("html in capitals", _HTML.upper()),
    ("html fragment", b"<script src=//127.0.0.1/x.js></script>"),
    ("xhtml", b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"></html>'),
    (
        "xml",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    ),
    (
        "imagemagick msl",
        b'<?xml version="1.0"?><image><read filename="/etc/passwd"/><write filename="x.png"/></image>',
    ),
    # scripts and programs
    ("shell script", b"#!/bin/sh\nrm -rf /\n"),
    ("python script", b"#!/usr/bin/env python3\nimport os\n"),
    ("php", b"<?php system($_GET['c']); ?>"),
    ("elf", b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 3, 62, 1) + _noise(3, 200)),
    ("pe", b"MZ\x90\0" + bytes(56) + struct.pack("<I", 64) + b"PE\0\0\x64\x86" + _noise(4, 200)),
    ("mach-o", b"\xcf\xfa\xed\xfe\x07\0\0\x01" + _noise(5, 200)),
    ("java class", b"\xca\xfe\xba\xbe\0\0\0\x41" + _noise(6, 200)),
    ("webassembly", b"\0asm\1\0\0\0" + _noise(7, 200)),
    (
        "pickle",
        b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    ),
    # archives
    ("zip", _zip("clip.mp4")),
    ("empty zip", _zip()),
    ("docx", _zip("[Content_Types].xml", "word/document.xml")),
    ("jar", _zip("META-INF/MANIFEST.MF", "Main.class")),
    ("gzip", gzip.compress(_TEXT, mtime=0)),
    ("bzip2", b"BZh91AY&SY" + _noise(8, 200)),
    ("xz", b"\xfd7zXZ\0\0\4" + _noise(9, 200)),
    ("zstandard", b"\x28\xb5\x2f\xfd" + _noise(10, 200)),
    ("7z", b"7z\xbc\xaf\x27\x1c\0\4" + _noise(11, 200)),
    ("rar", b"Rar!\x1a\x07\x01\0" + _noise(12, 200)),
    ("tar", _tar()),
    # documents and data
    ("pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"),
    ("pdf after junk", b"junk\n" * 50 + b"%PDF-1.4\n1 0 obj\n"),
    ("postscript", b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\n"),
    ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    (
        "dos eps",
        b"\xc5\xd0\xd3\xc6"
        + struct.pack("<II", 32, 100)
        + bytes(20)
        + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ),
    ("rtf", b"{\\rtf1\\ansi text}"),
    ("ole document", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
    ("sqlite", _sqlite()),
    # playlists: what a player would fetch
    ("m3u8", _M3U8),
    ("m3u8 after a byte order mark", b"\xef\xbb\xbf" + _M3U8),
    ("m3u8 with crlf", _M3U8.replace(b"\n", b"\r\n")),
    ("m3u", b"#EXTM3U\n/etc/passwd\n"),
    ("mpd", _MPD),
    ("mpd without prolog", _MPD.partition(b"\n")[2]),
    ("ffconcat", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    ("sdp", _SDP),
    ("sdp with lf", _SDP.replace(b"\r", b"")),
    ("pls", b"[playlist]\nFile1=http://127.0.0.1/\nNumberOfEntries=1\n"),
    ("asx", b'<asx version="3.0"><entry><ref href="http://127.0.0.1/"/></entry></asx>'),
    ("smil", b'<smil><body><video src="http://127.0.0.1/"/></body></smil>'),
    # images that are not accepted
    (
        "mvg",
        b"push graphic-context\nviewbox 0 0 640 480\nimage over 0,0 0,0 'ephemeral:/etc/passwd'\npop graphic-context\n",
    ),
    ("mvg viewbox", b"viewbox 0 0 640 480\nfill 'url(http://127.0.0.1/)'\n"),
    ("jp2", _jpeg2000()),
    ("j2k codestream", _codestream()),
    ("ftyp jp2", _box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + _box(b"jp2h", bytes(40))),
    (
        "motion jpeg 2000",
        _box(b"jP  ", b"\r\n\x87\n")
        + _box(b"ftyp", b"mjp2\0\0\0\0mjp2")
        + _box(b"mdat", bytes(64)),
    ),
    ("psd", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(64)),
    ("ico", b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 68, 22) + bytes(68)),
    ("wmf", b"\xd7\xcd\xc6\x9a" + bytes(60)),
    ("netpbm", b"P6\n2 2\n255\n" + bytes(12)),
    ("xpm", b'/* XPM */\nstatic char *x[] = {"1 1 1 1"};\n'),
    # junk behind a good first word
    ("png and noise", _PNG + _noise(20)),
    ("png and html", _PNG + _HTML),
    (
        "png with a wrong checksum",
        _PNG + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0" + b"\0\0\0\0" + bytes(40),
    ),
    (
        "png of no width",
        _PNG + _png_chunk(b"IHDR", b"\0\0\0\0\0\0\0\1\x08\2\0\0\0") + _png_chunk(b"IEND", b""),
    ),
    ("png cut in its first chunk", _PNG + b"\0\0\0\rIHDR\0\0\0\1"),
    ("jpeg and noise", b"\xff\xd8\xff" + _noise(21)),
    ("jpeg app0 and noise", b"\xff\xd8\xff\xe0" + _noise(22)),
    ("jpeg app1 and noise", b"\xff\xd8\xff\xe1\x7f\xff" + _noise(23, 9000)),
    ("jpeg and text", b"\xff\xd8\xff" + _TEXT * 200),
    ("jpeg that ends at once", b"\xff\xd8\xff\xd9"),
    ("jfif and noise", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + _noise(24)),
    ("gif and noise", b"GIF89a" + _noise(25)),
    ("gif and html", b"GIF89a/*" + _HTML),
    ("gif without a frame", b"GIF89a\1\0\1\0\0\0\0;"),
    ("webp and noise", b"RIFF" + struct.pack("<I", 4096) + b"WEBP" + _noise(26)),
    ("webp and html", b"RIFF" + struct.pack("<I", 4096) + b"WEBPVP8 " + _HTML),
    ("bmp and noise", b"BM" + _noise(27)),
    ("bmp and text", b"BM" + _TEXT * 20),
    ("tiff and text", b"II*\0" + _TEXT * 200),
    ("tiff and noise", b"MM\0*\0\0\0\x08" + _noise(28)),
    ("tiff without a directory", b"II*\0\0\0\0\0" + bytes(100)),
    ("ftyp and html", _FTYP + _HTML),
    ("ftyp and noise", _FTYP + _noise(29)),
    ("ftyp and m3u8", _FTYP + _M3U8),
    ("ftyp alone", _FTYP),
    ("ftyp of no known brand", _box(b"ftyp", b"evil\0\0\0\0evil") + _box(b"free", bytes(8))),
    ("ftyp longer than a file can be", b"\xff\xff\xff\xf0ftypisom" + _noise(30)),
    ("ftyp that is text", b"    ftypisom    " + _HTML),
    ("heic brand and html", _box(b"ftyp", b"heic\0\0\0\0mif1heic") + _HTML),
    ("moov and html", b"\0\0\1\0moov" + _HTML * 5),
    ("avi and m3u8", b"RIFF" + struct.pack("<I", 4096) + b"AVI " + _M3U8),
    ("avi and noise", b"RIFF" + struct.pack("<I", 4096) + b"AVI " + _noise(31)),
    ("wav and noise", b"RIFF" + struct.pack("<I", 4096) + b"WAVE" + _noise(32)),
    ("wav and html", b"RIFF" + struct.pack("<I", 4096) + b"WAVE" + _HTML),
    ("riff of another kind", b"RIFF" + struct.pack("<I", 4096) + b"ACONanih" + bytes(40)),
    ("ebml and noise", b"\x1aE\xdf\xa3" + _noise(33)),
    ("ebml of another doctype", b"\x1aE\xdf\xa3\x88\x42\x82\x85xhtml" + _HTML),
    ("webm doctype and html", b"\x1aE\xdf\xa3\x87\x42\x82\x84webm" + _HTML),
    ("flac and noise", b"fLaC" + _noise(34)),
    ("ogg and noise", b"OggS" + _noise(35)),
    ("ogg of no known codec", b"OggS\0\2" + bytes(20) + b"\1\x13" + _noise(36)),
    ("mp3 sync and noise", b"\xff\xfb" + _noise(37)),
    ("mp3 frame header and noise", b"\xff\xfb\x90\x64" + _noise(38)),
    ("adts sync and noise", b"\xff\xf1" + _noise(39)),
    ("adts frame header and noise", b"\xff\xf1\x50\x80\x20\x1f\xfc" + _noise(40)),
    ("id3 and html", b"ID3\4\0\0\0\0\0\0" + _HTML),
    ("long id3 of html", b"ID3\4\0\0\0\1\0\0" + _HTML * 100),
    ("id3 whose size is not syncsafe", b"ID3\4\0\0\xff\xff\xff\xff" + _noise(41)),
    ("id3 and noise", b"ID3\3\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0" + _noise(42)),
    ("amr and noise", b"#!AMR\n" + _noise(43)),
    ("amr and text", b"#!AMR\n" + _TEXT * 20),
    ("flv and noise", b"FLV\1" + _noise(44)),
    ("flv and html", b"FLV\1\5\0\0\0\x09\0\0\0\0" + _HTML),
    ("mpeg-ts sync and noise", b"G" + _noise(45)),
    ("text with G in every 188th place", (b"G" + (_TEXT * 5)[:187]) * 30),
    ("mpeg-ps and noise", b"\0\0\1\xba" + _noise(46)),
    ("mpeg-ps and html", b"\0\0\1\xba\x21\0\1\0\1\x80\0\1" + _HTML),
]
"""Names are unique; every entry must be refused, whole or cut anywhere."""
