"""The audit log, the access log and the request id of a real server: what is told, and what is not."""

import concurrent.futures
import contextlib
import fcntl
import json
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import Answer, RawClient, Server
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
KEY = "key-that-nobody-may-read"
HEADER = "X-Tenant"
OURS, THEIRS = "alice@example.com", "bob@example.com"
FILENAME = "holiday-of-alice.png"
PNG = corpus.png_pixel()
MIB = 1024**2
UNKNOWN = "file-" + "0" * 32
FIELDS = ["op", "file_id", "bytes", "scope", "client_host", "request_id", "ts"]

Line = dict[str, Any]


class Upstream(ThreadedUpstream):
    """It fetches what it is given, and answers with a request id of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.server.handlers[CHAT] = self._answer
        self.server.handlers["/v1/models"] = self._answer

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        self.urls += re.findall(r"http://[^\"]*/v1/media/\w+", request.body.decode())
        await request.answer(b"{}", headers=b"x-request-id: upstreams-own\r\n")


class Audited:
    """A server and the lines of its audit log that were not yet looked at."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self.path = path
        self._seen = 0

    def lines(self) -> list[Line]:
        """The new ones; a line stands there before the answer that it tells of."""
        every = self.path.read_text().splitlines()
        new, self._seen = every[self._seen :], len(every)
        return [json.loads(line) for line in new]

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        tenant: str | None = OURS,
        key: str = KEY,
        **headers: str,
    ) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["authorization"] = f"Bearer {key}"
        if tenant is not None:
            sent[HEADER] = tenant
        return servers.request(self.server, method, target, body, headers=sent)

    def upload(self, *, tenant: str = OURS) -> str:
        answer = self.ask("PUT", f"/v1/files?filename={FILENAME}", PNG, tenant=tenant)
        assert answer.status == 200, answer
        return str(answer.json()["id"])

    def chat(self, *urls: str, tenant: str = OURS) -> Answer:
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return self.ask("POST", CHAT, json.dumps(body).encode(), tenant=tenant)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    flags = ["--upstream", upstream.server.url, "--engine", "openai", "--delivery", "url"]
    flags += ["--api-key", KEY, "--file-upload-scope-header", HEADER]
    flags += ["--file-upload-max-size-mb", "1", "--audit-log", str(path)]
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield Audited(server, path)


@pytest.fixture
def audited(shared: Audited) -> Audited:
    shared.lines()
    return shared


# what is told ---------------------------------------------------------------------------------------------


def test_each_operation_is_one_line_that_names_its_request(audited: Audited) -> None:
    """H97: the pull request's fields; one line each, in order, before the answer."""
    file_id = audited.upload()
    (received,) = audited.lines()
    asked = [
        audited.ask("GET", f"/v1/files/{file_id}"),
        audited.ask("GET", "/v1/files"),
        audited.ask("GET", f"/v1/files/{file_id}/content", range="bytes=0-9"),
        audited.chat(file_id, f"vllm-file://{file_id}"),
        audited.ask("DELETE", f"/v1/files/{file_id}"),
    ]
    told = audited.lines()

    assert [line["op"] for line in (received, *told)] == [
        "file.upload",
        "file.retrieve",
        "file.list",
        "file.download",
        "file.resolve",
        "file.delete",
    ]
    assert [line["request_id"] for line in told] == [a.header("x-request-id") for a in asked]
    assert {line["client_host"] for line in told} == {"127.0.0.1"}
    assert {line["scope"] for line in told} == {received["scope"]}
    for line in (received, *told):
        assert list(line) == FIELDS
        is_about_a_file = line["op"] != "file.list"
        assert line["file_id"] == (received["file_id"] if is_about_a_file else None)
        assert line["bytes"] == (len(PNG) if is_about_a_file else None)
    assert [line["ts"] for line in told] == sorted(line["ts"] for line in told)


def test_upload_in_parts_is_told_when_it_is_a_file(audited: Audited) -> None:
    """H88, H97."""
    body = {"filename": FILENAME, "purpose": "vision", "bytes": len(PNG), "mime_type": "image/png"}
    upload = audited.ask("POST", "/v1/uploads", json.dumps(body).encode()).json()["id"]
    part = audited.ask(
        "POST",
        f"/v1/uploads/{upload}/parts",
        servers.form(servers.part("data", PNG, "data")),
        content_type=servers.FORM_TYPE,
    )
    before = audited.lines()
    wanted = json.dumps({"part_ids": [part.json()["id"]]}).encode()
    completed = audited.ask("POST", f"/v1/uploads/{upload}/complete", wanted)
    audited.ask("GET", f"/v1/files/{completed.json()['file']['id']}")

    received, retrieved = audited.lines()
    assert before == []
    assert (received["op"], received["bytes"]) == ("file.upload", len(PNG))
    assert received["file_id"] == retrieved["file_id"]
    assert received["request_id"] == completed.header("x-request-id")


def test_each_refusal_is_one_line_with_its_reason(audited: Audited) -> None:
    """H97, D9: each reason of the pull request, and what else is refused."""
    wall = "media_source_not_allowed"
    refused: list[tuple[str, Callable[[], Answer]]] = [
        ("invalid_purpose", lambda: audited.ask("PUT", "/v1/files?purpose=x", PNG)),
        ("mime_mismatch", lambda: audited.ask("PUT", "/v1/files", b"#!/bin/sh\n" * 500)),
        ("size_exceeded", lambda: audited.ask("PUT", "/v1/files", PNG + bytes(3 * MIB))),
        ("empty_file", lambda: audited.ask("PUT", "/v1/files", b"")),
        ("invalid_value", lambda: audited.ask("GET", "/v1/files?limit=x")),
        ("scope_missing", lambda: audited.ask("GET", "/v1/files", tenant=None)),
        ("scope_missing", lambda: audited.ask("POST", CHAT, b"{}", tenant=None)),
        ("invalid_api_key", lambda: audited.ask("GET", "/v1/files", key="wrong")),
        ("invalid_api_key", lambda: audited.ask("POST", CHAT, b"{}", key="wrong")),
        ("not_found", lambda: audited.ask("GET", "/v1/files/no-id-at-all")),
        ("invalid_reference", lambda: audited.chat("file-not-hex")),
        (wall, lambda: audited.chat("file:///etc/passwd", "file:///etc/shadow")),
        ("malformed_body", lambda: audited.ask("POST", CHAT, b'{"a":1,"a":2}')),
    ]
    for reason, ask in refused:
        answer = ask()

        (line,) = audited.lines()
        assert (line["op"], line["reason"]) == ("file.reject", reason)
        assert list(line) == [*FIELDS, "reason"]
        assert 400 <= answer.status < 500
        assert line["request_id"] == answer.header("x-request-id")
        is_known = reason not in {"scope_missing", "invalid_api_key"}
        assert (line["scope"] is not None) == is_known


def test_operator_learns_that_a_file_is_anothers_and_the_client_does_not(audited: Audited) -> None:
    """H65, H97, P7: foreign and unknown are one answer and two reasons."""
    file_id = audited.upload(tenant=THEIRS)
    (received,) = audited.lines()

    def asks(wanted: str) -> list[Answer]:
        return [
            audited.ask("GET", f"/v1/files/{wanted}"),
            audited.ask("GET", f"/v1/files/{wanted}/content"),
            audited.ask("DELETE", f"/v1/files/{wanted}"),
            audited.chat(wanted),
        ]

    foreign, foreign_told = asks(file_id), audited.lines()
    unknown, unknown_told = asks(UNKNOWN), audited.lines()

    assert [a.code for a in foreign] == [(404, "file_not_found")] * 4
    assert [a.body for a in foreign] == [a.body for a in unknown]
    assert [line["reason"] for line in foreign_told] == ["scope_mismatch"] * 4
    assert [line["reason"] for line in unknown_told] == ["not_found"] * 4
    assert {line["file_id"] for line in foreign_told} == {received["file_id"]}
    assert {line["file_id"] for line in unknown_told}.isdisjoint({received["file_id"], None})
    assert {line["scope"] for line in foreign_told}.isdisjoint({received["scope"]})


def test_what_is_no_business_of_files_is_not_told(audited: Audited) -> None:
    answers = [
        audited.ask("GET", "/v1/models"),
        audited.ask("GET", "/health"),
        audited.ask("GET", "/metrics"),
        audited.ask("PATCH", "/v1/files"),
        audited.chat(),
    ]

    assert [a.status for a in answers] == [200, 200, 200, 405, 200]
    assert audited.lines() == []


def test_files_that_go_unasked_are_told_with_the_reason(tmp_path: Path) -> None:
    """H97: evicted for whoever needed the room, expired for nobody; too large for the whole store is refused."""
    path, store = tmp_path / "audit.jsonl", tmp_path / "store"
    small = ("--file-upload-max-total-gb", str(1 / 1024), "--audit-log", str(path))
    with servers.serving(*small, store=store) as server:
        audited = Audited(server, path)
        for _ in range(2):
            assert servers.put_file(server, PNG + bytes(600_000)).status == 200
        refused = servers.put_file(server, PNG + bytes(2 * MIB))
        first, evicted, second, rejected = audited.lines()
    with contextlib.closing(sqlite3.connect(store / "index.sqlite3")) as index, index:
        index.execute("UPDATE files SET expires_at = 1")
    # The sweep of the start finds what expired while nobody was there.
    with servers.serving(*small, store=store):
        (expired,) = servers.until(audited.lines)

    assert [line["op"] for line in (first, evicted, second)] == [
        "file.upload",
        "file.evict",
        "file.upload",
    ]
    assert (evicted["file_id"], evicted["reason"]) == (first["file_id"], "quota_eviction")
    assert evicted["request_id"] == second["request_id"]
    assert (rejected["reason"], refused.code) == ("quota_full", (507, "insufficient_storage"))
    assert (expired["op"], expired["reason"]) == ("file.expire", "ttl_expired")
    assert expired["file_id"] == second["file_id"]
    assert (expired["request_id"], expired["client_host"]) == (None, None)


# what is not told -----------------------------------------------------------------------------------------


def test_no_log_holds_an_id_a_scope_a_filename_a_key_or_a_token(
    audited: Audited, upstream: Upstream
) -> None:
    """H97, P13, D7: a whole life with every error on the way, then all that was written down."""
    upstream.urls.clear()
    ids = [audited.upload(), audited.upload(tenant=THEIRS)]
    targets = [f"/v1/files/{i}{tail}" for i in ids for tail in ("", "/content", "/x", "/%2e")]
    for target in (*targets, f"/v1/files?after={ids[0]}", "/v1/files?after=x", f"/x/{ids[0]}"):
        for method in ("GET", "HEAD", "PATCH", "OPTIONS"):
            audited.ask(method, target, x_request_id=ids[0])
    audited.ask("GET", f"/v1/files/{ids[0]}", key="another-key-of-somebody")
    audited.ask("GET", f"/v1/files/{ids[0]}", tenant="x,y-scope-of-somebody")
    assert audited.chat(ids[0]).status == 200
    assert audited.chat(*ids).status == 404
    body = json.dumps({"filename": FILENAME, "purpose": "vision", "bytes": 9, "mime_type": "x/y"})
    upload = audited.ask("POST", "/v1/uploads", body.encode()).json()["id"]
    for target in (f"/v1/uploads/{upload}", f"/v1/uploads/{upload}/parts"):
        for tenant in (OURS, THEIRS):
            audited.ask("POST", target, b"{}", tenant=tenant, x_request_id=upload)
    (url,) = upstream.urls
    token = url.rpartition("/")[2]
    assert servers.get(audited.server, f"/v1/media/{token}").status == 404
    for i, tenant in zip(ids, (OURS, THEIRS), strict=True):
        assert audited.ask("DELETE", f"/v1/files/{i}", tenant=tenant).status == 200
    audited.ask("GET", "/health", x_request_id="the-last")
    servers.until(lambda: "id=the-last\n" in audited.server.log())

    written = audited.server.log() + audited.path.read_text()
    ids += [upload, *(i.removeprefix("file-") for i in ids), upload.removeprefix("upload_")]
    secrets = [*ids, OURS, THEIRS, KEY, FILENAME, token]
    assert [secret for secret in secrets if secret in written] == []
    assert "of-somebody" not in written
    assert "Traceback" not in written


# request ids ----------------------------------------------------------------------------------------------


def test_every_answer_names_its_request_once(audited: Audited) -> None:
    """H97: ours, errors, early replies, the upstream's, whatever the method."""
    answers: Mapping[str, Answer] = {
        name: audited.ask(method, target, body, x_request_id=f"mine-{name}")
        for name, method, target, body in (
            ("ok", "GET", "/v1/files", None),
            ("head", "HEAD", "/health", None),
            ("options", "OPTIONS", "/v1/files", None),
            ("missing", "GET", f"/v1/files/{UNKNOWN}", None),
            ("method", "PATCH", "/v1/files", None),
            ("early", "PUT", "/v1/files", PNG + bytes(3 * MIB)),
            ("proxied", "GET", "/v1/models", None),
            ("proxied-error", "GET", "/nothing", None),
        )
    }

    told = {name: answer.values("x-request-id") for name, answer in answers.items()}
    assert told == {name: [f"mine-{name}"] for name in answers}
    servers.until(lambda: all(f" id=mine-{name}\n" in audited.server.log() for name in answers))


