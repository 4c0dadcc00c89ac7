"""Measures media: what a file holds, decoded in a child process that can do no harm.

    parent (the server)                       child (`probe_child.py`, one per file)
    ───────────────────                       ──────────────────────────────────────
    picks the one reader for the MIME type ─▶ limits itself, loads Pillow or FFmpeg, closes the door to new files
    hands over an open file as stdin          reads, decodes a few frames
    waits, or kills its process group      ◀─ one JSON object on stdout
    checks every value, makes `MediaFacts`    exits

The server itself never loads a decoder: not for safety, not for its idle memory. The child gets no path and no URL
that a decoder could interpret, none of the server's environment, and no way to a network.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from mediagate.core.errors import (
    FileNotFound,
    InternalError,
    MediagateError,
    NotSupported,
    UnreadableMedia,
    UnsupportedMedia,
)
from mediagate.media.facts import FactsError, MediaFacts, load_object, parse_facts

READERS: Mapping[str, str] = {
    "video/mp4": "av:mov",
    "video/quicktime": "av:mov",
    "video/3gpp": "av:mov",
    "video/3gpp2": "av:mov",
    "audio/mp4": "av:mov",
    "audio/3gpp": "av:mov",
    "video/webm": "av:matroska",
    "audio/webm": "av:matroska",
    "video/x-matroska": "av:matroska",
    "audio/x-matroska": "av:matroska",
    "video/x-msvideo": "av:avi",
    "video/mp2t": "av:mpegts",
    "video/mpeg": "av:mpeg",
    "video/x-flv": "av:flv",
    "video/ogg": "av:ogg",
    "audio/ogg": "av:ogg",
    "audio/wav": "av:wav",
    "audio/flac": "av:flac",
    "audio/mpeg": "av:mp3",
    "audio/aac": "av:aac",
    "audio/amr": "av:amr",
    "audio/amr-wb": "av:amr",
    "image/heic": "heif:mov",
    "image/heic-sequence": "heif:mov",
    "image/heif": "heif:mov",
    "image/avif": "pillow:AVIF",
    "image/bmp": "pillow:BMP",
    "image/gif": "pillow:GIF",
    "image/jpeg": "pillow:JPEG",
    "image/png": "pillow:PNG",
    "image/tiff": "pillow:TIFF",
    "image/webp": "pillow:WEBP",
}
"""The one reader that may look at the bytes of a MIME type: its library, and its name of the format.

Playlists and descriptions (hls, dash, concat, sdp), which name further sources, are not there.
"""

MAX_ANSWER_BYTES = 64 * 1024

_BROKEN = "This media cannot be decoded: it is damaged or incomplete. Encode it again, or upload it again."
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
)
_CHILD = Path(__file__).with_name("probe_child.py")


class Prober:
    """Measures files, a few at a time.

    Args:
        max_children: Processes at once; further files wait for their turn.
        timeout_s: Wall time for one file, the start of the process included; the same again is its processor time.
        memory_bytes: Address space of a process. FFmpeg and Python map about 300 MiB before the first frame.
        max_pixels: Of one picture.
        samples: How many frames are sampled over the duration.
        command: What runs the child; the arguments `reader` and `limits` are added.
    """

    def __init__(
        self,
        *,
        max_children: int = 2,
        timeout_s: float = 20,
        memory_bytes: int = 1024**3,
        max_pixels: int = 50_000_000,
        samples: int = 5,
        command: tuple[str, ...] = (sys.executable, "-P", "-B", str(_CHILD)),
    ) -> None:
        self._slots = asyncio.Semaphore(max_children)
        self._timeout_s = timeout_s
        self._max_pixels = max_pixels
        self._command = command
        self._limits = json.dumps(
            {
                "memory_bytes": memory_bytes,
                "cpu_s": int(timeout_s) + 1,
                "wall_s": timeout_s + 1,
                "sampling_s": timeout_s / 2,
                "max_pixels": max_pixels,
                "samples": samples,
            }
        )

    async def probe(self, file: BinaryIO | int | Path, *, mime_type: str) -> MediaFacts:
        """Measure one file.

        A cancelled call has ended its process before it returns. The position of an open file is left where it is.

        Args:
            file: The media: an open file with a descriptor, a descriptor or a path; seekable, read from its first byte.
            mime_type: The exact type that the sniffer found.

        Raises:
            UnsupportedMedia: There is no reader for the type.
            UnreadableMedia: It does not decode within the limits.
            FileNotFound: The path leads nowhere.
            NotSupported: Pillow or PyAV is not installed.
        """
        reader = READERS.get(mime_type)
        if reader is None:
            raise UnsupportedMedia(f"The inspector cannot measure {mime_type}.")
        async with self._slots:
            with _descriptor(file) as descriptor:
                answer = await self._run(descriptor, reader)
        try:
            fields = load_object(answer)
            if "refused" in fields:
                raise self._refusal(fields["refused"])
            return parse_facts(fields.get("facts"))
        except FactsError as error:
            raise UnreadableMedia(_BROKEN) from error

    async def _run(self, descriptor: int, reader: str) -> bytes:
        """What the child wrote; empty if it was ended or died."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            reader,
            self._limits,
            stdin=descriptor,
            stdout=PIPE,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
        output = cast("StreamReader", process.stdout)
        answer = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while len(answer) <= MAX_ANSWER_BYTES:
                    chunk = await output.read(MAX_ANSWER_BYTES)
                    if not chunk:
                        break
                    answer += chunk
                else:
                    raise UnreadableMedia(_BROKEN)
                return bytes(answer)
        except TimeoutError as error:
            raise self._refusal("slow") from error
        finally:
            await _end(process, output)

    def _refusal(self, reason: object) -> MediagateError:
        """The error for the word that the child gave."""
        match reason:
            case "extra":
                return NotSupported(
                    "This server cannot look into media: its operator has to run pip install 'mediagate[media]'."
                )
            case "pixels":
                return UnreadableMedia(
                    f"This picture has more than {self._max_pixels // 1_000_000} million pixels. Send a smaller one."
                )
            case "memory":
                return UnreadableMedia(
                    "This media needs more memory to decode than is allowed. Send a smaller one."
                )
            case "slow":
                return UnreadableMedia(
                    f"This media did not decode within {self._timeout_s:g} seconds. Send a smaller or shorter one."
                )
            case "sealed":
                return InternalError("The inspector failed. This is a fault of the server.")
            case "tiles":
                return UnsupportedMedia(
                    "The inspector cannot measure HEIF pictures that are made of tiles."
                )
        return UnreadableMedia(_BROKEN)


@contextmanager
def _descriptor(file: BinaryIO | int | Path) -> Iterator[int]:
    """The open file as a descriptor."""
    if isinstance(file, int):
        yield file
    elif isinstance(file, Path):
        try:
            opened = file.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise FileNotFound("The file was removed before it could be measured.") from error
        with opened:
            yield opened.fileno()
    else:
        yield file.fileno()


async def _end(process: Process, output: StreamReader) -> None:
    """Kill what still runs of the child, and wait until it is gone."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            # A session of its own: what it started ends, too.
            os.killpg(process.pid, signal.SIGKILL)
    while await output.read(MAX_ANSWER_BYTES):
        pass  # a full pipe would keep the transport open
    await process.wait()
