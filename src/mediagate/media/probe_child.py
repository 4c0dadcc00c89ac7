"""The process that decodes: run as a script by `mediagate.media.probe`, never imported by the server.

    argv[1]   "av:<demuxer>" or "pillow:<format>": the one reader that may look at the bytes
    argv[2]   JSON object of the limits, see `Limits`
    stdin     the media, an open seekable file; read by position, its offset is left alone
    stdout    one JSON object: {"facts": …} or {"refused": <reason>}

Decoders have had remote code execution, so nothing here trusts them: the limits are set before the first byte is
read, and once the libraries are loaded no file descriptor can be opened any more, so neither files nor sockets.
It is one file that imports nothing of ours: importing the package would load the whole server, once for each file.
"""

import errno
import io
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream
    from PIL import Image

Json = dict[str, Any]

MAX_DURATION_S = 10 * 365 * 86_400
MAX_AUDIO_TRACKS = 16
MAX_FRAME_RATE = 100_000
MAX_BIT_RATE = 10**12
NEAR_S = 5

ESTIMATED = ("aac", "mpeg")
"""Formats that carry no duration; FFmpeg guesses, and is wrong by a second or by half in short program streams."""

DECODED_VIDEO = (
    "av1,libdav1d,h264,hevc,vp8,libvpx,vp9,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4,msmpeg4v2,h263,flv,"
    "mjpeg,theora,prores,dnxhd,ffv1,wmv1,wmv2,wmv3,vc1,rawvideo"
)
DECODED_AUDIO = (
    "aac,aac_latm,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,libvorbis,flac,alac,amrnb,amrwb,"
    "libopencore_amrnb,libopencore_amrwb,ac3,eac3,wmav1,wmav2,speex,libspeex,adpcm_ima_wav,adpcm_ms,gsm_ms,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f64le,pcm_u8,pcm_s8,pcm_alaw,pcm_mulaw"
)
"""FFmpeg has hundreds of decoders, most of them for games of the nineties; a client may choose among these."""


class Refused(Exception):
    """The media is not measured; `reason` is the word sent to the parent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this process may use.

    Attributes:
        memory_bytes: Address space.
        cpu_s: Processor time.
        wall_s: Time until the kernel ends the process, should the parent not have done so.
        sampling_s: Time from the start after which no further frame is decoded.
        max_pixels: Of one picture.
        samples: How many frames are looked at.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float
    sampling_s: float
    max_pixels: int
    samples: int

    def confine(self) -> None:
        """Apply the limits to this process, for good."""
        # The default action of SIGALRM ends the process even inside a decoder that never returns.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self.wall_s)
        for limit, value in (
            (resource.RLIMIT_AS, self.memory_bytes),
            (resource.RLIMIT_CPU, self.cpu_s),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))


def seal() -> None:
    """Allow no further file descriptor than stdin, stdout and stderr."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


class MediaFile(io.RawIOBase):
    """A file descriptor read by position: its offset may be shared with others."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position on."""
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position


# --- images -----------------------------------------------------------------------------------------------------------


