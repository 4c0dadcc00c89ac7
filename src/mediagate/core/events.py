"""Frozen records of what happened. Operations and the edge emit them; observers decide what to write and count."""

from collections.abc import Callable
from dataclasses import dataclass

from mediagate.core.errors import MediagateError
from mediagate.core.files import FileId
from mediagate.core.scopes import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent(Event):
    """Something happened to one file of `size_bytes`, which belongs to `scope`."""

    scope: Scope
    file_id: FileId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReceived(FileEvent):
    """A file was received, is durable and acknowledged."""

    mime_type: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRetrieved(FileEvent):
    """Its metadata was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDownloaded(FileEvent):
    """Its content was opened, to be sent whole or in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResolved(FileEvent):
    """A request named it, and the upstream gets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDeleted(FileEvent):
    """Its owner deleted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExpired(FileEvent):
    """Its time was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvicted(FileEvent):
    """It made room for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesListed(Event):
    """One page of the files of a scope was read."""

    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveBegan(Event):
    """A receive took its slot; `ReceiveEnded` follows, whatever becomes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveEnded(Event):
    """A receive gave its slot back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed(Event):
    """A request got an error of ours as its answer.

    Attributes:
        scope: The caller's; None: that was not found out.
        error: The answer.
    """

    scope: Scope | None
    error: MediagateError


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded(Event):
    """One request is over.

    Attributes:
        request_id: Of this request; fit for a log.
        method: As sent.
        raw_path: As sent, percent-encoding and all; may hold capability ids: mask it before it is written.
        status: Of the answer; 499: the client left before there was one.
        received_bytes: Of the request body, as far as it was read.
        sent_bytes: Of the response body.
        elapsed_s: From the request's head to the end of the answer.
    """

    request_id: str
    method: str
    raw_path: str
    status: int
    received_bytes: int
    sent_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAnswered(Event):
    """The head of an answer came from the upstream."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFailed(Event):
    """The upstream gave no answer, or broke one off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaDecoded(Event):
    """A file was read and decoded for the engine, because no decoded form of it was held.

    Attributes:
        elapsed_s: Reading included.
    """

    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMediaReused(Event):
    """A request got media that were decoded before, or were being decoded for another; nothing was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMediaHeld(Event):
    """The decoded media held in memory became more or fewer.

    Attributes:
        size_bytes_delta: Taken in (> 0), or given up: forgotten, replaced or evicted (< 0).
    """

    size_bytes_delta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMediaEvicted(Event):
    """One decoded form of a file made room for another; `DecodedMediaHeld` counts its bytes."""


Observer = Callable[[Event], None]
"""Told of each event, in order, on the event loop; must not block and must not raise."""


def ignore(_event: Event) -> None:
    """An observer for those who want none."""


def each(*observers: Observer) -> Observer:
    """One observer that tells all of `observers`, in that order."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell
