"""`mediagate doctor` in front of servers that take a picture in some ways, in none, or not at all.

The engines here really open, fetch or decode what they are told, and count as prompt tokens what they have seen.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
import llama_servers
import servers
import transformers_servers
from engine_processes import EngineServer
from mediagate.config import Config, load
from mediagate.doctor import probe
from mediagate.doctor.examination import examine
from mediagate.doctor.report import Check, Mark, Verdict
from mediagate.doctor.stack import Stack, opened_store
from mediagate.testing.upstream import Received
from upstreams import ThreadedUpstream

OK, NO, NOT_TRIED = Mark.OK, Mark.NO, Mark.NOT_TRIED
TEXT_TOKENS, PICTURE_TOKENS = 7, 64
JSON = b"content-type: application/json\r\n"
KEY = "key-of-the-engine"


class Engine(ThreadedUpstream):
    """It says that it is vLLM.

    Args:
        opens: Schemes of the URLs at which it gets pictures: `file`, `http`, `data`; it refuses the others.
        mounts: Directories as it calls them, and where they are.
        key: It wants that one.
        drops: It leaves pictures out without a word.
        counts: It tells how long prompts are.
        refusal: It takes no pictures at all, and says this.
    """

    def __init__(
        self,
        *,
        opens: Collection[str] = ("file", "http", "data"),
        mounts: tuple[str, Path] | None = None,
        key: str | None = None,
        drops: bool = False,
        counts: bool = True,
        refusal: str | None = None,
    ) -> None:
        super().__init__()
        self._opens = opens
        self._mounts = mounts
        self._key = key
        self._drops = drops
        self._counts = counts
        self._refusal = refusal
        self.server.handlers["/v1/models"] = self._models
        self.server.handlers["/v1/chat/completions"] = self._chat

    @property
    def url(self) -> str:
        return self.server.url

    async def _models(self, request: Received) -> None:
        if await self._lets_in(request):
            models = [{"id": name, "owned_by": "vllm", "root": name} for name in ("m1", "m2")]
            await request.answer(json.dumps({"data": models}).encode(), headers=JSON)

    async def _chat(self, request: Received) -> None:
        await request.read_body()
        if not await self._lets_in(request):
            return
        urls = [
            part["image_url"]["url"]
            for part in json.loads(request.body)["messages"][0]["content"]
            if part["type"] == "image_url"
        ]
        try:
            pictures = [] if self._drops else [self._load(url) for url in urls]
        except (OSError, ValueError) as error:
            await refuse(request, b"400 Bad Request", str(error))
            return
        assert all(picture == probe.picture() for picture in pictures)
        tokens = TEXT_TOKENS + PICTURE_TOKENS * len(pictures)
        usage = {"usage": {"prompt_tokens": tokens}} if self._counts else {}
        body = {"choices": [{"message": {"role": "assistant", "content": "A"}}], **usage}
        await request.answer(json.dumps(body).encode(), headers=JSON)

    async def _lets_in(self, request: Received) -> bool:
        sent = "".join(request.values("authorization")).removeprefix("Bearer ")
        if self._key is None or sent == self._key:
            return True
        await refuse(request, b"401 Unauthorized", f"the key {sent!r} is not {self._key!r}")
        return False

    def _load(self, url: str) -> bytes:
        if self._refusal is not None:
            raise ValueError(self._refusal)
        scheme = url.partition(":")[0]
        if scheme not in self._opens:
            raise ValueError(f"no {scheme} URL is opened here")
        if scheme == "data":
            return base64.b64decode(url.partition(",")[2])
        if self._mounts is not None and scheme == "file":
            seen, real = self._mounts
            return (real / url.removeprefix(f"file://{seen}/")).read_bytes()
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - what it is given
            return bytes(response.read())


async def refuse(request: Received, status: bytes, message: str) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    await request.answer(body, status=status, headers=JSON)


@dataclass(frozen=True, slots=True)
class Visit:
    """What was found."""

    checks: tuple[Check, ...]
    verdict: Verdict

    def __getitem__(self, subject: str) -> tuple[Mark, str]:
        (check,) = (each for each in self.checks if each.subject == subject)
        return check.mark, check.text

    def mark(self, subject: str) -> Mark:
        return self[subject][0]

    def text(self, subject: str) -> str:
        return self[subject][1]

    @property
    def deliveries(self) -> dict[str, Mark]:
        kinds = ("path", "url", "inline")
        return {str(each.subject): each.mark for each in self.checks if each.subject in kinds}


def settings(**flags: str) -> Config:
    given = {"port": "0"} | flags
    return load(flags=given, environ={}).config


async def visit(
    upstream: str | None = None, *, model: str | None = None, answer_s: float = 30, **flags: str
) -> Visit:
    if upstream is not None:
        flags["upstream"] = upstream
    checks: list[Check] = []
    config = settings(**flags)
    verdict = await examine(config, model=model, tell=checks.append, answer_s=answer_s)
    return Visit(tuple(checks), verdict)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    path = tmp_path / "links"
    path.mkdir(mode=0o700)
    return path


# what the engine takes -------------------------------------------------------------------------------------


async def test_each_delivery_that_works_is_proven_and_leaves_nothing(
    tmp_path: Path, links: Path
) -> None:
    with Engine() as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=str(links)
        )

    assert found.deliveries == {"path": OK, "url": OK, "inline": OK}
    assert {each.mark for each in found.checks} == {OK}
    assert f"{PICTURE_TOKENS} more prompt tokens" in found.text("path")
    assert "vLLM, by its answer to GET /v1/models" in found.text("engine")
    assert found.verdict.works
    assert [entry.name for entry in tmp_path.iterdir()] == ["links"]
    assert not list(links.iterdir())


async def test_engine_that_opens_files_and_fetches_nothing(tmp_path: Path, links: Path) -> None:
    with Engine(opens=("file", "data")) as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=str(links)
        )

    assert found.deliveries == {"path": OK, "url": NO, "inline": OK}
    assert "400 no http URL is opened here" in found.text("url")
    assert found.verdict.works
    assert "path, as file:///…: works" in found.verdict.lines[1]


async def test_engine_that_opens_no_files_is_told_its_flag(tmp_path: Path, links: Path) -> None:
    with Engine(opens=("data",)) as engine:
        found = await visit(
            engine.url,
            file_upload_dir=str(tmp_path / "store"),
            media_path=f"{links}:/media",
        )

    assert found.deliveries == {"path": NO, "url": NO, "inline": OK}
    assert "400 no file URL is opened here" in found.text("path")
    assert "start vLLM with `--allowed-local-media-path /media`" in found.text("path")
    assert not found.verdict.works
    assert any("--delivery inline" in line for line in found.verdict.lines)


async def test_engine_that_has_the_directory_mounted_elsewhere(tmp_path: Path, links: Path) -> None:
    with Engine(opens=("file",), mounts=("/media", links)) as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=f"{links}:/media"
        )

    assert found.mark("path") is OK


async def test_engine_that_drops_pictures_without_a_word_is_found_out(links: Path) -> None:
    """The answer is a 200 each time; what tells is the length of the prompt."""
    with Engine(drops=True) as engine:
        found = await visit(engine.url, file_upload_dir=str(links.parent / "store"))

    assert found.deliveries == {"path": NOT_TRIED, "url": NO, "inline": NO}
    assert "as if there were no picture" in found.text("inline")
    assert not found.verdict.works


async def test_engine_that_counts_nothing_proves_nothing(tmp_path: Path) -> None:
    with Engine(counts=False) as engine:
        found = await visit(engine.url, file_upload_dir=str(tmp_path))

    assert found.deliveries == {"path": NOT_TRIED, "url": OK, "inline": OK}
    assert "does not tell whether it looked" in found.text("inline")
    assert found.verdict.works


async def test_model_that_takes_no_pictures_is_no_fault_of_delivery(tmp_path: Path) -> None:
    with Engine(refusal="m1 is not a multimodal model") as engine:
        found = await visit(engine.url, file_upload_dir=str(tmp_path))

    assert found.mark("text chat") is OK
    assert found.deliveries == {"path": NOT_TRIED, "url": NO, "inline": NO}
    assert "400 m1 is not a multimodal model" in found.text("inline")
    assert not found.verdict.works
    assert found.verdict.lines[-1].startswith("Its model takes no pictures")


# what stands before it -------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """Nobody listens there, and nobody else will."""
    with servers.reserved_port() as reserved:
        yield reserved


async def test_engine_that_is_down(tmp_path: Path, port: int) -> None:
    url = f"http://127.0.0.1:{port}"

    found = await visit(url, file_upload_dir=str(tmp_path))

    assert found.mark("upstream") is NO
    assert url in found.text("upstream")
    assert "is it started" in found.text("upstream")
    assert found.deliveries == {"url": NOT_TRIED, "inline": NOT_TRIED}
    assert not found.verdict.works


@pytest.mark.parametrize("key", [None, "another-key", KEY])
async def test_engine_that_wants_a_key(tmp_path: Path, key: str | None) -> None:
    """No key is shown, not even where the engine repeats it."""
    flags: dict[str, Any] = {} if key is None else {"upstream_api_key": key}
    with Engine(key=KEY) as engine:
        found = await visit(engine.url, file_upload_dir=str(tmp_path), **flags)

    assert found.mark("upstream") is (OK if key == KEY else NO)
    assert found.verdict.works is (key == KEY)
    if key != KEY:
        assert "401 the key" in found.text("upstream")
        assert "--upstream-api-key" in found.text("upstream")
    if key is not None:
        assert not any(key in each.text for each in found.checks)


async def test_engine_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.server.handlers["/v1/chat/completions"] = engine.server.handlers["/hang"]
        found = await visit(engine.url, file_upload_dir=str(tmp_path), answer_s=5)

    assert found["text chat"] == (NO, "no answer within 5 s")
    assert NOT_TRIED in found.deliveries.values()
    assert not found.verdict.works


async def test_model_is_the_one_that_is_named_or_the_first(tmp_path: Path) -> None:
    with Engine() as engine:
        first = await visit(engine.url, file_upload_dir=str(tmp_path))
        other = await visit(engine.url, file_upload_dir=str(tmp_path), model="m2")
        unknown = await visit(engine.url, file_upload_dir=str(tmp_path), model="m3")
        asked = [
            json.loads(request.body)["model"] for request in engine.server.received if request.body
        ]

    assert [first["models"], other["models"], unknown["models"]] == [
        (OK, "m1, m2; m1 is asked"),
        (OK, "m1, m2; m2 is asked"),
        (NO, "m1, m2; m3 is not among them"),
    ]
    assert asked == ["m1"] * 3 + ["m2"] * 3 + ["m3"] * 3


async def test_engine_flag_that_contradicts_the_engine_is_told(tmp_path: Path) -> None:
    with Engine() as engine:
        wrong = await visit(engine.url, file_upload_dir=str(tmp_path), engine="sglang")
        right = await visit(engine.url, file_upload_dir=str(tmp_path), engine="vllm")

    assert wrong.mark("engine") is NO
    assert "by GET /v1/models it is vLLM" in wrong.text("engine")
    assert right["engine"] == (OK, "vLLM, as --engine says")


async def test_without_an_upstream_the_inspector_is_asked(tmp_path: Path) -> None:
    found = await visit(file_upload_dir=str(tmp_path))

    assert found["chat by id"] == (OK, "the inspector measured the picture")
    assert found.verdict.works


async def test_side_car_takes_files_and_answers_no_chats(tmp_path: Path) -> None:
    found = await visit(file_upload_dir=str(tmp_path), files_only="true")

    assert found.mark("uploads") is OK
    assert found.mark("chat by id") is NOT_TRIED
    assert found.verdict.works


async def test_uploads_that_are_off_are_told(tmp_path: Path) -> None:
    with Engine() as engine:
        found = await visit(engine.url, file_upload_dir=str(tmp_path), enable_file_uploads="false")

    assert found.mark("uploads") is NO
    assert set(found.deliveries.values()) == {NOT_TRIED}
    assert not found.verdict.works


# the store, the lease directory, the port -------------------------------------------------------------------


async def test_directory_of_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    found = await visit(file_upload_dir=str(tmp_path))

    assert found.mark("store") is NO
    assert "no mediagate store" in found.text("store")
    assert not found.verdict.works
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


async def test_store_of_another_user_is_left_alone(tmp_path: Path) -> None:
    """What root made in it would lock the gateway out."""
    path = Path("/")
    if path.stat().st_uid == tmp_path.stat().st_uid:
        path = tmp_path / "store"
        path.mkdir()
        os.chown(path, 65534, -1)

    found = await visit(file_upload_dir=str(path))

    assert found.mark("store") is NO
    assert "run this as the user of `mediagate serve`" in found.text("store")
    assert path == Path("/") or not list(path.iterdir())


async def test_lease_directory_that_cannot_be_used_is_told(tmp_path: Path, links: Path) -> None:
    links.chmod(0o755)
    with Engine() as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=str(links)
        )

    assert found.mark("lease directory") is NO
    assert "chmod 700" in found.text("lease directory")
    assert found.mark("path") is NOT_TRIED
    assert not found.verdict.works
    assert not list(links.iterdir())


async def test_lease_directory_that_was_not_there_is_not_there_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "a" / "links"
    with Engine() as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=str(path)
        )

    assert found.mark("path") is OK
    assert not list(tmp_path.iterdir())


async def test_port_of_a_stranger_is_not_tried(tmp_path: Path) -> None:
    with Engine() as engine, Engine() as stranger:
        port = stranger.url.rpartition(":")[2]
        found = await visit(engine.url, file_upload_dir=str(tmp_path), port=port)

    assert found.mark("url") is NOT_TRIED
    assert f"another program listens on 127.0.0.1 port {port}" in found.text("url")
    assert found.verdict.works


async def test_gateway_that_runs_answers_for_the_doctor_and_is_not_disturbed(
    tmp_path: Path, links: Path
) -> None:
    store, flags = tmp_path / "store", ("--media-path", str(links))
    with Engine() as engine, servers.serving("--upstream", engine.url, *flags, store=store) as it:
        file = servers.upload(it, corpus.png_pixel())
        found = await visit(
            engine.url, file_upload_dir=str(store), media_path=str(links), port=str(it.port)
        )
        still = servers.get(it, f"/v1/files/{file['id']}/content")
        ids = servers.list_ids(it)
        # Leases of downloads end after the last byte, and what the doctor deleted goes with the last of them.
        servers.until(lambda: it.leases() == 0 and it.usage() == (file["bytes"], 1))

    assert found.deliveries == {"path": OK, "url": OK, "inline": OK}
    assert "(from the gateway that runs there)" in found.text("url")
    assert still.status == 200
    assert ids == [file["id"]]
    assert [entry.name for entry in links.iterdir()] == [".mediagate-leases"]


async def test_clients_that_come_by_meanwhile_reach_nothing(tmp_path: Path, port: int) -> None:
    """The doctor asks for no key, so nobody but the engine may come in."""
    seen: list[int] = []

    class Curious(Engine):
        def _load(self, url: str) -> bytes:
            if url.startswith("http:"):
                for method, target in (("GET", "/v1/files"), ("PUT", "/v1/files"), ("GET", "/")):
                    answer = servers.request_at("127.0.0.1", port, method, target, b"")
                    seen.append(answer.status)
            return super()._load(url)

    with Curious() as engine:
        found = await visit(engine.url, file_upload_dir=str(tmp_path), port=str(port))

    assert found.mark("url") is OK
    assert seen == [503, 503, 503]
    with closing(socket.create_server(("127.0.0.1", port))):
        pass


async def test_full_store_loses_no_file(tmp_path: Path) -> None:
    quota = ("--file-upload-max-total-gb", str(2**17 / 2**30))
    data = corpus.png_pixel().ljust(2**17, b"\0")
    with Engine() as engine, servers.serving(*quota, store=tmp_path) as gateway:
        file = servers.upload(gateway, data)
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path), file_upload_max_total_gb=quota[1]
        )

        assert found.mark("inline") is OK
        assert servers.list_ids(gateway) == [file["id"]]


async def test_probe_of_a_doctor_that_was_killed_goes_within_the_hour(tmp_path: Path) -> None:
    config = settings(file_upload_dir=str(tmp_path), file_upload_ttl_seconds="-1")

    with opened_store(config) as (directory, _):
        async with Stack(config, directory, answer_s=30).files() as files:
            file = (await files.upload(probe.picture())).json()

    assert file["expires_at"] - file["created_at"] == 3600


async def test_operators_limits_and_tenants_do_not_stand_in_the_way(tmp_path: Path) -> None:
    with Engine() as engine:
        found = await visit(
            engine.url,
            file_upload_dir=str(tmp_path),
            api_key="client-key",
            file_upload_scope_header="X-Tenant",
            trusted_proxy="10.0.0.0/8",
            file_upload_allowed_types="video/mp4",
        )

    assert found.verdict.works


# the command -----------------------------------------------------------------------------------------------


def doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [servers.MEDIAGATE, "doctor", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_command_prints_a_line_for_each_check_and_ends_with_its_verdict(tmp_path: Path) -> None:
    with Engine() as engine:
        flags = ("--upstream", engine.url, "--port", "0", "--file-upload-dir", str(tmp_path))
        good = doctor(*flags)
    bad = doctor(*flags)

    assert (good.returncode, good.stderr) == (0, "")
    checks, _, verdict = good.stdout.partition("\n\n")
    assert [line.split()[0] for line in checks.splitlines()] == ["ok"] * 6 + ["--", "ok", "ok"]
    assert verdict.startswith("With these settings (--delivery auto), vLLM gets\n")
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "\nno  upstream " in bad.stdout


def test_interrupt_leaves_nothing(tmp_path: Path, links: Path) -> None:
    """While the engine thinks about a link: the file, the link and the lease go."""
    store = tmp_path / "store"
    with servers.serving(store=store) as gateway, Engine() as engine:
        chat = engine.server.handlers["/v1/chat/completions"]

        async def think(request: Received) -> None:
            await request.read_body()
            if b"image_url" in request.body:
                await request.until_gone()
            else:
                await chat(request)

        engine.server.handlers["/v1/chat/completions"] = think
        process = subprocess.Popen(
            [
                # What a shell runs in the background ignores SIGINT, and hands that on.
                *("env", "--default-signal=INT", servers.MEDIAGATE, "doctor"),
                *("--upstream", engine.url, "--port", "0"),
                *("--file-upload-dir", str(store), "--media-path", str(links)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            servers.until(lambda: [name for name in links.iterdir() if len(name.name) == 36])
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()

        assert (process.returncode, err) == (130, "")
        assert "text chat" in out
        servers.until(lambda: gateway.is_clean() and gateway.leases() == 0, timeout_s=10)
        assert not list(links.iterdir())


# real engines ----------------------------------------------------------------------------------------------


@pytest.mark.engines
@pytest.mark.parametrize("is_open", [True, False])
async def test_real_llama_server(tmp_path: Path, links: Path, is_open: bool) -> None:
    flags = ("--media-path", str(links)) if is_open else ()
    with llama_servers.serving(*flags) as engine:
        found = await visit(
            engine.url, file_upload_dir=str(tmp_path / "store"), media_path=str(links)
        )

    assert found.deliveries == {"path": OK if is_open else NO, "url": OK, "inline": OK}
    assert "llama-server, by its answer to GET" in found.text("engine")
    assert "more prompt tokens" in found.text("inline")
    assert found.verdict.works is is_open
    if not is_open:
        assert f"start llama-server with `--media-path {links}`" in found.text("path")


@pytest.mark.engines
async def test_real_llama_server_wants_its_key(tmp_path: Path) -> None:
    with llama_servers.serving("--api-key", KEY) as engine:
        without = await visit(engine.url, file_upload_dir=str(tmp_path))
        with_it = await visit(engine.url, file_upload_dir=str(tmp_path), upstream_api_key=KEY)

    assert "--upstream-api-key" in " ".join(each.text for each in without.checks)
    assert not without.verdict.works
    assert with_it.verdict.works


@pytest.fixture(scope="module")
def transformers() -> Iterator[EngineServer]:
    with transformers_servers.serving() as engine:
        yield engine


@pytest.mark.engines
async def test_real_transformers_serve(
    transformers: EngineServer, tmp_path: Path, links: Path
) -> None:
    """It opens any path, so there is nothing to start it with; and it lists no models."""
    store = str(tmp_path / "store")
    unnamed = await visit(transformers.url, file_upload_dir=store)
    without = await visit(transformers.url, model="tiny", file_upload_dir=store)
    with_links = await visit(
        transformers.url, model="tiny", file_upload_dir=store, media_path=str(links)
    )

    assert "--model" in unnamed.text("models")
    assert without.deliveries == {"path": NOT_TRIED, "url": OK, "inline": OK}
    assert without.verdict.works
    assert with_links.deliveries == {"path": OK, "url": OK, "inline": OK}
    assert with_links.verdict.lines[1:] == [
        "  images  path, as /…: works",
        "  audio   path, as /…: not tried; whether the model reads it, only a question can show",
        "  videos  path, as /…: not tried; whether the model reads it, only a question can show",
    ]
