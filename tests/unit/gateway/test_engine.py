"""What the upstream is, and what follows from that: nobody is asked without need, and not knowing leaks nothing."""

import asyncio
import json
import re

import pytest

from mediagate.core.scopes import DEFAULT_SCOPE, Principal, Scope
from mediagate.core.store_key import StoreKey
from mediagate.gateway.engine import ASK_AGAIN_S, CacheSalts, EngineProbe
from mediagate.gateway.media_endpoints import media_dialect
from stores import Clock

VLLM = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]}).encode()
OTHER = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": "somebody"}]}).encode()
CHAT = b"/v1/chat/completions"
ALICE, BOB = Principal(Scope("alice")), Principal(Scope("bob"))
KEY = StoreKey(bytes(32))


class Upstream:
    """Answers as told, and remembers what it was asked."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        self.asked.append(path)
        await asyncio.sleep(0)
        return self.answers.pop(0)


def probe(upstream: Upstream, clock: Clock | None = None) -> EngineProbe:
    return EngineProbe(upstream=upstream, clock=clock or Clock())


@pytest.mark.parametrize(("answer", "is_vllm"), [(VLLM, True), (OTHER, False)])
async def test_one_answer_is_enough(answer: bytes, is_vllm: bool) -> None:
    upstream = Upstream(answer)
    asking = probe(upstream)

    found = await asyncio.gather(*(asking.may_be_vllm() for _ in range(10)))
    found.append(await asking.may_be_vllm())

    assert set(found) == {is_vllm}
    assert upstream.asked == ["/v1/models"]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"no JSON",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":{}}',
        b'{"data":[]}',
    ],
)
async def test_upstream_that_does_not_say_is_asked_again_but_not_at_once(
    answer: bytes | None,
) -> None:
    upstream, clock = Upstream(answer, OTHER), Clock()
    asking = probe(upstream, clock)

    first = await asking.may_be_vllm()
    clock.now += ASK_AGAIN_S - 1
    second = await asking.may_be_vllm()
    asked_by_then = len(upstream.asked)
    clock.now += 1
    third = await asking.may_be_vllm()

    assert (first, second, third) == (True, True, False)
    assert (asked_by_then, len(upstream.asked)) == (1, 2)


async def test_lists_of_anything_are_read_without_a_stumble() -> None:
    models: list[object] = [None, 1, "m", [], {"owned_by": ["vllm"]}, {"owned_by": "vllm"}]

    assert await probe(Upstream(json.dumps({"data": models}).encode())).may_be_vllm()
    assert not await probe(Upstream(json.dumps({"data": models[:-1]}).encode())).may_be_vllm()


async def wanted() -> bool:
    return True


async def never_asked() -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/v1/completions",
        "/v1/completions/render",
        "/v1/responses",
        "/v1/responses/render",
        "/v1/messages",
        "/v1/messages/render",
        "/v1/embeddings",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/generative_scoring",
        "/v1/systemone",
        "/inference/v1/generate",
        "/invocations",
        "/some/root/v1/completions",
        "/v1/%63ompletions",
        "/v1/completions?x=1",
    ],
)
async def test_every_endpoint_that_takes_a_salt_gets_one(path: str) -> None:
    salts = CacheSalts(key=KEY, is_wanted=wanted)

    salt = await salts.salt_for("POST", path.encode(), ALICE)

    assert media_dialect("POST", path.encode()) is not None, "what is not read cannot be salted"
    assert salt is not None
    # As vLLM wants it: at most 128 characters, and none of `@`, `/`, `\` and NUL.
    assert re.fullmatch("[0-9a-f]{64}", salt(""))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/tokenize"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/models"),
        ("POST", "/"),
    ],
)
async def test_other_requests_are_left_alone_and_ask_nothing(method: str, path: str) -> None:
    salts = CacheSalts(key=KEY, is_wanted=never_asked)

    assert await salts.salt_for(method, path.encode(), ALICE) is None


async def test_callers_without_a_tenant_are_left_alone_and_ask_nothing() -> None:
    """H79: where there are no tenants, nothing is changed."""
    salts = CacheSalts(key=KEY, is_wanted=never_asked)

    assert await salts.salt_for("POST", CHAT, Principal(DEFAULT_SCOPE)) is None


async def test_engine_that_is_not_vllm_gets_no_salt() -> None:
    salts = CacheSalts(key=KEY, is_wanted=probe(Upstream(OTHER)).may_be_vllm)

    assert await salts.salt_for("POST", CHAT, ALICE) is None


async def test_no_tenant_can_choose_anothers_salt() -> None:
    salts = CacheSalts(key=KEY, is_wanted=wanted)
    foreign = CacheSalts(key=StoreKey(bytes(31) + b"1"), is_wanted=wanted)
    alice, bob = [await salts.salt_for("POST", CHAT, who) for who in (ALICE, BOB)]
    elsewhere = await foreign.salt_for("POST", CHAT, ALICE)
    assert alice is not None
    assert bob is not None
    assert elsewhere is not None

    told = [
        alice(""), bob(""), alice("x"), bob("x"),
        bob(alice("")), bob("alice"), alice("alice"), elsewhere(""),
    ]  # fmt: skip

    assert len(set(told)) == len(told)
    assert alice("x") == alice("x")
    assert not any("alice" in salt or "x" in salt for salt in told)
