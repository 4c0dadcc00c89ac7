"""Frozen records of what happened. Operations emit them; observers decide what to write."""

from collections.abc import Callable
from dataclasses import dataclass

from mediagate.core.files import FileId
from mediagate.core.scopes import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened to one file, in `scope`."""

    scope: Scope
    file_id: FileId


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReceived(Event):
    """A file was received, is durable and acknowledged."""

    size_bytes: int
    mime_type: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRetrieved(Event):
    """Its metadata was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDownloaded(Event):
    """Its content is being sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDeleted(Event):
    """Its owner deleted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExpired(Event):
    """Its time was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvicted(Event):
    """It made room for another."""

    size_bytes: int


Observer = Callable[[Event], None]
"""Told of each event, in order, on the event loop; must not block and must not raise."""


def ignore(_event: Event) -> None:
    """An observer for those who want none."""