def measure_image(source: io.BufferedReader, image_format: str, limits: Limits) -> Json:
    """What Pillow finds in an image."""
    from PIL import (
        AvifImagePlugin,
        Image,
        ImageStat,
        MpoImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    # Loading is all: plugins register themselves, and behind `seal` no module can be read any more.
    del AvifImagePlugin, ImageStat, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin
    Image.preinit()
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    seal()
    try:
        image = Image.open(source, formats=[image_format])
    except Image.DecompressionBombError:
        raise Refused("pixels") from None
    width, height = image.size
    _check_size(width, height, limits)
    facts = {"format": image_format, "width": width, "height": height, "mode": image.mode}
    orientation = image.getexif().get(0x0112)
    frame_count = getattr(image, "n_frames", 1)
    frames, undecoded = _sample(image, frame_count, limits)
    return {
        "container": None,
        "duration_s": None,
        "bit_rate_bps": None,
        "video": None,
        "audio": [],
        "image": facts
        | {
            "frame_count": frame_count,
            "rotation_degrees": {3: 180, 6: 90, 8: 270}.get(orientation or 0, 0),
        },
        "frames": frames,
        "undecoded_samples": undecoded,
    }


def _sample(image: "Image.Image", frame_count: int, limits: Limits) -> tuple[list[Json], int]:
    """Frames spread over the whole image, and how many of those looked at did not decode."""
    from PIL import ImageStat

    spread = {frame_count * (2 * i + 1) // (2 * limits.samples) for i in range(limits.samples)}
    frames: list[Json] = []
    undecoded = 0
    for number in sorted(spread):
        if frames and time.monotonic() > _deadline(limits):
            break
        try:
            image.seek(number)
            mean = ImageStat.Stat(_over_white(image)).mean
        except (OSError, SyntaxError, ValueError, EOFError):
            undecoded += 1
            continue
        frames.append({"number": number + 1, "at_s": None, "rgb": [round(value) for value in mean]})
    if not frames:
        raise Refused("unreadable")
    return frames, undecoded


def _over_white(image: "Image.Image") -> "Image.Image":
    """The picture as RGB; what is transparent shows white, as in most viewers."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey: a plain conversion would clip them to 8
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        picture = Image.new("RGB", layer.size, (255, 255, 255))
        picture.paste(layer, mask=layer.getchannel("A"))
        return picture
    return image.convert("RGB")


# --- moving pictures and sound ----------------------------------------------------------------------------------------


def measure_streams(
    source: io.BufferedReader, demuxer: str, limits: Limits, *, is_still: bool = False
) -> Json:
    """What FFmpeg finds in a container."""
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream  # PyAV loads these two when it meets subtitles, which is too late here

    seal()
    options = {"codec_whitelist": f"{DECODED_VIDEO},{DECODED_AUDIO}"}
    with av.open(
        source,
        "r",
        format=demuxer,
        options=options,
        metadata_errors="replace",
        io_open=_open_nothing,
    ) as container:
        if is_still and len(container.streams.video) > 2:  # more than picture and thumbnail: tiles
            raise Refused("tiles")
        tracks = [_audio_facts(stream) for stream in container.streams.audio[:MAX_AUDIO_TRACKS]]
        covers = av.stream.Disposition.attached_pic
        video = next((s for s in container.streams.video if not s.disposition & covers), None)
        if not tracks and video is None:
            raise Refused("unreadable")
        duration_s = _seconds(container.duration, Fraction(1, av.time_base))
        if duration_s is None or demuxer in ESTIMATED:
            counted_s = _last_timestamp(container, video or container.streams.audio[0], limits)
            duration_s = counted_s or duration_s
        facts: Json = {
            "container": container.format.name,
            "duration_s": duration_s,
            "bit_rate_bps": _bit_rate(container.size, duration_s),
            "video": None,
            "audio": tracks,
            "image": None,
            "frames": [],
            "undecoded_samples": 0,
        }
        if video is not None:
            facts |= _video_facts(container, video, duration_s, limits)
        elif not _first_sound_decodes(container):
            raise Refused("unreadable")
        return facts


def measure_heif(source: io.BufferedReader, demuxer: str, limits: Limits) -> Json:
    """What FFmpeg finds in a HEIF still image, told as an image."""
    facts = measure_streams(source, demuxer, limits, is_still=True)
    video = facts["video"]
    if video is None:
        raise Refused("unreadable")
    image = {
        "format": "HEIF",
        "width": video["width"],
        "height": video["height"],
        "mode": video["pixel_format"] or "unknown",
        "frame_count": 1,
        "rotation_degrees": video["rotation_degrees"],
    }
    frames = [frame | {"number": 1, "at_s": None} for frame in facts["frames"][:1]]
    return facts | {
        "container": None,
        "duration_s": None,
        "bit_rate_bps": None,
        "video": None,
        "image": image,
        "frames": frames,
    }


def _open_nothing(*_: object) -> None:
    """A container that points to another file or address gets nothing."""
    raise OSError


def _seconds(value: int | None, unit: Fraction | None) -> float | None:
    """A duration in seconds, if it can be one."""
    if value is None or not unit:
        return None
    seconds = float(value * unit)
    return seconds if 0 < seconds < MAX_DURATION_S else None


def _bit_rate(size_bytes: int, duration_s: float | None) -> int | None:
    """Counted: what FFmpeg says is doubled in some short program streams."""
    if not duration_s or size_bytes * 8 / duration_s > MAX_BIT_RATE:
        return None
    return round(size_bytes * 8 / duration_s)


def _deadline(limits: Limits) -> float:
    return STARTED + limits.sampling_s


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise Refused("unreadable")
    if width * height > limits.max_pixels:
        raise Refused("pixels")


def _audio_facts(stream: "Stream") -> Json:
    context: Any = stream.codec_context
    return {
        "codec": context.codec.canonical_name if context else "unknown",
        "sample_rate_hz": context.sample_rate or None if context else None,
        "channels": context.channels or None if context else None,
        "duration_s": _seconds(stream.duration, stream.time_base),
    }


def _last_timestamp(container: "InputContainer", stream: "Stream", limits: Limits) -> float | None:
    """Duration by reading to the end, decoding nothing: for what carries none, as browsers record it."""
    end = 0
    with suppress(Exception):  # a truncated end: what came before it counts
        for packet in container.demux(stream):
            if time.monotonic() > _deadline(limits):
                return None
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
    container.seek(0)
    return _seconds(end - (stream.start_time or 0), stream.time_base)


def _first_sound_decodes(container: "InputContainer") -> bool:
    stream = container.streams.audio[0]
    if not stream.codec_context or stream.codec_context.codec.name not in DECODED_AUDIO.split(","):
        return True  # not tried
    stream.codec_context.thread_count = 1
    return any(True for _ in _decoded(container, stream))


def _decoded(container: "InputContainer", stream: "Stream") -> Iterator[Any]:
    """The frames of `stream` from here on; damaged packets are stepped over."""
    from av.error import FFmpegError

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        with suppress(FFmpegError):
            yield from packet.decode()


def _video_facts(
    container: "InputContainer", stream: "VideoStream", duration_s: float | None, limits: Limits
) -> Json:
    context = stream.codec_context
    if not context:
        raise Refused("unreadable")
    _check_size(context.width, context.height, limits)
    rate = stream.average_rate
    facts: Json = {
        "codec": context.codec.canonical_name,
        "width": context.width,
        "height": context.height,
        "rotation_degrees": 0,
        "frame_rate": str(Fraction(rate)) if rate and 0 < rate < MAX_FRAME_RATE else None,
        "frame_count": stream.frames or None,
        "pixel_format": context.pix_fmt,
    }
    if context.codec.name not in DECODED_VIDEO.split(","):
        return {"video": facts}
    context.thread_count = 1
    shown = ShownFrames(container, stream, _deadline(limits))
    frames: list[Json] = []
    undecoded = 0
    for i in range(limits.samples):
        frame = shown.at((duration_s or 0) * (2 * i + 1) / (2 * limits.samples))
        if frame is None:
            undecoded += not shown.is_late
        elif not frames or frame["at_s"] != frames[-1]["at_s"]:
            _check_size(frame.pop("width"), frame.pop("height"), limits)
            facts["rotation_degrees"] = frame.pop("rotation_degrees")
            frames.append(frame)
        if shown.is_late:
            break
    if not frames:
        raise Refused("slow" if shown.is_late else "unreadable")
    return {"video": facts, "frames": frames, "undecoded_samples": undecoded}


class ShownFrames:
    """Which frame of a stream is on screen at a time; asked for rising times.

    Goes back to a key frame only where that saves decoding.

    Attributes:
        is_late: The deadline has passed and nothing more is decoded.
    """

    def __init__(self, container: "InputContainer", stream: "VideoStream", deadline: float) -> None:
        self._container = container
        self._stream = stream
        self._deadline = deadline
        self._unit = stream.time_base or Fraction(1, 1000)
        self._start = stream.start_time or 0
        self._frames: Iterator[VideoFrame] = _decoded(container, stream)
        self._shown: VideoFrame | None = None
        self._next: VideoFrame | None = None
        self.is_late = False

    def at(self, seconds: float) -> Json | None:
        """The facts of the frame on screen `seconds` after the start; None if it does not decode."""
        target = self._start + int(seconds / self._unit)
        self._seek(target)
        while self._next is None or self._position(self._next) <= target:
            self._shown = self._next or self._shown
            self._next = next(self._frames, None)
            if time.monotonic() > self._deadline:
                self.is_late = True
                break
            if self._next is None:
                break
        frame = self._shown or self._next
        if frame is None or (self._next is None and not self._lasts_until(frame, target)):
            return None
        if frame.is_corrupt:
            return None
        return {
            "number": None,
            "at_s": max(0.0, float((self._position(frame) - self._start) * self._unit)),
            "rgb": mean_colour(frame),
            "width": frame.width,
            "height": frame.height,
            "rotation_degrees": -frame.rotation % 360,
        }

    def _position(self, frame: "VideoFrame") -> int:
        return frame.pts if frame.pts is not None else frame.dts or self._start

    def _lasts_until(self, frame: "VideoFrame", target: int) -> bool:
        """Whether the last frame that decodes may be on screen at `target`; if not, the file ends too early."""
        rate = self._stream.average_rate or 25
        own = (frame.duration or 0) * self._unit
        return (target - self._position(frame)) * self._unit <= max(
            own, Fraction(2) / Fraction(rate)
        )

    def _seek(self, target: int) -> None:
        """Go to the key frame before `target`, unless decoding on gets there sooner."""
        reached = self._next or self._shown
        position = self._position(reached) if reached else self._start
        entries = self._stream.index_entries
        near = int(NEAR_S / self._unit)
        if len(entries) and entries[len(entries) - 1].timestamp >= target - near:
            index = entries.search_timestamp(target, backward=True)
            if index < 0 or entries[index].timestamp <= position:
                return
        elif target - position < near:  # there is no index, or it is read later
            return
        from av.error import FFmpegError

        try:
            self._container.seek(target, stream=self._stream, backward=True)
        except FFmpegError:
            return
        self._shown = self._next = None
        self._frames = _decoded(self._container, self._stream)


def mean_colour(frame: "VideoFrame") -> list[int]:
    """Mean red, green and blue of a frame, 0 to 255."""
    side = 32
    small = frame.reformat(width=side, height=side, format="rgb24", interpolation="AREA", threads=1)
    plane = small.planes[0]
    data = bytes(plane)
    rows = [data[y * plane.line_size : y * plane.line_size + 3 * side] for y in range(side)]
    return [round(sum(sum(row[channel::3]) for row in rows) / side**2) for channel in range(3)]


# --- the process ------------------------------------------------------------------------------------------------------

STARTED = time.monotonic()
READERS: dict[str, Callable[[io.BufferedReader, str, Limits], Json]] = {
    "av": measure_streams,
    "heif": measure_heif,
    "pillow": measure_image,
}


def main() -> None:
    """Measure stdin and print one JSON object."""
    reader, _, name = sys.argv[1].partition(":")
    limits = Limits(**json.loads(sys.argv[2]))
    limits.confine()
    answer: Json
    try:
        answer = {"facts": READERS[reader](io.BufferedReader(MediaFile(0), 1 << 16), name, limits)}
    except Refused as refused:
        answer = {"refused": refused.reason}
    except ImportError:
        answer = {"refused": "extra"}
    except MemoryError:
        answer = {"refused": "memory"}
    except OSError as error:  # a library reached for a file: no fault of the media
        answer = {"refused": "sealed" if error.errno == errno.EMFILE else "unreadable"}
    except Exception:  # hostile bytes make libraries raise anything; what they say is for nobody
        answer = {"refused": "unreadable"}
    os.write(1, json.dumps(answer, allow_nan=False).encode())
    os._exit(0)  # nothing of the libraries runs again


if __name__ == "__main__":
    main()
