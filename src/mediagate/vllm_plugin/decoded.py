"""Decoded media, kept within bounds, so that the next question about a file neither reads nor decodes it.

What is kept is what vLLM's `MediaIO.load_file` returns: `MediaWithBytes` around an image or around (frames, metadata),
(frames, metadata) bare in 0.26, (samples, sample rate) for sound. It never leaves: all who ask get one of their
own, see `media_values`. What stands in it for the encoded bytes, and why, is told in `originals`.
"""

import asyncio
import hashlib
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple, NewType, TypeVar

from mediagate.core.events import (
    DecodedMediaEvicted,
    DecodedMediaHeld,
    DecodedMediaReused,
    Event,
    FileDeleted,
    FileEvicted,
    FileExpired,
    MediaDecoded,
    Observer,
    ignore,
)
from mediagate.core.files import FileId, FileObject
from mediagate.core.scopes import Scope
from mediagate.vllm_plugin.media_values import (
    ORIGINAL_BYTES,
    UnknownValueError,
    is_wrapper,
    own,
    rewrapped,
    size_of,
)

logger = logging.getLogger(__name__)

Settings = NewType("Settings", str)
"""All that decides how a file is decoded: 64 hex digits, the same in every process for the same settings."""

CHECK_EVERY_S = 30.0
"""A file that another process removed has left memory after this long, and the time that asking takes."""

ENTRY_BYTES = 1024
"""What an entry takes beside its media: its key, and its place in the order."""

_MAX_DEPTH = 12

_T = TypeVar("_T")


class _Key(NamedTuple):
    # An id belongs to one scope for ever; that it is part of the key guards against a caller that mixes them up.
    file_id: FileId
    scope: Scope
    settings: Settings


class _Held(NamedTuple):
    media: object
    size_bytes: int


def _key(file: FileObject, settings: Settings) -> _Key:
    return _Key(file.id, file.scope, settings)


