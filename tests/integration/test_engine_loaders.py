"""SGLang and LMDeploy want a GPU, but what opens media in them runs without: it is given what the gateway sent them.

Their released loaders run in a process of their own, and get the strings of a request while it is open, as they would
in the server that they belong to.
"""

import asyncio
import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import engine_processes
import engine_questions
import servers
from corpus import Media
from engine_questions import PAIRS
from engines import install_loaders
from mediagate.testing.upstream import Received
from servers import Server
from upstreams import ThreadedUpstream
from vllm_questions import CHAT, RED, SIDE

pytestmark = [pytest.mark.engines, pytest.mark.media]

ENGINES = sorted(install_loaders.VERSIONS)
KINDS = sorted(PAIRS)
SHAPES = {"image": [SIDE, SIDE, 3], "video": [20, SIDE, SIDE, 3], "audio": [16_000]}
"""Of the first of each pair: pixels, two seconds of ten frames, one second at 16 kHz."""

STARTS = {
    ("sglang", "path"): "file:///",
    ("sglang", "url"): "http://127.0.0.1:",
    ("sglang", "inline"): "data:",
    ("lmdeploy", "path"): "file:///",
    # It fetches from public addresses only, and this gateway has none.
    ("lmdeploy", "url"): "data:",
    ("lmdeploy", "inline"): "data:",
}
"""What each is told, by the delivery that is set up."""


