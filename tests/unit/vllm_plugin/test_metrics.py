"""Numbers inside vLLM, scraped as vLLM does it: from one process, and from the files of several."""

import asyncio
import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

import stores
from mediagate.core.errors import FileTooLarge, RouteNotFound
from mediagate.core.events import (
    DecodedMediaEvicted,
    DecodedMediaHeld,
    DecodedMediaReused,
    Event,
    FileDeleted,
    FileEvicted,
    FileExpired,
    FileReceived,
    FilesListed,
    MediaDecoded,
    ReceiveBegan,
    ReceiveEnded,
    RequestEnded,
    RequestFailed,
    UpstreamAnswered,
    UpstreamFailed,
)
from mediagate.core.files import new_file_id
from mediagate.core.scopes import Scope
from mediagate.observe.metrics import BUCKETS_S, DECODED, STORE, Board, Metrics
from mediagate.vllm_plugin.metrics import COUNTED_HERE, LEFT_TO_VLLM, VllmMetrics

TESTS = Path(__file__).parents[2]
SCOPE = Scope("tenant-7")
OF_FILE: dict[str, Any] = {"scope": SCOPE, "file_id": new_file_id(), "size_bytes": 1000}
EVENTS: list[Event] = [
    FileReceived(**OF_FILE, mime_type="image/png", elapsed_s=0.3),
    FileReceived(**OF_FILE, mime_type="image/png", elapsed_s=-1.0),
    FilesListed(scope=SCOPE),
    FileDeleted(**OF_FILE),
    FileEvicted(**OF_FILE),
    FileExpired(**OF_FILE),
    ReceiveBegan(),
    ReceiveBegan(),
    ReceiveEnded(),
    RequestFailed(scope=None, error=FileTooLarge("x")),
    RequestFailed(scope=None, error=RouteNotFound("x")),
    UpstreamAnswered(status=200),
    UpstreamFailed(),
    RequestEnded(
        request_id="a",
        method="GET",
        raw_path="/",
        status=200,
        received_bytes=0,
        sent_bytes=0,
        elapsed_s=1.0,
    ),
]

Samples = dict[str, float]


