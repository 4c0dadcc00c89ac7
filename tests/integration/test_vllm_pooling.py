"""Files by id in a real vLLM that makes no words but vectors and scores: every endpoint that it has."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

import vllm_questions as questions
import vllm_servers
from vllm_questions import Asker, Medium, by_id, chat, inline

pytestmark = [pytest.mark.vllm, pytest.mark.media]

IMAGE, OTHER_IMAGE = questions.image(questions.RED), questions.image(questions.BLUE)
CLIP = questions.clip(questions.RED, questions.BLUE)
UNKNOWN = "file-" + "0" * 32


def messages(medium: Medium) -> dict[str, Any]:
    return {"model": "tiny", "messages": chat(medium.part)["messages"]}


def query(medium: Medium) -> dict[str, Any]:
    return {"model": "tiny", "query": "red", "documents": {"content": [medium.part]}}


def queries(medium: Medium) -> dict[str, Any]:
    return {"model": "tiny", "queries": "red", "documents": {"content": [medium.part]}}


def inputs(medium: Medium) -> dict[str, Any]:
    return {"model": "tiny", "inputs": [{"content": [medium.part]}]}


READ_MEDIA: Mapping[str, Callable[[Medium], dict[str, Any]]] = {
    **dict.fromkeys(("/tokenize", "/invocations", "/pooling", "/v1/embeddings"), messages),
    **dict.fromkeys(("/score", "/v1/score"), queries),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), query),
    "/v2/embed": inputs,
}
READ_NONE = {"/detokenize", "/ping", "/v1/systemone"}


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    store = tmp_path_factory.mktemp("store")
    with vllm_servers.serving("--runner", "pooling", store=store) as server:
        yield Asker(server)


def test_there_are_no_other_endpoints(asker: Asker) -> None:
    """A new version's are to be looked at."""
    paths = asker.request("GET", "/openapi.json").json()["paths"]

    assert {path for path, methods in paths.items() if "post" in methods} == {
        *READ_MEDIA,
        *READ_NONE,
    }


@pytest.mark.parametrize("path", READ_MEDIA)
def test_a_file_by_id_is_the_file(asker: Asker, path: str) -> None:
    """H74: the same numbers as by value, and another file gives others."""
    ids = asker.upload(IMAGE), asker.upload(OTHER_IMAGE)

    by_value = numbers(asker, path, inline(IMAGE))

    assert numbers(asker, path, by_id(ids[0], IMAGE)) == by_value
    if path != "/tokenize":
        assert numbers(asker, path, by_id(ids[1], OTHER_IMAGE)) != by_value


def numbers(asker: Asker, path: str, medium: Medium) -> object:
    """What an answer says, without its id, its time, and the echo of a document."""
    answer = asker.post(path, READ_MEDIA[path](medium))
    assert answer.status == 200, answer
    said = answer.json()
    for result in said.get("results", ()):
        del result["document"]
    return {key: value for key, value in said.items() if key not in {"id", "created"}}


@pytest.mark.parametrize("path", READ_MEDIA)
def test_refusals(asker: Asker, path: str) -> None:
    """H77, H78."""
    of_other_kind = by_id(asker.upload(CLIP), IMAGE)
    body = READ_MEDIA[path]

    assert asker.post(path, body(by_id(UNKNOWN, IMAGE))).code == (404, "file_not_found")
    assert asker.post(path, body(by_id("file-x", IMAGE))).code == (400, "invalid_reference")
    assert asker.post(path, body(of_other_kind)).code == (400, "media_kind_mismatch")
