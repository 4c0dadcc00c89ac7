"""`/metrics` of a real server, read by Prometheus' own parser, before and after."""

import os
import signal
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import RawClient, Server
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
PNG = corpus.png_pixel()
MIB = 1024**2

Samples = dict[str, float]


def scrape(server: Server, **headers: str) -> Samples:
    """Every sample, by its name and its label's value."""
    answer = servers.get(server, "/metrics", **headers)
    assert answer.status == 200, answer
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def changes(before: Samples, after: Samples) -> Samples:
    """What moved, durations left out."""
    assert before.keys() == after.keys()
    return {
        name: after[name] - value
        for name, value in before.items()
        if after[name] != value and "_seconds" not in name
    }


class Upstream(ThreadedUpstream):
    def __init__(self) -> None:
        super().__init__()
        self.server.handlers |= {CHAT: self._answer, "/broken": self._break_off}

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        await request.answer(b"{}")

    async def _break_off(self, request: Received) -> None:
        await request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        request.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def two_workers(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--upstream", upstream.server.url, "--engine", "openai", "--workers", "2"]
    flags += ["--file-upload-max-size-mb", "1"]
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


def ask(server: Server, *urls: str) -> int:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return servers.post_json(server, CHAT, body).status


def test_what_was_done_is_counted_whichever_worker_did_it(two_workers: Server) -> None:
    """H98: and whichever is asked: counters are one, they do not jump from scrape to scrape."""
    before = scrape(two_workers)

    ids = [servers.upload(two_workers, PNG)["id"] for _ in range(6)]
    for file_id in ids:
        assert servers.get(two_workers, f"/v1/files/{file_id}").status == 200
        assert servers.get(two_workers, f"/v1/files/{file_id}/content").status == 200
    assert len(servers.list_ids(two_workers)) == 6
    assert ask(two_workers, ids[0], ids[1]) == 200
    assert ask(two_workers) == 200
    # A file's bytes go when the last lease ends, which may be after the answer.
    servers.until(lambda: two_workers.leases() == 0)
    assert servers.delete(two_workers, f"/v1/files/{ids[0]}").status == 200
    assert servers.get(two_workers, f"/v1/files/{ids[0]}").status == 404
    assert ask(two_workers, ids[0]) == 404
    assert servers.put_file(two_workers, b"#!/bin/sh\n").status == 400
    assert servers.put_file(two_workers, PNG + bytes(3 * MIB)).status == 413
    assert servers.get(two_workers, "/nothing").status == 404

    scrapes = [scrape(two_workers) for _ in range(20)]
    moved = [changes(before, after) for after in scrapes]
    assert moved[0] == {
        "mediagate_store_used_bytes": 5 * len(PNG),
        "mediagate_store_files": 5,
        "mediagate_operations_total file.upload": 6,
        "mediagate_operations_total file.retrieve": 6,
        "mediagate_operations_total file.download": 6,
        "mediagate_operations_total file.list": 1,
        "mediagate_operations_total file.resolve": 2,
        "mediagate_operations_total file.delete": 1,
        "mediagate_rejects_total not_found": 2,
        "mediagate_rejects_total mime_mismatch": 1,
        "mediagate_rejects_total size_exceeded": 1,
        "mediagate_received_bytes_total": 6 * len(PNG),
        "mediagate_upstream_answers_total 2xx": 2,
        "mediagate_upstream_answers_total 4xx": 1,
    }
    assert moved == [moved[0]] * 20
    requests = [after["mediagate_request_seconds_count"] for after in scrapes]
    assert requests == sorted(requests)
    received = "mediagate_receive_seconds_count"
    assert scrapes[0][received] - before[received] == 6


def test_counters_outlive_the_worker_that_counted(two_workers: Server) -> None:
    """H98: what takes the place of a killed worker goes on where that one was."""
    servers.upload(two_workers, PNG)
    before = scrape(two_workers)
    workers = two_workers.children()

    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    servers.until(lambda: len(set(two_workers.children()) - set(workers)) == 2)
    servers.upload(two_workers, PNG)

    assert changes(before, scrape(two_workers)) == {
        "mediagate_store_used_bytes": len(PNG),
        "mediagate_store_files": 1,
        "mediagate_operations_total file.upload": 1,
        "mediagate_received_bytes_total": len(PNG),
    }


def test_upload_on_its_way_is_in_flight_and_reserved(two_workers: Server) -> None:
    """H98."""
    before = scrape(two_workers)
    with RawClient(two_workers) as client:
        client.send_head("PUT", "/v1/files", f"Content-Length: {MIB}")
        client.send(PNG + bytes(8192))
        during = servers.until(
            lambda: (
                after
                if (after := scrape(two_workers))["mediagate_store_reserved_bytes"] > 0
                else None
            )
        )

    assert changes(before, during) == {
        "mediagate_receives_in_flight": 1,
        "mediagate_store_reserved_bytes": MIB,
        "mediagate_store_used_bytes": MIB,
        "mediagate_store_files": 1,
    }
    servers.until(lambda: changes(before, scrape(two_workers)) == {} or None)


def test_upstream_that_fails_is_counted(two_workers: Server, upstream: Upstream) -> None:
    """H98: no answer at all, and one that broke off."""
    before = scrape(two_workers)

    with RawClient(two_workers) as client:
        client.send_head("GET", "/broken")
        client.read_rest()
    broken = servers.until(
        lambda: (
            moved
            if "mediagate_upstream_failures_total"
            in (moved := changes(before, scrape(two_workers)))
            else None
        )
    )

    assert broken == {
        "mediagate_upstream_answers_total 2xx": 1,
        "mediagate_upstream_failures_total": 1,
    }


def test_upstream_that_is_not_there_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """H98: the client's 502 is no refusal of a file."""
    store = tmp_path_factory.mktemp("store")
    flags = ("--upstream", "http://127.0.0.1:9", "--engine", "openai")
    with servers.serving(*flags, store=store) as server:
        before = scrape(server)
        assert servers.get(server, "/v1/models").status == 502
        after = scrape(server)

    assert changes(before, after) == {"mediagate_upstream_failures_total": 1}


def test_evictions_are_counted_and_the_quota_is_told(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """H98."""
    store = tmp_path_factory.mktemp("store")
    with servers.serving("--file-upload-max-total-gb", str(1 / 1024), store=store) as server:
        for _ in range(3):
            assert servers.put_file(server, PNG + bytes(600_000)).status == 200
        samples = scrape(server)

    assert samples["mediagate_evictions_total"] == 2
    assert samples["mediagate_store_quota_bytes"] == MIB
    assert samples["mediagate_store_used_bytes"] == 600_000 + len(PNG)
    assert samples["mediagate_store_files"] == 1


def test_metrics_are_behind_the_key_and_need_no_tenant(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """H98: nothing of a tenant is in them, so none need be named; but they are not for everybody."""
    flags = ("--api-key", "the-key", "--file-upload-scope-header", "X-Tenant")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        refused = servers.get(server, "/metrics")
        put = servers.request(
            server,
            "PUT",
            "/v1/files",
            PNG,
            headers={"authorization": "Bearer the-key", "x-tenant": "tenant-of-somebody"},
        )
        samples = scrape(server, authorization="Bearer the-key")

    assert refused.code == (401, "invalid_api_key")
    assert put.status == 200
    assert samples["mediagate_operations_total file.upload"] == 1
    assert samples["mediagate_rejects_total invalid_api_key"] == 1
    assert "of-somebody" not in "".join(samples)
    assert put.json()["id"] not in "".join(samples)