def samples_of(text: str) -> Samples:
    """Every sample of ours, by its name and labels."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("mediagate_") and not sample.name.endswith("_created"):
                labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def scraped() -> Samples:
    """What vLLM tells with one API server."""
    return samples_of(generate_latest(REGISTRY).decode())


def is_left_out(name: str) -> bool:
    return any(name.startswith(metric.name) for metric in LEFT_TO_VLLM)


@pytest.fixture
def metrics() -> VllmMetrics:
    return VllmMetrics()


# one API server --------------------------------------------------------------------------------------------


def test_events_move_the_numbers_that_they_move_in_the_gateway(metrics: VllmMetrics) -> None:
    """H98: same names, same labels, same buckets, same amounts."""
    gateway = Metrics(board=Board())
    before = scraped()

    for event in EVENTS:
        metrics(event)
        gateway(event)

    after = scraped()
    store = {metric.name for metric in STORE}
    in_gateway = {
        name: value
        for name, value in samples_of(gateway.text(dict.fromkeys(STORE, 0.0))).items()
        if name not in store and not is_left_out(name)
    }
    assert {name: after[name] - before[name] for name in in_gateway} == in_gateway
    assert sum(in_gateway.values()) > 2000  # something was counted


@pytest.mark.parametrize(
    ("event", "moved"),
    [
        (
            MediaDecoded(elapsed_s=0.2),
            {
                "mediagate_decodings_total": 1,
                "mediagate_decode_seconds_bucket{le=0.25}": 1,
                "mediagate_decode_seconds_bucket{le=0.1}": 0,
                "mediagate_decode_seconds_sum": 0.2,
                "mediagate_decode_seconds_count": 1,
            },
        ),
        (DecodedMediaReused(), {"mediagate_decoded_reuses_total": 1}),
        (DecodedMediaEvicted(), {"mediagate_decoded_evictions_total": 1}),
        (DecodedMediaHeld(size_bytes_delta=500), {"mediagate_decoded_held_bytes": 500}),
        (DecodedMediaHeld(size_bytes_delta=-200), {"mediagate_decoded_held_bytes": -200}),
    ],
)
def test_cache_of_decoded_media_is_counted(
    metrics: VllmMetrics, event: Event, moved: Samples
) -> None:
    """H98."""
    before = scraped()

    metrics(event)

    after = scraped()
    assert {name: after[name] - before[name] for name in moved} == pytest.approx(moved)


def test_gateway_knows_no_cache_of_decoded_media() -> None:
    gateway = Metrics(board=Board())
    text = gateway.text(dict.fromkeys(STORE, 0.0))

    for event in (MediaDecoded(elapsed_s=1), DecodedMediaReused(), DecodedMediaEvicted()):
        gateway(event)
    gateway(DecodedMediaHeld(size_bytes_delta=1))

    assert gateway.text(dict.fromkeys(STORE, 0.0)) == text
    assert not any(metric.name in text for metric in DECODED)


def test_families_are_those_of_the_table(metrics: VllmMetrics) -> None:
    """H98: each with its type and help, from the start; what is left to vLLM is not there."""
    families = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())
        if family.name.startswith("mediagate_") and not family.name.endswith("_created")
    }

    table = (*STORE, *COUNTED_HERE)
    assert families == {m.name.removesuffix("_total"): (m.kind, m.text) for m in table}
    bounds = [f"mediagate_receive_seconds_bucket{{le={b}}}" for b in (*BUCKETS_S, "+Inf")]
    assert [name for name in scraped() if name.startswith("mediagate_receive_seconds_b")] == bounds


def test_no_number_is_about_a_tenant_or_a_file(metrics: VllmMetrics) -> None:
    """H98: no scope and no id is a label."""
    before = set(scraped())

    for event in EVENTS:
        metrics(event)

    assert set(scraped()) == before


def test_made_again_it_goes_on_counting(metrics: VllmMetrics) -> None:
    """The app of vLLM may be started twice in a process, and a name can be registered once."""
    before = scraped()
    metrics(FilesListed(scope=SCOPE))

    VllmMetrics()(FilesListed(scope=SCOPE))

    listed = "mediagate_operations_total{op=file.list}"
    assert scraped()[listed] == before[listed] + 2


async def test_store_is_asked_again_and_again(
    metrics: VllmMetrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """H98: what it holds is told; what is not known is no number, and one line in the log."""
    names = [metric.name for metric in STORE]

    async def until(told: list[float]) -> None:
        async with asyncio.timeout(10):
            while [scraped()[name] for name in names] != pytest.approx(told, nan_ok=True):
                await asyncio.sleep(0.01)

    async with stores.opened(tmp_path, stores.Clock()) as store:
        asking = asyncio.create_task(metrics.keep_current(store.files, quota_bytes=7, every_s=0))
        await until([0, 0, 0, 7])
        file = await store.receive()
        await until([file.size_bytes, 0, 1, 7])
    await until([math.nan, math.nan, math.nan, 7])
    for _ in range(100):  # as many questions
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    told = [record for record in caplog.records if record.name == "mediagate.vllm_plugin.metrics"]
    assert len(told) == 1


def test_plain_installation_can_import_it() -> None:
    """There is no prometheus_client in it."""
    program = (
        "import sys, mediagate.vllm_plugin.metrics; sys.exit('prometheus_client' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# several ---------------------------------------------------------------------------------------------------

SERVER = """
import asyncio
import os
import sys
from pathlib import Path

sys.path.append(sys.argv[4])

import stores
from mediagate.core.events import *
from mediagate.core.scopes import Scope
from mediagate.vllm_plugin.metrics import VllmMetrics

