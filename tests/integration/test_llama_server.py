"""A real llama-server, alone: what it takes, which is what the gateway counts on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_questions
import llama_servers
from corpus import Media
from engine_processes import EngineServer
from engine_questions import IMAGES, PAIRS, data_uri, part
from vllm_questions import Said

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def media_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def server(media_path: Path) -> Iterator[EngineServer]:
    with llama_servers.serving("--media-path", str(media_path)) as running:
        yield running


def spelled(kind: str, url: str) -> dict[str, Any]:
    """A part that names a medium; of sound it knows no other."""
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"url": url}}
    return part(kind, url)


def said(server: EngineServer, *parts: dict[str, Any]) -> Said:
    return engine_questions.said(engine_questions.ask(server, *parts))


def by_path(kind: str, media: Media, media_path: Path) -> dict[str, Any]:
    return spelled(kind, f"file://{media.write(media_path).name}")


@pytest.mark.parametrize("kind", PAIRS)
def test_media_say_what_they_are(server: EngineServer, kind: str) -> None:
    one, other = (spelled(kind, data_uri(media)) for media in PAIRS[kind])
    assert said(server, one).prompt_tokens > said(server).prompt_tokens
    assert said(server, one) == said(server, one)
    assert said(server, one).text != said(server, other).text


@pytest.mark.parametrize("kind", PAIRS)
def test_a_path_below_the_media_directory_says_the_same_as_a_data_uri(
    server: EngineServer, media_path: Path, kind: str
) -> None:
    media, _ = PAIRS[kind]
    by_data = spelled(kind, data_uri(media))
    assert said(server, by_path(kind, media, media_path)) == said(server, by_data)


def test_an_absolute_path_is_refused(server: EngineServer, media_path: Path) -> None:
    path = IMAGES[0].write(media_path)
    assert engine_questions.ask(server, part("image", path.as_uri())).status == 400
