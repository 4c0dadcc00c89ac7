"""Numbers for Prometheus: which there are, what each event does to them, and where the gateway's workers count them.

Every worker process counts for itself, in memory that all of them share: whichever worker a scrape reaches adds up what
all have counted. Each writes to a row of its own and nobody else does, so there are no locks; a worker that takes the
place of a dead one goes on with its row, so counters never fall. This works because every series is known beforehand:
labels are operations, reasons and classes, never scopes or ids.
"""

import itertools
import mmap
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mediagate.core.events import (
    DecodedMediaEvicted,
    DecodedMediaHeld,
    DecodedMediaReused,
    Event,
    FileEvicted,
    FileExpired,
    FileReceived,
    MediaDecoded,
    ReceiveBegan,
    ReceiveEnded,
    RequestEnded,
    RequestFailed,
    UpstreamAnswered,
    UpstreamFailed,
)
from mediagate.observe.audit import OPERATIONS, REMOVED
from mediagate.observe.reasons import reason_of, reasons

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Of all durations: from a listing to an upload that takes its time."""


class Kind(StrEnum):
    """What Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family.

    Attributes:
        name: With its unit, as Prometheus wants it.
        kind: What it is.
        text: What it counts.
        label: The one label; None: it has none.
        values: All values of the label.
    """

    name: str
    kind: Kind
    text: str
    label: str | None = None
    values: Sequence[str] = ("",)

    @property
    def cells(self) -> int:
        """How many numbers it takes; a histogram: its buckets, the rest, the sum."""
        return len(BUCKETS_S) + 2 if self.kind is Kind.HISTOGRAM else len(self.values)


_ASKED_FOR = tuple(
    operation
    for event, operation in OPERATIONS.items()
    if event not in REMOVED and event is not RequestFailed
)
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")

OPERATIONS_DONE = Metric(
    "mediagate_operations_total",
    Kind.COUNTER,
    "Operations on files that were asked for and done, by their names in the audit log.",
    "op",
    _ASKED_FOR,
)
REJECTS = Metric(
    "mediagate_rejects_total",
    Kind.COUNTER,
    "Requests that were refused, by reason.",
    "reason",
    tuple(reasons()),
)
EVICTIONS = Metric("mediagate_evictions_total", Kind.COUNTER, "Files that made room for others.")
EXPIRIES = Metric("mediagate_expiries_total", Kind.COUNTER, "Files whose time was up.")
RECEIVED_BYTES = Metric(
    "mediagate_received_bytes_total", Kind.COUNTER, "Bytes of the files that were received."
)
RECEIVE_SECONDS = Metric(
    "mediagate_receive_seconds",
    Kind.HISTOGRAM,
    "How long it took to receive a file, from its first byte (of an Upload: its creation) until it was durable.",
)
RECEIVES_IN_FLIGHT = Metric(
    "mediagate_receives_in_flight",
    Kind.GAUGE,
    "Uploads that are coming in now, and hold a slot for it.",
)
REQUEST_SECONDS = Metric(
    "mediagate_request_seconds",
    Kind.HISTOGRAM,
    "How long requests took, whoever answered them, from the head to the end of the answer.",
)
UPSTREAM_ANSWERS = Metric(
    "mediagate_upstream_answers_total",
    Kind.COUNTER,
    "Answers of the upstream, by class of status.",
    "status",
    _CLASSES,
)
UPSTREAM_FAILURES = Metric(
    "mediagate_upstream_failures_total",
    Kind.COUNTER,
    "Requests that the upstream did not answer, or not to the end.",
)

COUNTED = (
    OPERATIONS_DONE,
    REJECTS,
    EVICTIONS,
    EXPIRIES,
    RECEIVED_BYTES,
    RECEIVE_SECONDS,
    RECEIVES_IN_FLIGHT,
    REQUEST_SECONDS,
    UPSTREAM_ANSWERS,
    UPSTREAM_FAILURES,
)
"""What workers count; the order of the cells in a row."""

DECODINGS = Metric(
    "mediagate_decodings_total",
    Kind.COUNTER,
    "Files that were read and decoded for the engine, as no decoded form of them was held.",
)
DECODE_SECONDS = Metric(
    "mediagate_decode_seconds", Kind.HISTOGRAM, "How long it took to read and decode a file."
)
DECODED_REUSES = Metric(
    "mediagate_decoded_reuses_total",
    Kind.COUNTER,
    "Media that a request got without anything being read, as they had been decoded for another.",
)
DECODED_EVICTIONS = Metric(
    "mediagate_decoded_evictions_total",
    Kind.COUNTER,
    "Decoded media that made room for others.",
)
DECODED_BYTES = Metric(
    "mediagate_decoded_held_bytes",
    Kind.GAUGE,
    "Decoded media that are held in memory, by all API servers together.",
)

DECODED = (DECODINGS, DECODE_SECONDS, DECODED_REUSES, DECODED_EVICTIONS, DECODED_BYTES)
"""Of the cache of decoded media, which only an engine in the same process has: no worker counts them."""

USED_BYTES = Metric(
    "mediagate_store_used_bytes", Kind.GAUGE, "What counts against the store's quota."
)
RESERVED_BYTES = Metric(
    "mediagate_store_reserved_bytes",
    Kind.GAUGE,
    "The part of it that is reserved for files on their way in.",
)
FILES = Metric(
    "mediagate_store_files",
    Kind.GAUGE,
    "Files, those on their way in or out included.",
)
QUOTA_BYTES = Metric("mediagate_store_quota_bytes", Kind.GAUGE, "The store's quota.")

STORE = (USED_BYTES, RESERVED_BYTES, FILES, QUOTA_BYTES)
"""What is asked of the index at every scrape, so that all who share the store say the same."""


class Change(NamedTuple):
    """What an event does to one number.

    Attributes:
        metric: The family.
        amount: What is added; of a histogram: the seconds that were observed, never less than 0.
        value: Of the family's label.
    """

    metric: Metric
    amount: float = 1
    value: str = ""


_EACH: Mapping[type[Event], Change] = {
    FileEvicted: Change(EVICTIONS),
    FileExpired: Change(EXPIRIES),
    ReceiveBegan: Change(RECEIVES_IN_FLIGHT),
    ReceiveEnded: Change(RECEIVES_IN_FLIGHT, -1),
    UpstreamFailed: Change(UPSTREAM_FAILURES),
    MediaDecoded: Change(DECODINGS),
    DecodedMediaReused: Change(DECODED_REUSES),
    DecodedMediaEvicted: Change(DECODED_EVICTIONS),
}
"""What each event of a kind does, whatever it says."""


def changes(event: Event) -> Iterator[Change]:
    """What `event` does to the numbers, wherever they are counted."""
    operation = OPERATIONS.get(type(event))
    if operation in _ASKED_FOR:
        yield Change(OPERATIONS_DONE, value=operation)
    if type(event) in _EACH:
        yield _EACH[type(event)]
    match event:
        case FileReceived(size_bytes=size_bytes, elapsed_s=elapsed_s):
            yield Change(RECEIVED_BYTES, size_bytes)
            yield _observed(RECEIVE_SECONDS, elapsed_s)
        case RequestFailed(error=error):
            reason = reason_of(error)
            if reason is not None:
                yield Change(REJECTS, value=reason)
        case RequestEnded(elapsed_s=elapsed_s):
            yield _observed(REQUEST_SECONDS, elapsed_s)
        case UpstreamAnswered(status=status):
            of_status = f"{status // 100}xx"
            yield Change(UPSTREAM_ANSWERS, value=of_status if of_status in _CLASSES else "other")
        case MediaDecoded(elapsed_s=elapsed_s):
            yield _observed(DECODE_SECONDS, elapsed_s)
        case DecodedMediaHeld(size_bytes_delta=size_bytes_delta):
            yield Change(DECODED_BYTES, size_bytes_delta)


def _observed(metric: Metric, seconds: float) -> Change:
    return Change(metric, max(seconds, 0.0))  # a clock may be set back


_FIRST_CELL = {
    metric: sum(before.cells for before in COUNTED[:n]) for n, metric in enumerate(COUNTED)
}
_ROW_CELLS = sum(metric.cells for metric in COUNTED)


class Board:
    """The numbers of all workers. Made before they are forked, which is how they come to share it.

    Args:
        workers: How many rows.
    """

    def __init__(self, *, workers: int = 1) -> None:
        memory = mmap.mmap(-1, workers * _ROW_CELLS * 8)
        self._cells = memoryview(memory).cast("d")

    def add(self, worker: int, cell: int, amount: float) -> None:
        """Add to a number of one worker, which is this one."""
        self._cells[worker * _ROW_CELLS + cell] += amount

    def clear(self, worker: int, cell: int) -> None:
        """Set a number of one worker to zero."""
        self._cells[worker * _ROW_CELLS + cell] = 0.0

    def sums(self) -> Sequence[float]:
        """A row with the numbers of all workers added up."""
        return [sum(self._cells[cell::_ROW_CELLS]) for cell in range(_ROW_CELLS)]


class Metrics:
    """An observer that counts, for one worker.

    Args:
        board: Where; shared with the other workers.
        worker: Its number, from 0.
    """

    def __init__(self, *, board: Board, worker: int = 0) -> None:
        self._board = board
        self._worker = worker
        # A worker that was killed had receives in flight, and has them no more.
        board.clear(worker, _FIRST_CELL[RECEIVES_IN_FLIGHT])

    def __call__(self, event: Event) -> None:
        """Count what happened."""
        for metric, amount, value in changes(event):
            first = _FIRST_CELL.get(metric)
            if first is None:
                continue  # counted where there is a cache of decoded media
            if metric.kind is Kind.HISTOGRAM:
                self._board.add(self._worker, first + bisect_left(BUCKETS_S, amount), 1)
                self._board.add(self._worker, first + len(BUCKETS_S) + 1, amount)
            else:
                self._board.add(self._worker, first + metric.values.index(value), amount)

    def text(self, store: Mapping[Metric, float]) -> str:
        """Everything in Prometheus' text format 0.0.4.

        Args:
            store: A number for each metric of `STORE`.
        """
        sums = self._board.sums()
        lines: list[str] = []
        for metric in STORE:
            lines += (*_head(metric), f"{metric.name} {_number(store[metric])}")
        for metric in COUNTED:
            first = _FIRST_CELL[metric]
            numbers = sums[first : first + metric.cells]
            lines += _head(metric)
            lines += (
                _histogram(metric, numbers)
                if metric.kind is Kind.HISTOGRAM
                else _plain(metric, numbers)
            )
        return "\n".join((*lines, ""))


def _head(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.text}"
    yield f"# TYPE {metric.name} {metric.kind}"


def _plain(metric: Metric, numbers: Sequence[float]) -> Iterator[str]:
    for value, number in zip(metric.values, numbers, strict=True):
        labels = "" if metric.label is None else f'{{{metric.label}="{value}"}}'
        yield f"{metric.name}{labels} {_number(number)}"


def _histogram(metric: Metric, numbers: Sequence[float]) -> Iterator[str]:
    *buckets, total_s = numbers
    for bound, count in zip((*BUCKETS_S, "+Inf"), itertools.accumulate(buckets), strict=True):
        yield f'{metric.name}_bucket{{le="{bound}"}} {_number(count)}'
    yield f"{metric.name}_sum {_number(total_s)}"
    yield f"{metric.name}_count {_number(sum(buckets))}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