class _Flight:
    """One decoding, and those who wait for it.

    Attributes:
        task: The decoding.
        askers: How many wait.
        is_orphan: The request that began it is gone, and its right to open the file may be gone with it.
        spare: The media as they were decoded, for the first who takes them.
        master: A form of them that never leaves, for all others; None: they cannot be copied, or nobody waited.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.askers = 0
        self.is_orphan = False
        self.spare: list[object] = []
        self.master: object | None = None

    @property
    def failed(self) -> bool:
        """Whether it is over and gave nothing."""
        return self.task.cancelled() or self.task.exception() is not None


class DecodedMedia:
    """The least recently used go first. `decoded` belongs to one event loop; all else may be called from any thread.

    Whoever asks has a lease on the file for the scope of its request, so a deleted, expired or foreign file is never
    asked for; what was removed is dropped from memory too, at once (`heed`) or when that is found out (`run`).
    The bound is on what is kept: media in the hands of running requests come on top, frames shared with what is kept
    count once.

    Args:
        max_bytes: Of all that is kept, as `size_of` counts; 0: nothing is.
        original: What stands for a file's encoded bytes where vLLM keeps them beside the media; it returns None
            where the bytes are needed. None: they always stay.
        observer: Told of each decoding, reuse and eviction and of what is held; one event at a time.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        original: Callable[[FileObject, Settings], bytes | None] | None = None,
        observer: Observer = ignore,
    ) -> None:
        self._max_bytes = max_bytes
        self._original = original
        self._observer = observer
        self._lock = threading.Lock()
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._held_bytes = 0
        self._flights: dict[_Key, _Flight] = {}

    @property
    def held_bytes(self) -> int:
        """What is kept now."""
        return self._held_bytes

    def get(self, file: FileObject, settings: Settings | None) -> object | None:
        """The media of `file`, the caller's own to change, and now the most recently used; None: not kept."""
        held = None if settings is None else self._find(_key(file, settings))
        return None if held is None else own(held)

    def put(self, file: FileObject, settings: Settings | None, media: object) -> object:
        """Keep `media`, if they fit and can be copied.

        Args:
            file: What they were decoded from.
            settings: How; None: unknown, so they are not kept.
            media: Somebody else's from now on: use what is returned.

        Returns:
            The media for the caller, as everybody else will get them.
        """
        if settings is None:
            return media
        media = self._with_stand_in(file, settings, media)
        if self._fits(size_of(media)):
            self._keep(_key(file, settings), own(media))
        return media

    async def decoded(
        self, file: FileObject, settings: Settings | None, decode: Callable[[], Awaitable[_T]]
    ) -> _T:
        """The media of `file`, the caller's own to change; decoded once for all who ask at once.

        A failure is told to all who wait, and forgotten. Where the request that began the decoding is cancelled, the
        others wait on; should it fail for that, one of them begins anew. When nobody waits any more, it is cancelled.

        Args:
            file: Leased by the caller's request.
            settings: How it is decoded; None: unknown, so that it is decoded for this caller alone.
            decode: Reads and decodes it, off the event loop.

        Raises:
            Exception: What `decode` raised.
        """
        if settings is None:
            return await self._timed(decode)
        key = _key(file, settings)
        while True:
            held = self._find(key)
            if held is not None:
                # A copy of a large image takes tens of milliseconds, which the event loop has not got.
                return await asyncio.to_thread(own, held)
            flight = self._flights.get(key)
            is_mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
                flight.task = asyncio.create_task(self._fly(flight, key, file, decode))
                flight.task.add_done_callback(_heard)
            await self._wait(flight, key, is_mine=is_mine)
            if flight.is_orphan and flight.failed:
                continue
            flight.task.result()
            if flight.spare:
                media = flight.spare.pop()
            elif flight.master is not None:
                media = await asyncio.to_thread(own, flight.master)
            else:
                return self._with_stand_in(file, settings, await self._timed(decode))
            if not is_mine:
                self._tell(DecodedMediaReused())
            return media  # type: ignore[return-value]

    def forget(self, ids: Collection[FileId]) -> None:
        """Drop all that was decoded from these files; what is being decoded is not kept. Unknown ids do no harm."""
        with self._lock:
            for key in [key for key in self._held if key.file_id in ids]:
                self._drop(key)
            for key in [key for key in self._flights if key.file_id in ids]:
                del self._flights[key]

    def heed(self, event: Event) -> None:
        """An observer that forgets the files that this process removes."""
        if isinstance(event, (FileDeleted, FileExpired, FileEvicted)):
            self.forget((event.file_id,))

    async def check(self, exists: Callable[[FileId], Awaitable[bool]]) -> None:
        """Drop what was decoded from files that are no more, whoever removed them.

        Args:
            exists: Whether there is such a file now, not expired.
        """
        with self._lock:
            ids = {key.file_id for key in self._held}
        for file_id in ids:
            if not await exists(file_id):
                self.forget((file_id,))

    async def run(
        self,
        exists: Callable[[FileId], Awaitable[bool]],
        *,
        every_s: float = CHECK_EVERY_S,
    ) -> None:
        """Check for ever; run it as a task. A failure is logged and tried again."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.check(exists)
            except Exception:
                logger.exception("decoded media could not be checked; trying again")

    async def _wait(self, flight: _Flight, key: _Key, *, is_mine: bool) -> None:
        flight.askers += 1
        try:
            await asyncio.wait((flight.task,))
        except asyncio.CancelledError:
            flight.is_orphan |= is_mine
            raise
        finally:
            flight.askers -= 1
            if not flight.askers and not flight.task.done():
                flight.task.cancel()
                self._land(flight, key)

    async def _fly(
        self,
        flight: _Flight,
        key: _Key,
        file: FileObject,
        decode: Callable[[], Awaitable[object]],
    ) -> None:
        try:
            media = self._with_stand_in(file, key.settings, await self._timed(decode))
            size_bytes = size_of(media)
            is_shared = size_bytes is not None and flight.askers > 1
            if is_shared or self._fits(size_bytes):
                flight.master = await asyncio.to_thread(own, media)
                if self._flights.get(key) is flight:
                    self._keep(key, flight.master)
            flight.spare.append(media)
        finally:
            self._land(flight, key)

    def _land(self, flight: _Flight, key: _Key) -> None:
        """Let nobody join any more."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _timed(self, decode: Callable[[], Awaitable[_T]]) -> _T:
        began = time.monotonic()
        media = await decode()
        self._tell(MediaDecoded(elapsed_s=time.monotonic() - began))
        return media

    def _with_stand_in(self, file: FileObject, settings: Settings, media: _T) -> _T:
        """The same media, with what stands for the encoded bytes in place of them."""
        if self._original is None or not is_wrapper(media):
            return media
        stand_in = self._original(file, settings)
        if stand_in is None:
            return media
        return rewrapped(media, {**vars(media), ORIGINAL_BYTES: stand_in})

    def _fits(self, size_bytes: int | None) -> bool:
        return size_bytes is not None and size_bytes + ENTRY_BYTES <= self._max_bytes

    def _find(self, key: _Key) -> object | None:
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            self._held.move_to_end(key)
            self._observer(DecodedMediaReused())
            return held.media

    def _keep(self, key: _Key, media: object) -> None:
        """Keep `media`, which nobody else has, if they fit: a copy may be larger than what it was made from."""
        measured_bytes = size_of(media)
        if measured_bytes is None or not self._fits(measured_bytes):
            return
        size_bytes = measured_bytes + ENTRY_BYTES
        with self._lock:
            if key in self._held:
                self._drop(key)
            while self._held_bytes + size_bytes > self._max_bytes:
                self._drop(next(iter(self._held)))
                self._observer(DecodedMediaEvicted())
            self._held[key] = _Held(media, size_bytes)
            self._held_bytes += size_bytes
            self._observer(DecodedMediaHeld(size_bytes_delta=size_bytes))

    def _drop(self, key: _Key) -> None:
        size_bytes = self._held.pop(key).size_bytes
        self._held_bytes -= size_bytes
        self._observer(DecodedMediaHeld(size_bytes_delta=-size_bytes))

    def _tell(self, event: Event) -> None:
        with self._lock:
            self._observer(event)


def _heard(task: asyncio.Task[None]) -> None:
    """Spare asyncio the complaint about an error that nobody waited for."""
    if not task.cancelled():
        task.exception()


def settings_of(media_io: object) -> Settings | None:
    """What decides how `media_io`, one of vLLM's, decodes; None: that cannot be told, so nothing of it may be kept.

    All of its attributes count, and those of the decoders among them (an image decoder within a video decoder, the
    loader of a video backend), with their classes: plain values, collections of them, and classes that can be
    imported by their names. Any other value, in an attribute that nobody has thought of yet, makes it None.

    Settings in the environment (`VLLM_VIDEO_LOADER_BACKEND`, `VLLM_MAX_AUDIO_DECODE_DURATION_S`, …) do not count:
    vLLM reads them once, after its start, and a cache lives no longer than its process.
    """
    try:
        text = _written_decoder(media_io, 0)
    except (UnknownValueError, ValueError):  # ValueError: an integer of thousands of digits
        return None
    return Settings(hashlib.sha256(text.encode()).hexdigest())


class _Plain:
    """An object whose whole state is in its `__dict__`: the measure for others."""


def _written(value: object, depth: int) -> str:
    """Text that is the same for equal values of the same types, and for no others."""
    if depth > _MAX_DEPTH:
        raise UnknownValueError
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return f"{kind.__name__}({value!r})"
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        return f"{kind.__name__}({','.join(_written(item, depth + 1) for item in value)})"
    if isinstance(value, (set, frozenset)) and kind in (set, frozenset):
        return f"{kind.__name__}({','.join(sorted(_written(item, depth + 1) for item in value))})"
    if isinstance(value, dict) and kind is dict:
        return _written_mapping(value, depth + 1)
    if isinstance(value, type):
        return f"class({_importable(value)})"
    return _written_decoder(value, depth + 1)


def _written_mapping(mapping: dict[Any, Any], depth: int) -> str:
    # The order in which a client names options means nothing.
    items = sorted(f"{_written(k, depth)}:{_written(v, depth)}" for k, v in mapping.items())
    return f"dict({','.join(items)})"


def _written_decoder(value: object, depth: int) -> str:
    kind = type(value)
    # Slots, or a base class in C, would hide state from `vars`; both make an instance larger than a plain one.
    if not callable(getattr(kind, "load_bytes", None)) or (
        kind.__basicsize__ != _Plain.__basicsize__
    ):
        raise UnknownValueError
    return f"{_importable(kind)}({_written_mapping(vars(value), depth + 1)})"


def _importable(kind: type) -> str:
    """The name of a class, if it leads to this very class."""
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not kind:
        raise UnknownValueError
    return f"{kind.__module__}.{kind.__qualname__}"
