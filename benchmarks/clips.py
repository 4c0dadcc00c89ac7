"""Clips that engines decode: 720p, 30 frames a second, H.264 at 2.5 MB a second.

The same every time. The pictures are noise, so that the encoder has to spend all the bits that it is given; what a
decoder has to do depends on those.
"""

import random
from pathlib import Path

import av
from av.video.frame import VideoFrame

SECONDS = 10
"""Of what is encoded; a longer clip repeats it."""

_WIDTH, _HEIGHT, _FPS = 1280, 720, 30
_BIT_RATE = 19_200_000
_SEED = 4


def make_clip(path: Path) -> None:
    """Write the one of ~25 MB."""
    _encode(path, SECONDS, seed=_SEED)


def make_clips(directory: Path) -> dict[str, Path]:
    """Write three: one of two seconds to warm up with, one of ~25 MB, one of ~200 MB; by name, smallest first."""
    names = ("warm-up", "25 MB", "200 MB")
    clips = {name: directory / f"{name.replace(' ', '-')}.mp4" for name in names}
    _encode(clips["warm-up"], 2, seed=_SEED + 1)
    make_clip(clips["25 MB"])
    _repeat(clips["25 MB"], clips["200 MB"], times=8)
    return clips


def _encode(path: Path, seconds: int, *, seed: int) -> None:
    rng = random.Random(seed)
    frame = VideoFrame(_WIDTH, _HEIGHT, "yuv420p")
    # Colours stay as they are: the eye of this encoder is on brightness.
    for plane in frame.planes[1:]:
        plane.update(bytes([128]) * plane.buffer_size)
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream(
            "libx264", _FPS, options={"preset": "ultrafast", "g": str(2 * _FPS)}
        )
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.bit_rate = _BIT_RATE
        for number in range(seconds * _FPS):
            frame.planes[0].update(rng.randbytes(frame.planes[0].buffer_size))
            frame.pts = number
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())


def _repeat(source: Path, path: Path, *, times: int) -> None:
    """The same packets again and again: a long clip for the time of a short one."""
    with av.open(str(path), "w") as clip, av.open(str(source)) as first:
        stream = clip.add_stream_from_template(first.streams.video[0])
        for number in range(times):
            with av.open(str(source)) as again:
                for packet in again.demux(video=0):
                    if packet.dts is None or packet.pts is None:
                        continue  # the mark of the end
                    shift = round(number * SECONDS / packet.time_base)
                    packet.dts += shift
                    packet.pts += shift
                    packet.stream = stream
                    clip.mux(packet)