directory, times, predecessor = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

async def main():
    if predecessor:
        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        for file in files.glob(f"*_{predecessor}.db"):
            file.rename(file.with_name(file.name.replace(predecessor, str(os.getpid()))))
    metrics = VllmMetrics()
    for _ in range(times):
        metrics(FilesListed(scope=Scope("a")))
        metrics(ReceiveBegan())
        metrics(MediaDecoded(elapsed_s=0.2))
        metrics(DecodedMediaHeld(size_bytes_delta=100))
    async with stores.opened(directory, stores.Clock()) as store:
        asking = asyncio.create_task(metrics.keep_current(store.files, quota_bytes=7, every_s=0.01))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        asking.cancel()

asyncio.run(main())
"""
LISTED = "mediagate_operations_total{op=file.list}"
IN_FLIGHT = "mediagate_receives_in_flight"
HELD = "mediagate_decoded_held_bytes"
DECODED_IN_TIME = "mediagate_decode_seconds_bucket{le=0.25}"


class Servers:
    """API servers that count, and share a store."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.store = directory / "store"
        self._files = directory / "files"
        self._stack = stack
        self.store.mkdir()
        self._files.mkdir()

    def start(self, *, times: int, predecessor: str = "") -> "subprocess.Popen[str]":
        """One that counts so many of each; it has the files of one that died, if it is given its number."""
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, self.store, str(times), predecessor, TESTS],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(self._files)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(server.__exit__, None, None, None)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return server

    def stop(self, server: "subprocess.Popen[str]") -> str:
        """Its number, when it has ended."""
        server.communicate()
        assert server.returncode == 0
        return str(server.pid)

    def bury(self, number: str) -> None:
        """Do what vLLM does when a process has ended."""
        mark_process_dead(number, str(self._files))  # type: ignore[no-untyped-call]

    def scraped(self) -> Samples:
        """What any of them tells."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._files))  # type: ignore[no-untyped-call]
        return samples_of(generate_latest(registry).decode())


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(tmp_path, stack)


def test_several_api_servers_count_together(servers: Servers) -> None:
    """H98: a scrape reaches one of them, and tells of all, under the names that one alone has."""
    servers.start(times=1)
    servers.start(times=2)

    told = servers.scraped()

    counts = [told[name] for name in (LISTED, IN_FLIGHT, HELD, DECODED_IN_TIME)]
    assert counts == [3, 3, 300, 3]
    VllmMetrics()
    store = {metric.name for metric in STORE}
    assert set(told) - store == set(scraped()) - store


async def test_several_api_servers_tell_of_one_store_once(servers: Servers) -> None:
    """H98: two servers that share a file have one."""
    servers.start(times=0)
    servers.start(times=0)

    async with stores.opened(servers.store, stores.Clock()) as store, asyncio.timeout(10):
        file = await store.receive()
        wanted = [file.size_bytes, 0, 1, 7]
        while [servers.scraped().get(metric.name) for metric in STORE] != wanted:
            await asyncio.sleep(0.01)


def test_counters_outlive_an_api_server_and_gauges_do_not(servers: Servers) -> None:
    """H98."""
    ended = servers.stop(servers.start(times=1))
    servers.start(times=2)

    servers.bury(ended)

    told = servers.scraped()
    assert [told[name] for name in (LISTED, IN_FLIGHT, HELD, DECODED_IN_TIME)] == [3, 2, 200, 3]


def test_api_server_with_the_number_of_a_dead_one_goes_on_counting(servers: Servers) -> None:
    """H98: counters never fall; what was in flight and in memory went with the process."""
    ended = servers.stop(servers.start(times=1))

    servers.start(times=2, predecessor=ended)

    told = servers.scraped()
    assert [told[name] for name in (LISTED, IN_FLIGHT, HELD, DECODED_IN_TIME)] == [3, 2, 200, 3]
