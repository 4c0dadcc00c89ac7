"""A real `transformers serve`, alone: what it takes, which is what the gateway counts on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_questions
import transformers_servers
from engine_processes import EngineServer
from engine_questions import CLIPS, PAIRS, data_uri, part
from vllm_questions import Said

pytestmark = pytest.mark.engines

SHORT = {"num_frames": 4}
"""It would want 32 frames of a clip, and fail where there are fewer."""


@pytest.fixture(scope="module")
def server() -> Iterator[EngineServer]:
    with transformers_servers.serving() as running:
        yield running


def said(server: EngineServer, *parts: dict[str, Any]) -> Said:
    return engine_questions.said(engine_questions.ask(server, *parts, chat_template_kwargs=SHORT))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_bare_path_is_read(server: EngineServer, tmp_path: Path, kind: str) -> None:
    paths = tmp_path / "one", tmp_path / "other"
    for path, media in zip(paths, PAIRS[kind], strict=True):
        path.write_bytes(media.data)
    one, other = (part(kind, str(path)) for path in paths)
    assert said(server, one).prompt_tokens > said(server).prompt_tokens
    assert said(server, one) == said(server, one)
    assert said(server, one).text != said(server, other).text


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_data_uri_says_the_same_as_a_path(
    server: EngineServer, tmp_path: Path, kind: str
) -> None:
    media, _ = PAIRS[kind]
    by_path = part(kind, str(media.write(tmp_path)))
    assert said(server, part(kind, data_uri(media))) == said(server, by_path)


def test_a_clip_as_a_data_uri_fails(server: EngineServer) -> None:
    by_data = part("video", data_uri(CLIPS[0]))
    answer = engine_questions.ask(server, by_data, chat_template_kwargs=SHORT)
    assert (answer.status, answer.body) == (500, b"Internal Server Error")


def test_a_part_of_an_unknown_type_is_dropped_without_a_word(server: EngineServer) -> None:
    assert said(server, {"type": "input_video", "input_video": {"url": "…"}}) == said(server)