def test_request_id_reaches_the_upstream(audited: Audited, upstream: Upstream) -> None:
    """H97: the client's, or the fresh one that the answer and the log have."""
    upstream.server.received.clear()

    kept = audited.ask("GET", "/v1/models", x_request_id="trace/7")
    fresh = audited.ask("GET", "/v1/models")
    replaced = audited.ask("GET", "/v1/models", x_request_id="x" * 129)

    got = [request.values("x-request-id") for request in upstream.server.received]
    assert got == [a.values("x-request-id") for a in (kept, fresh, replaced)]
    assert got[0] == ["trace/7"]
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", value) for (value,) in got[1:])
    assert got[1] != got[2]


def test_what_is_no_request_at_all_gets_an_id_that_the_log_has(audited: Audited) -> None:
    with RawClient(audited.server) as client:
        client.send(b"GARBAGE\r\n\r\n")
        answer = client.read_answer()

    assert answer.status == 400
    assert f" id={answer.header('x-request-id')}\n" in audited.server.log()


# where it is written --------------------------------------------------------------------------------------


def test_workers_share_one_log_without_a_torn_line(tmp_path: Path) -> None:
    """H97: on standard error, beside the access log; nothing is lost, nothing runs into anything else."""
    with servers.serving("--workers", "2", store=tmp_path) as server:
        file_id = servers.upload(server, PNG)["id"]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            targets = [f"/v1/files/{file_id}", "/v1/files"] * 60
            answers = list(pool.map(lambda target: servers.get(server, target), targets))
        pids = server.children()
        log = server.log()

    lines = [json.loads(line) for line in log.splitlines() if "{" in line and "{id}" not in line]
    told = {line["request_id"] for line in lines}
    assert len(pids) == 2
    assert [line["op"] for line in lines].count("file.list") == 60
    assert len(lines) == 121
    assert told >= {answer.header("x-request-id") for answer in answers}


def test_log_that_was_rotated_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with servers.serving("--audit-log", str(path), store=tmp_path / "store") as server:
        servers.get(server, "/v1/files")
        path.rename(tmp_path / "audit.jsonl.1")
        servers.get(server, "/v1/files")

    assert len((tmp_path / "audit.jsonl.1").read_text().splitlines()) == 1
    assert len(path.read_text().splitlines()) == 1


def test_log_on_a_full_disk_fails_no_request(tmp_path: Path) -> None:
    """H97: it is said once."""
    with servers.serving("--audit-log", "/dev/full", store=tmp_path) as server:
        for _ in range(3):
            servers.upload(server, PNG)
        log = server.log()

    assert log.count("the audit log cannot be written") == 1
    assert "Traceback" not in log


def test_log_that_nobody_reads_stops_no_request_and_no_end(tmp_path: Path) -> None:
    """H97: standard error is a pipe that is full."""
    command = [servers.MEDIAGATE, "serve", "--port", "0", "--file-upload-dir", str(tmp_path / "s")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
            port = int(re.findall(rb"http://127.0.0.1:(\d+)", process.stderr.readline())[0])
            answers = [servers.request_at("127.0.0.1", port, "GET", "/v1/files") for _ in range(50)]
            process.terminate()
            status = process.wait(servers.TIMEOUT_S)
        finally:
            process.kill()

    assert [answer.status for answer in answers] == [200] * 50
    assert status == 0


def test_log_goes_nowhere_where_standard_error_is_closed(tmp_path: Path) -> None:
    """H97: and not into the file that was opened in its place."""
    closing = ("sh", "-c", 'exec "$0" "$@" 2>&-', servers.MEDIAGATE, "serve")
    with servers.serving(command=closing, store=tmp_path) as server:
        servers.upload(server, PNG)
        marker = (tmp_path / ".mediagate-store").read_text()

    assert json.loads(marker)["temporary"] is False


def test_log_may_be_off(tmp_path: Path) -> None:
    with servers.serving("--audit-log", "off", store=tmp_path) as server:
        servers.upload(server, PNG)
        servers.until(lambda: "POST /v1/files 200" in server.log())
        log = server.log()

    assert "file.upload" not in log


def test_log_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [servers.MEDIAGATE, "serve", "--port", "0", "--audit-log", str(tmp_path / "no" / "log")],
        capture_output=True,
        text=True,
        timeout=servers.TIMEOUT_S,
        check=False,
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--audit-log" in line
    assert "No such file or directory" in line
