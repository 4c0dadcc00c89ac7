"""What the upstream is: only what is certain counts, and nobody is asked without need."""

import asyncio
import json

import pytest

from mediagate.core.engines import Engine
from mediagate.gateway.detection import ASK_AGAIN_S, SIGNALS, Detection
from stores import Clock

MODELS = "/v1/models"


def models(owner: object) -> bytes:
    return json.dumps(
        {"object": "list", "data": [{"id": "m", "root": "m", "owned_by": owner}]}
    ).encode()


class Upstream:
    """Answers as told, path by path, and remembers what it was asked."""

    def __init__(self, answers: dict[str, bytes | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        self.asked.append(path)
        await asyncio.sleep(0)
        return self.answers.get(path)


def detection(upstream: Upstream, clock: Clock | None = None) -> Detection:
    return Detection(upstream=upstream, clock=clock or Clock())


async def test_one_answer_is_enough() -> None:
    upstream = Upstream({MODELS: models("vllm")})
    asking = detection(upstream)

    found = await asyncio.gather(*(asking.engine() for _ in range(10)))
    found.append(await asking.engine())

    assert set(found) == {Engine.VLLM}
    assert upstream.asked == [MODELS]


async def test_an_engine_that_nobody_knows_is_asked_once() -> None:
    upstream = Upstream({MODELS: models("somebody")})
    asking = detection(upstream)

    assert await asking.engine() is Engine.OPENAI
    assert await asking.engine() is Engine.OPENAI
    assert sorted(upstream.asked) == sorted({signal.path for signal in SIGNALS})


@pytest.mark.parametrize(
    "answer",
    [None, b"", b"no JSON", b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"data":[]}'],
)
async def test_upstream_that_does_not_say_is_asked_again_but_not_at_once(
    answer: bytes | None,
) -> None:
    upstream, clock = Upstream({MODELS: answer}), Clock()
    asking = detection(upstream, clock)

    first = await asking.engine()
    clock.now += ASK_AGAIN_S - 1
    second = await asking.engine()
    asked_by_then = upstream.asked.count(MODELS)
    upstream.answers[MODELS] = models("sglang")
    clock.now += 1
    third = await asking.engine()

    assert (first, second, third) == (None, None, Engine.SGLANG)
    assert (asked_by_then, upstream.asked.count(MODELS)) == (1, 2)


async def test_lists_of_anything_are_read_without_a_stumble() -> None:
    listed: list[object] = [
        None,
        1,
        "m",
        [],
        {"owned_by": ["vllm"]},
        {"owned_by": "vllm", "root": "m"},
    ]
    upstream = Upstream({MODELS: json.dumps({"data": listed}).encode()})
    other = Upstream({MODELS: json.dumps({"data": listed[:-1]}).encode()})

    assert await detection(upstream).engine() is Engine.VLLM
    assert await detection(other).engine() is Engine.OPENAI