class Loader:
    """The loaders of one engine, in a process that is ended with `close`."""

    def __init__(self, engine: str) -> None:
        assert install_loaders.layer(engine).exists(), f"no loaders of {engine}: run `make engines`"
        self.engine = engine
        self._process = subprocess.Popen(
            install_loaders.script(engine),
            env=engine_processes.inherited() | dict(install_loaders.environment(engine)),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._answer() == {}

    def load(self, kind: str, source: str) -> dict[str, Any]:
        """Shape, type and digest of the decoded media, or the error."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"kind": kind, "source": source}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class LoadingUpstream(ThreadedUpstream):
    """It loads what a chat names before it answers.

    Attributes:
        sources: The strings that it was given.
        loaded: What came of them.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.loaded: list[dict[str, Any]] = []
        self._loader = loader
        self.server.handlers[CHAT] = self._answer

    def forget(self) -> None:
        """Begin anew."""
        self.server.received.clear()
        self.sources.clear()
        self.loaded.clear()

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        for part in json.loads(request.body)["messages"][0]["content"][1:]:
            kind, source = _named(part)
            self.sources.append(source)
            self.loaded.append(await asyncio.to_thread(self._loader.load, kind, source))
        await request.answer(b"{}", headers=b"content-type: application/json\r\n")


def _named(part: dict[str, Any]) -> tuple[str, str]:
    """The kind of what a part names, and the string that the loader gets."""
    media = part[part["type"]]
    if part["type"] == "input_audio":  # SGLang makes a URL of it
        return "audio", f"data:audio/{media['format']};base64,{media['data']}"
    return part["type"].removesuffix("_url"), media["url"]


@dataclass(frozen=True, slots=True)
class Bench:
    """A loader and a gateway before it.

    Attributes:
        originals: The loader's reading of the files as they were made.
    """

    loader: Loader
    upstream: LoadingUpstream
    gateway: Server
    delivery: str
    originals: Mapping[str, list[dict[str, Any]]]

    @property
    def start(self) -> str:
        """What the strings that the engine is told begin with."""
        return STARTS[self.loader.engine, self.delivery]


@pytest.fixture(scope="module", params=ENGINES)
def loader(request: pytest.FixtureRequest) -> Iterator[Loader]:
    with contextlib.closing(Loader(request.param)) as started:
        yield started


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """The files as they were made, where no gateway knows of them."""
    place = tmp_path_factory.mktemp("files")

    def write(media: Media, name: str) -> Path:
        path = place / name
        path.write_bytes(media.data)
        return path

    return {
        kind: (write(one, f"{kind}-1"), write(other, f"{kind}-2"))
        for kind, (one, other) in PAIRS.items()
    }


@pytest.fixture(scope="module", params=["path", "url", "inline"])
def shared(
    loader: Loader,
    files: Mapping[str, tuple[Path, Path]],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    # Before anybody waits: the first of each kind may take half a minute, of imports that were never compiled.
    originals = {
        kind: [loader.load(kind, str(path)) for path in paths] for kind, paths in files.items()
    }
    place = tmp_path_factory.mktemp("shared")
    links = ("--media-path", str(place / "links")) if request.param == "path" else ()
    with LoadingUpstream(loader) as upstream:
        flags = ("--upstream", upstream.server.url, "--engine", loader.engine)
        how = ("--delivery", request.param, *links)
        with servers.serving(*flags, *how, store=place / "store") as gateway:
            yield Bench(loader, upstream, gateway, request.param, originals)


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.upstream.forget()
    yield shared
    servers.empty(shared.gateway)
    assert "Traceback" not in shared.gateway.log()


def ask(bench: Bench, *parts: Mapping[str, Any]) -> None:
    """Ask through the gateway, which must let it pass."""
    answer = engine_questions.ask(bench.gateway, *parts)
    assert (answer.status, answer.body) == (200, b"{}")


def by_id(bench: Bench, media: Media) -> dict[str, Any]:
    file_id = servers.upload(bench.gateway, media.data)["id"]
    return {"type": "file", "file": {"file_id": file_id}}


def test_loader_finds_in_a_request_by_id_what_is_in_the_file(bench: Bench) -> None:
    """P5: while the request is open."""
    wanted = [(kind, n) for kind in KINDS for n in (0, 1)]

    ask(bench, *(by_id(bench, PAIRS[kind][n]) for kind, n in wanted))

    expected = [bench.originals[kind][n] for kind, n in wanted]
    assert bench.upstream.loaded == expected
    assert [each["shape"] for each in expected[::2]] == [SHAPES[kind] for kind in KINDS]
    assert len({each["sha256"] for each in expected}) == len(wanted)
    assert all(source.startswith(bench.start) for source in bench.upstream.sources)


def test_pixels_are_those_that_were_drawn(bench: Bench) -> None:
    ask(bench, by_id(bench, PAIRS["image"][0]))

    (loaded,) = bench.upstream.loaded
    drawn = bytes(RED) * SIDE * SIDE
    assert (loaded["type"], loaded["sha256"]) == ("uint8", hashlib.sha256(drawn).hexdigest())


def test_sound_in_openais_words_is_told_in_the_engines(bench: Bench) -> None:
    file_id = servers.upload(bench.gateway, PAIRS["audio"][0].data)["id"]
    sound = {"type": "input_audio", "input_audio": {"data": file_id, "format": "wav"}}

    ask(bench, sound)

    assert bench.upstream.loaded == bench.originals["audio"][:1]
    assert bench.upstream.sources[0].startswith(bench.start)


@pytest.mark.parametrize("kind", KINDS)
def test_link_leads_nowhere_once_the_request_is_over(bench: Bench, kind: str) -> None:
    """Nor does a URL; inline, the file itself was sent."""
    ask(bench, by_id(bench, PAIRS[kind][0]))
    servers.until(lambda: bench.gateway.leases() == 0 or None, timeout_s=10)

    again = bench.loader.load(kind, bench.upstream.sources[0])

    if bench.start == "data:":
        assert again == bench.upstream.loaded[0]
    else:
        assert "error" in again


@pytest.mark.parametrize("kind", KINDS)
def test_path_that_the_loader_opens_by_itself_does_not_pass(
    bench: Bench, files: Mapping[str, tuple[Path, Path]], kind: str
) -> None:
    path, _ = files[kind]

    for source in (str(path), path.as_uri()):
        answer = engine_questions.ask(bench.gateway, engine_questions.part(kind, source))
        assert bench.loader.load(kind, source) == bench.originals[kind][0]
        assert answer.code == (400, "media_source_not_allowed")
        assert answer.error["param"] == f"messages[0].content[1].{kind}_url.url"
    assert bench.upstream.server.received == []
