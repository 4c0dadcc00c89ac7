"""Metrics: what is counted, by whom, and how Prometheus reads it. Its own parser is the judge."""

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mediagate.core.errors import FileTooLarge, RouteNotFound
from mediagate.core.events import (
    Event,
    FileDeleted,
    FileEvicted,
    FileExpired,
    FileReceived,
    FileRetrieved,
    FilesListed,
    ReceiveBegan,
    ReceiveEnded,
    RequestEnded,
    RequestFailed,
    UpstreamAnswered,
    UpstreamFailed,
)
from mediagate.core.files import new_file_id
from mediagate.core.scopes import Scope
from mediagate.observe.metrics import (
    BUCKETS_S,
    COUNTED,
    FILES,
    QUOTA_BYTES,
    RESERVED_BYTES,
    STORE,
    USED_BYTES,
    Board,
    Kind,
    Metrics,
)

SCOPE = Scope("tenant-7")
ID = new_file_id()
OF_FILE: dict[str, Any] = {"scope": SCOPE, "file_id": ID, "size_bytes": 1000}
EMPTY = dict.fromkeys(STORE, 0.0)


def received(*, seconds: float = 1.0, size_bytes: int = 1000) -> FileReceived:
    of_file = OF_FILE | {"size_bytes": size_bytes}
    return FileReceived(**of_file, mime_type="image/png", elapsed_s=seconds)


def ended(seconds: float = 1.0) -> RequestEnded:
    return RequestEnded(
        request_id="a",
        method="GET",
        raw_path=f"/v1/files/{ID}",
        status=200,
        received_bytes=0,
        sent_bytes=0,
        elapsed_s=seconds,
    )


def scraped(metrics: Metrics) -> dict[str, float]:
    """Every sample, by its name and labels."""
    samples = {}
    for family in text_string_to_metric_families(metrics.text(EMPTY)):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(board=Board())


@pytest.mark.parametrize(
    ("event", "sample", "amount"),
    [
        (received(), "mediagate_operations_total{op=file.upload}", 1),
        (FileRetrieved(**OF_FILE), "mediagate_operations_total{op=file.retrieve}", 1),
        (FilesListed(scope=SCOPE), "mediagate_operations_total{op=file.list}", 1),
        (FileDeleted(**OF_FILE), "mediagate_operations_total{op=file.delete}", 1),
        (received(size_bytes=2**53), "mediagate_received_bytes_total", 2**53),
        (FileEvicted(**OF_FILE), "mediagate_evictions_total", 1),
        (FileExpired(**OF_FILE), "mediagate_expiries_total", 1),
        (ReceiveBegan(), "mediagate_receives_in_flight", 1),
        (ReceiveEnded(), "mediagate_receives_in_flight", -1),
        (
            RequestFailed(scope=None, error=FileTooLarge("x")),
            "mediagate_rejects_total{reason=size_exceeded}",
            1,
        ),
        (UpstreamAnswered(status=200), "mediagate_upstream_answers_total{status=2xx}", 1),
        (UpstreamAnswered(status=503), "mediagate_upstream_answers_total{status=5xx}", 1),
        (UpstreamAnswered(status=999), "mediagate_upstream_answers_total{status=other}", 1),
        (UpstreamFailed(), "mediagate_upstream_failures_total", 1),
    ],
)
def test_event_moves_its_number(metrics: Metrics, event: Event, sample: str, amount: int) -> None:
    """H98."""
    before = scraped(metrics)

    metrics(event)

    assert scraped(metrics)[sample] == before[sample] + amount


def test_error_that_refuses_nobody_is_no_reject(metrics: Metrics) -> None:
    before = scraped(metrics)

    metrics(RequestFailed(scope=None, error=RouteNotFound("x")))

    assert scraped(metrics) == before


@pytest.mark.parametrize(
    ("seconds", "first_bucket"),
    [(0.0, "0.005"), (0.005, "0.005"), (0.0051, "0.025"), (1800.0, "1800.0"), (1801.0, "+Inf")],
)
def test_duration_falls_into_the_buckets_that_hold_it(
    metrics: Metrics, seconds: float, first_bucket: str
) -> None:
    """H98: a bucket holds what is at most its bound, and all that the smaller ones hold."""
    metrics(ended(seconds))

    samples = scraped(metrics)
    bounds = [str(bound) for bound in BUCKETS_S] + ["+Inf"]
    counts = {b: samples[f"mediagate_request_seconds_bucket{{le={b}}}"] for b in bounds}
    at = bounds.index(first_bucket)
    assert counts == dict.fromkeys(bounds[:at], 0) | dict.fromkeys(bounds[at:], 1)
    assert samples["mediagate_request_seconds_sum"] == seconds
    assert samples["mediagate_request_seconds_count"] == 1


def test_clock_that_was_set_back_counts_as_no_time(metrics: Metrics) -> None:
    metrics(received(seconds=-3600.0))

    samples = scraped(metrics)
    assert samples["mediagate_receive_seconds_sum"] == 0
    assert samples["mediagate_receive_seconds_count"] == 1


def test_any_worker_tells_what_all_have_counted() -> None:
    """H98: a scrape reaches one of them, and counters must not jump."""
    board = Board(workers=3)
    workers = [Metrics(board=board, worker=n) for n in range(3)]

    for n, worker in enumerate(workers):
        for _ in range(n + 1):
            worker(FilesListed(scope=SCOPE))

    told = [scraped(worker)["mediagate_operations_total{op=file.list}"] for worker in workers]
    assert told == [6, 6, 6]


def test_worker_in_the_place_of_a_dead_one_goes_on_counting() -> None:
    """H98: counters never fall; receives that died with their worker are in flight no more."""
    board = Board(workers=2)
    Metrics(board=board, worker=0)(ReceiveBegan())
    dead = Metrics(board=board, worker=1)
    dead(ReceiveBegan())
    dead(received())

    successor = Metrics(board=board, worker=1)
    successor(received())

    samples = scraped(successor)
    assert samples["mediagate_received_bytes_total"] == 2000
    assert samples["mediagate_receives_in_flight"] == 1


def test_text_is_what_prometheus_reads(metrics: Metrics) -> None:
    """H98: every family with its type and its help, named by Prometheus' conventions."""
    text = metrics.text(EMPTY | {QUOTA_BYTES: 5 * 1024**3, USED_BYTES: 7, RESERVED_BYTES: 2})

    families = {family.name: family for family in text_string_to_metric_families(text)}
    declared = {metric.name.removesuffix("_total"): metric for metric in (*STORE, *COUNTED)}
    assert families.keys() == declared.keys()
    for name, family in families.items():
        metric = declared[name]
        assert (family.type, family.documentation) == (metric.kind, metric.text)
        assert metric.name.startswith("mediagate_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert all(math.isfinite(sample.value) for sample in family.samples)
    told = [families[m.name].samples[0].value for m in (USED_BYTES, RESERVED_BYTES, FILES)]
    assert told == [7, 2, 0]
    assert families["mediagate_store_quota_bytes"].samples[0].value == 5 * 1024**3


def test_no_number_is_about_a_tenant_or_a_file(metrics: Metrics) -> None:
    """H98: no scope and no id is a label."""
    before = set(scraped(metrics))
    for event in (received(), FileEvicted(**OF_FILE), ended(), FilesListed(scope=SCOPE)):
        metrics(event)

    assert set(scraped(metrics)) == before
    assert {metric.label for metric in COUNTED} == {None, "op", "reason", "status"}
