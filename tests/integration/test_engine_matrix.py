"""Every way to name a file, by every delivery, at real engines and, as far as what is sent, at all the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import corpus
import engine_matrix
import engine_questions
import llama_servers
import servers
import transformers_servers
from corpus import Media
from engine_matrix import CELLS, DELIVERIES, WORKS, Bench
from engine_questions import PAIRS
from mediagate.core.engines import Engine
from mediagate.gateway.profiles import PROFILES
from mediagate.testing.upstream import Received
from upstreams import ThreadedUpstream
from vllm_questions import inline

pytestmark = pytest.mark.engines

ALL_KINDS = ("image", "video", "audio")


def data_uri(media: Media) -> dict[str, Any]:
    kind = media.mime_type.partition("/")[0]
    if kind == "audio":
        audio = {"data": inline(media).data, "format": "wav"}
        return {"type": "input_audio", "input_audio": audio}
    return engine_questions.part(kind, engine_questions.data_uri(media))


@contextmanager
def llama_server(directory: Path) -> Iterator[Bench]:
    media_path = directory / "media"
    media_path.mkdir(mode=0o700)
    with (
        llama_servers.serving("--media-path", str(media_path)) as engine,
        engine_matrix.gateways(engine.url, "auto", media_path) as gateways,
    ):
        yield Bench("llama-server", engine, ALL_KINDS, data_uri, gateways=gateways)


@contextmanager
def transformers_serve(directory: Path) -> Iterator[Bench]:
    def direct(media: Media) -> dict[str, Any]:
        # It takes no clip as a data: URI.
        path = directory / media.mime_type.replace("/", "-") / str(hash(media.data))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(media.data)
        return engine_questions.part(media.mime_type.partition("/")[0], str(path))

    short = {"chat_template_kwargs": {"num_frames": 4}}
    with (
        transformers_servers.serving() as engine,
        engine_matrix.gateways(engine.url, "auto", directory / "media") as gateways,
    ):
        yield Bench("transformers serve", engine, ALL_KINDS, direct, short, gateways)


@pytest.fixture(scope="module", params=[llama_server, transformers_serve])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    with request.param(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_by_id_an_engine_says_what_it_says_of_the_medium_itself(
    bench: Bench, delivery: str, kind: str, form: str, record_cell: Callable[..., None]
) -> None:
    """H74, H75: the same text, the same number of tokens; another medium, another text. Or a refusal that says why."""
    found = engine_matrix.outcome(bench, delivery, kind, form)

    if delivery == "path":
        assert found == WORKS or form == "Messages"
    record_cell(bench.name, kind, form, delivery, found)


REAL = {Engine.VLLM, Engine.LLAMA_SERVER, Engine.TRANSFORMERS}


@pytest.mark.parametrize("engine", sorted(PROFILES.keys() - REAL))
def test_what_other_engines_are_sent(
    engine: Engine, tmp_path: Path, record_cell: Callable[..., None]
) -> None:
    """H74, H75: each file in words that the engine knows, or a refusal; nothing is sent that names the file itself."""
    with ThreadedUpstream() as upstream:
        upstream.server.handlers["/v1/chat/completions"] = answer_chat
        upstream.server.handlers["/v1/responses"] = answer_chat
        upstream.server.handlers["/v1/messages"] = answer_chat
        media_path = tmp_path / "media"
        with engine_matrix.gateways(upstream.server.url, engine.value, media_path) as gateways:
            bench = Bench(engine_matrix.NAMES[engine], None, ALL_KINDS, data_uri, {}, gateways)
            for kind, form in CELLS:
                for delivery in DELIVERIES:
                    upstream.server.received.clear()
                    answer = engine_matrix.asked(bench, delivery, kind, form)
                    if answer.status == 200:
                        (sent,) = upstream.server.received
                        assert b"file-" not in sent.body
                        found = engine_matrix.told(sent.body)
                    else:
                        assert upstream.server.received == []
                        found = engine_matrix.refusal(answer)
                    if engine_matrix.is_shown(engine, form):
                        record_cell(bench.name, kind, form, delivery, found)


async def answer_chat(request: Received) -> None:
    await request.read_body()
    await request.answer(b"{}", headers=b"content-type: application/json\r\n")


def test_a_clip_of_80_mb_gets_to_llama_server_by_id(tmp_path: Path) -> None:
    """Inline it is over llama-server's limit of 100 MB, which says 413; by id it gets a link."""
    clip = corpus.padded(PAIRS["video"][0], 80 * 10**6)
    media_path = tmp_path / "media"
    media_path.mkdir(mode=0o700)
    with llama_servers.serving("--media-path", str(media_path)) as engine:
        inline_clip = engine_questions.part("video", engine_questions.data_uri(clip))
        assert engine_questions.ask(engine, inline_clip).status == 413
        flags = ("--upstream", engine.url, "--media-path", str(media_path), "--max-json-mb", "200")
        with servers.serving(*flags, store=tmp_path / "store") as gateway:
            file_id = str(servers.upload(gateway, clip.data)["id"])
            by_id = engine_questions.ask(gateway, engine_questions.part("video", file_id))
        with servers.serving("--upstream", engine.url, store=tmp_path / "store") as gateway:
            without = engine_questions.ask(gateway, engine_questions.part("video", file_id))

        small = engine_questions.part("video", engine_questions.data_uri(PAIRS["video"][0]))
        assert engine_questions.said(by_id) == engine_questions.said(
            engine_questions.ask(engine, small)
        )
    # Nothing else is set up that would do: said before the engine hears of it.
    assert without.code == (413, "body_too_large")
    assert "--media-path" in without.error["message"]
