"""Facts in words: the inspector's answer, line by line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mediagate.media.facts import AudioFacts, FrameFacts, ImageFacts, MediaFacts, VideoFacts

_CONTAINERS = {
    "video/mp4": "MP4",
    "audio/mp4": "MP4",
    "video/quicktime": "QuickTime",
    "video/3gpp": "3GP",
    "audio/3gpp": "3GP",
    "video/3gpp2": "3G2",
    "video/webm": "WebM",
    "audio/webm": "WebM",
    "video/x-matroska": "Matroska",
    "audio/x-matroska": "Matroska",
    "video/x-msvideo": "AVI",
    "video/mp2t": "MPEG transport stream",
    "video/mpeg": "MPEG program stream",
    "video/x-flv": "Flash video",
    "video/ogg": "Ogg",
    "audio/ogg": "Ogg",
    "audio/wav": "WAV",
    "audio/flac": "FLAC",
    "audio/mpeg": "MPEG audio",
    "audio/aac": "ADTS",
    "audio/amr": "AMR",
    "audio/amr-wb": "AMR",
}

_INTRODUCTION = "I am the mediagate inspector. I am no language model: I do not read words, I only measure media."

_NO_MEDIA = """\
This request names no file, so there is nothing to measure.
Upload one with POST /v1/files and name it by the id you get, in a content part such as
{"type": "video_url", "video_url": {"url": "vllm-file://file-<32 hex digits>"}}
(image_url, video_url and audio_url take ids and data: URIs; input_audio takes ids and base64).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One file that a request named.

    Attributes:
        filename: None for inline data.
        mime_type: Decided by the bytes.
        size_bytes: Exact.
        digest: Of exactly those bytes.
        facts: What was measured.
    """

    filename: str | None
    mime_type: str
    size_bytes: int
    digest: str
    facts: MediaFacts


def report(files: Sequence[Measured]) -> str:
    """The whole answer."""
    if not files:
        return f"{_INTRODUCTION}\n{_NO_MEDIA}"
    first: dict[str, int] = {}
    blocks = [_INTRODUCTION + "\n"]
    for number, file in enumerate(files, 1):
        title = f"File {number} of {len(files)}: {file.filename or 'inline data'}"
        twin = first.setdefault(file.digest, number)
        lines = _file(file) if twin == number else [f"The same bytes as file {twin}."]
        blocks.append("\n".join([title, *(f"- {line}" for line in lines)]) + "\n")
    return "\n".join(blocks)


def _file(file: Measured) -> Iterator[str]:
    facts = file.facts
    yield f"Type: {file.mime_type}, {_size(file.size_bytes)}"
    if facts.container:
        yield f"Container: {_CONTAINERS.get(file.mime_type, facts.container)}"
        yield f"Duration: {_duration(facts.duration_s)}"
    if facts.bit_rate_bps:
        yield f"Bit rate: {_number(facts.bit_rate_bps / 1000, 1)} kbit/s, everything together"
    if facts.image:
        yield _image(facts.image)
    elif facts.video:
        yield _video(facts.video)
    if facts.container:
        yield from _audio(facts.audio)
    yield from map(_frame, facts.frames)
    if facts.undecoded_samples:
        sampled = facts.undecoded_samples + len(facts.frames)
        yield (
            f"{facts.undecoded_samples} of {sampled} sampled frames did not decode: "
            "the file is damaged, or it ends before its stated duration."
        )
    elif facts.video and not facts.frames:
        yield "No frame was looked at: the inspector does not decode this codec."
    yield f"Digest: {file.digest}"


def _image(image: ImageFacts) -> str:
    frames = f", {image.frame_count:,} frames" if image.frame_count > 1 else ""
    return (
        f"Image: {image.format}, {image.width} x {image.height} pixels, mode {image.mode}"
        f"{frames}{_rotation(image.rotation_degrees)}"
    )


def _video(video: VideoFacts) -> str:
    rate = (
        f"{_number(float(video.frame_rate), 3)} frames per second"
        if video.frame_rate
        else "frame rate unknown"
    )
    frames = f", {video.frame_count:,} frames" if video.frame_count else ""
    pixels = f", pixel format {video.pixel_format}" if video.pixel_format else ""
    return (
        f"Video: {video.codec}, {video.width} x {video.height} pixels, {rate}{frames}{pixels}"
        f"{_rotation(video.rotation_degrees)}"
    )


def _audio(tracks: Sequence[AudioFacts]) -> Iterator[str]:
    if not tracks:
        yield "Audio: none"
    for number, track in enumerate(tracks, 1):
        name = "Audio" if len(tracks) == 1 else f"Audio track {number}"
        details = [track.codec]
        if track.sample_rate_hz:
            details.append(f"{track.sample_rate_hz} Hz")
        if track.channels:
            details.append(f"{track.channels} channel{'s' * (track.channels > 1)}")
        if track.duration_s:
            details.append(_duration(track.duration_s))
        yield f"{name}: {', '.join(details)}"


def _frame(frame: FrameFacts) -> str:
    where = f"at {_number(frame.at_s, 2)} s" if frame.at_s is not None else f"{frame.number}"
    colour = frame.colour
    return f"Frame {where}: mostly {colour.name} ({colour.hex}), brightness {colour.brightness_percent} of 100"


def _rotation(degrees: int) -> str:
    return f", shown turned {degrees}° clockwise" if degrees else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    text = f"{_number(seconds, 2)} seconds"
    if seconds < 60:
        return text
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{text} ({f'{hours}:{minutes:02}' if hours else minutes}:{rest:02})"


def _size(size_bytes: int) -> str:
    exact = f"{size_bytes:,} bytes"
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes >= scale:
            return f"{exact} ({_number(size_bytes / scale, 1)} {unit})"
    return exact


def _number(value: float, digits: int) -> str:
    """At most `digits` decimals, none of them a trailing zero."""
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
