"""Numbers inside vLLM: counted with `prometheus_client`, so that they stand in vLLM's own `/metrics`.

That is so however many API servers there are: each counts for itself, and vLLM adds up the files of all of them.
vLLM brings `prometheus_client`, a plain installation of ours does not: it is imported when it is needed.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mediagate.core.events import Event
from mediagate.observe.metrics import (
    BUCKETS_S,
    COUNTED,
    DECODED,
    FILES,
    QUOTA_BYTES,
    REQUEST_SECONDS,
    RESERVED_BYTES,
    STORE,
    UPSTREAM_ANSWERS,
    UPSTREAM_FAILURES,
    USED_BYTES,
    Kind,
    Metric,
    changes,
)

if TYPE_CHECKING:
    from mediagate.operations.files import Files

logger = logging.getLogger(__name__)

LEFT_TO_VLLM = (REQUEST_SECONDS, UPSTREAM_ANSWERS, UPSTREAM_FAILURES)
"""vLLM has numbers of its own for requests, of which only some pass through us; and it is no upstream that may fail."""

COUNTED_HERE = (*(metric for metric in COUNTED if metric not in LEFT_TO_VLLM), *DECODED)
"""What is counted inside vLLM, besides `STORE`."""

ASK_EVERY_S = 5.0
"""How old the numbers of `STORE` may be: a scrape does not come to us, so the index is asked beforehand."""


class VllmMetrics:
    """An observer that counts, for this process; may be called from any thread. All of them count together.

    Raises:
        ImportError: There is no `prometheus_client`.
    """

    def __init__(self) -> None:
        self._series = _series()

    def __call__(self, event: Event) -> None:
        """Count what happened."""
        for metric, amount, value in changes(event):
            count = self._series.get((metric, value))
            if count is not None:  # otherwise it is left to vLLM
                count(amount)

    async def keep_current(
        self, files: "Files", *, quota_bytes: int, every_s: float = ASK_EVERY_S
    ) -> None:
        """Ask what the store holds, for ever; run it as a task. Numbers that cannot be had are NaN.

        Every process that shares the store does so, and is told the same: a scrape shows the latest answer.
        """
        is_known = True
        while True:
            try:
                usage, reserved = await files.usage()
            except Exception:
                self._tell(dict.fromkeys(STORE, math.nan) | {QUOTA_BYTES: quota_bytes})
                if is_known:  # once, or it would fill the log
                    logger.exception("the store does not tell what it holds; trying again")
                is_known = False
            else:
                self._tell(
                    {
                        USED_BYTES: usage.used_bytes,
                        RESERVED_BYTES: reserved.used_bytes,
                        FILES: usage.files,
                        QUOTA_BYTES: quota_bytes,
                    }
                )
                is_known = True
            await asyncio.sleep(every_s)

    def _tell(self, store: Mapping[Metric, float]) -> None:
        for metric, number in store.items():
            self._series[metric, ""](number)


@functools.cache  # prometheus_client takes each name once in a process
def _series() -> Mapping[tuple[Metric, str], Callable[[float], None]]:
    """What takes the numbers of each series: a family, and the value of its label. All are scraped from now on."""
    return {
        series: take
        for metric in (*STORE, *COUNTED_HERE)
        for series, take in _series_of(metric).items()
    }


def _series_of(metric: Metric) -> Mapping[tuple[Metric, str], Callable[[float], None]]:
    from prometheus_client import Counter, Gauge, Histogram

    match metric.kind:
        case Kind.COUNTER if metric.label is not None:
            counter = Counter(metric.name, metric.text, (metric.label,))
            return {(metric, value): counter.labels(value).inc for value in metric.values}
        case Kind.COUNTER:
            return {(metric, ""): Counter(metric.name, metric.text).inc}
        case Kind.HISTOGRAM:
            return {(metric, ""): Histogram(metric.name, metric.text, buckets=BUCKETS_S).observe}
        case Kind.GAUGE if metric in STORE:
            # All processes tell of one store: their numbers must not be added up.
            return {
                (metric, ""): Gauge(metric.name, metric.text, multiprocess_mode="mostrecent").set
            }
        case Kind.GAUGE:
            gauge = Gauge(metric.name, metric.text, multiprocess_mode="livesum")
            gauge.set(0)  # a process that died, and had our number, has left what was going on
            return {(metric, ""): gauge.inc}
