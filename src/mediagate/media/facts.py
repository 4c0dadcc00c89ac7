"""What was measured in a media file, and its strict reading from the child process that measured it.

The child decoded hostile bytes and may no longer be ours: every value is checked for type and range here.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from mediagate.media.colours import Colour

_MAX_COUNT = 2**53
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,;+: -]{0,63}")

_T = TypeVar("_T")


class FactsError(Exception):
    """What the child wrote are no facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """The first moving picture of a container.

    Attributes:
        codec: FFmpeg's name.
        width: Pixels, as stored; not turned by `rotation_degrees`.
        height: Pixels, as stored.
        rotation_degrees: Clockwise turn that a player applies: 0 to 359.
        frame_rate: Average, per second.
        frame_count: As the container declares it; None where it declares none.
        pixel_format: FFmpeg's name.
    """

    codec: str
    width: int
    height: int
    rotation_degrees: int
    frame_rate: Fraction | None
    frame_count: int | None
    pixel_format: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """One audio track; `codec` is FFmpeg's name, `duration_s` what the container declares for the track."""

    codec: str
    sample_rate_hz: int | None
    channels: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """A still image or an animation.

    Attributes:
        format: Pillow's name.
        width: Pixels, as stored.
        height: Pixels, as stored.
        mode: Pillow's name of the pixel layout; FFmpeg's for HEIF.
        frame_count: 1 for a still image.
        rotation_degrees: Clockwise turn that a viewer applies: 0, 90, 180 or 270.
    """

    format: str
    width: int
    height: int
    mode: str
    frame_count: int
    rotation_degrees: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFacts:
    """One frame that was decoded.

    Attributes:
        at_s: Seconds from the start at which it is shown; None in images.
        number: Which frame of an image, from 1; None in video.
        colour: Mean of its pixels.
    """

    at_s: float | None
    number: int | None
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """All that was measured in one file.

    Attributes:
        container: FFmpeg's name of the demuxer; None for images.
        duration_s: As the container declares it, or counted where it declares none.
        bit_rate_bps: Average over the whole file, all tracks together.
        video: None if there is no moving picture; a cover picture is none.
        audio: The audio tracks, at most 16.
        image: Only for images.
        frames: Sampled over the whole duration, in order of time.
        undecoded_samples: How many sampled frames did not decode: the file is damaged or ends too early.
    """

    container: str | None
    duration_s: float | None
    bit_rate_bps: int | None
    video: VideoFacts | None
    audio: tuple[AudioFacts, ...]
    image: ImageFacts | None
    frames: tuple[FrameFacts, ...]
    undecoded_samples: int


def parse_facts(value: object) -> MediaFacts:
    """The facts that decoded JSON holds.

    Raises:
        FactsError: A key, a type or a range is not as documented.
    """
    facts = _object(value)
    video, image = facts.get("video"), facts.get("image")
    return MediaFacts(
        container=_optional(_word, facts.get("container")),
        duration_s=_optional(_seconds, facts.get("duration_s")),
        bit_rate_bps=_optional(_count, facts.get("bit_rate_bps")),
        video=None if video is None else _video(_object(video)),
        audio=tuple(_audio(_object(track)) for track in _list(facts.get("audio"))),
        image=None if image is None else _image(_object(image)),
        frames=tuple(_frame(_object(frame)) for frame in _list(facts.get("frames"))),
        undecoded_samples=_count(facts.get("undecoded_samples")),
    )


def load_object(text: bytes) -> dict[str, Any]:
    """The JSON object that `text` is.

    Raises:
        FactsError: It is none.
    """
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FactsError from error


def _video(fields: dict[str, Any]) -> VideoFacts:
    return VideoFacts(
        codec=_word(fields.get("codec")),
        width=_count(fields.get("width")),
        height=_count(fields.get("height")),
        rotation_degrees=_count(fields.get("rotation_degrees")) % 360,
        frame_rate=_optional(_rate, fields.get("frame_rate")),
        frame_count=_optional(_count, fields.get("frame_count")),
        pixel_format=_optional(_word, fields.get("pixel_format")),
    )


def _audio(fields: dict[str, Any]) -> AudioFacts:
    return AudioFacts(
        codec=_word(fields.get("codec")),
        sample_rate_hz=_optional(_count, fields.get("sample_rate_hz")),
        channels=_optional(_count, fields.get("channels")),
        duration_s=_optional(_seconds, fields.get("duration_s")),
    )


def _image(fields: dict[str, Any]) -> ImageFacts:
    return ImageFacts(
        format=_word(fields.get("format")),
        width=_count(fields.get("width")),
        height=_count(fields.get("height")),
        mode=_word(fields.get("mode")),
        frame_count=_count(fields.get("frame_count")),
        rotation_degrees=_count(fields.get("rotation_degrees")) % 360,
    )


def _frame(fields: dict[str, Any]) -> FrameFacts:
    channels = [_count(channel) for channel in _list(fields.get("rgb"))]
    if len(channels) != 3 or max(channels) > 255:
        raise FactsError
    return FrameFacts(
        at_s=_optional(_seconds, fields.get("at_s")),
        number=_optional(_count, fields.get("number")),
        colour=Colour(*channels),
    )


def _optional(parse: Callable[[object], _T], value: object) -> _T | None:
    return None if value is None else parse(value)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FactsError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > 64:
        raise FactsError
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise FactsError
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise FactsError
    return value


def _seconds(value: object) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= _MAX_COUNT
    ):
        raise FactsError
    return float(value)


def _rate(value: object) -> Fraction:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,18}(/[1-9][0-9]{0,17})?", value):
        raise FactsError
    return Fraction(value)
