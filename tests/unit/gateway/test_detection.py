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


async def test_a_busy_upstream_is_not_taken_for_an_unknown_one_for_good() -> None:
    """Transformers serve lists models of anybody, and answers the rest late while it computes."""
    clock = Clock()

    class Busy(Upstream):
        async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
            answer = await super().fetch(path, timeout_s=timeout_s, max_bytes=max_bytes)
            if path == "/openapi.json" and answer is None:
                clock.now += timeout_s
            return answer

    upstream = Busy({MODELS: models("google")})
    asking = detection(upstream, clock)

    first = await asking.engine()
    upstream.answers["/openapi.json"] = json.dumps(
        {"paths": {"/load_model": {}, "/reset": {}}}
    ).encode()
    clock.now += ASK_AGAIN_S

    assert (first, await asking.engine()) == (None, Engine.TRANSFORMERS)


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


# what they really answer ----------------------------------------------------------------------------------------


def listing(*entries: dict[str, object]) -> bytes:
    return json.dumps({"object": "list", "data": list(entries)}).encode()


def said(**members: object) -> bytes:
    return json.dumps(members).encode()


MODEL = {"id": "m", "object": "model", "created": 1}
CARD = {**MODEL, "root": "m", "parent": None, "max_model_len": 4096}
FASTAPI = {"title": "FastAPI", "version": "0.1.0"}
LOCALAI_DISCOVERY = said(
    version="v4.9.0 (82c191a)",
    endpoints={"models": "/v1/models", "chat_completions": "/v1/chat/completions"},
    capabilities={"x": True},
)
DYNAMO_OPENAPI = said(
    info={"title": "NVIDIA Dynamo OpenAI Frontend", "version": "1.6.1"},
    paths={"/v1/chat/completions": {}, "/health": {}},
)

ANSWERS: dict[Engine, dict[str, bytes]] = {
    Engine.VLLM: {
        MODELS: listing({**CARD, "owned_by": "vllm", "permission": [{"id": "modelperm-1"}]}),
        "/version": said(version="0.32.0"),
        "/openapi.json": said(info={"title": "FastAPI"}, paths={"/v1/models": {}, "/reset": {}}),
        "/health": b"",
    },
    Engine.SGLANG: {
        MODELS: listing({**CARD, "owned_by": "sglang"}),
        "/openapi.json": said(info=FASTAPI, paths={"/generate": {}}),
        "/health": b"",
    },
    Engine.LMDEPLOY: {
        MODELS: listing({**CARD, "owned_by": "lmdeploy", "permission": [{"id": "modelperm-1"}]}),
        "/openapi.json": said(info=FASTAPI, paths={"/get_ppl": {}}),
    },
    Engine.LLAMA_SERVER: {
        MODELS: said(
            models=[{"name": "m", "capabilities": ["completion", "multimodal"]}],
            object="list",
            data=[{**MODEL, "aliases": [], "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}],
        ),
        "/props": said(build_info="b1-x", modalities={"vision": True}),
    },
    Engine.LLAMA_CPP_PYTHON: {
        MODELS: listing({"id": "m", "object": "model", "owned_by": "me", "permissions": []}),
        "/openapi.json": said(
            info={"title": "🦙 llama.cpp Python API", "version": "0.3.36"},
            paths={"/v1/models": {}},
        ),
    },
    Engine.TRANSFORMERS: {
        # What is in the cache of Hugging Face: owned by whoever is before the `/` of its name.
        MODELS: listing(
            {**MODEL, "owned_by": "vllm"},
            {**MODEL, "owned_by": "lmdeploy"},
            {**MODEL, "owned_by": "Qwen"},
        ),
        "/openapi.json": said(
            info=FASTAPI, paths={"/v1/systemone": {}, "/load_model": {}, "/reset": {}}
        ),
        "/health": said(status="ok"),
    },
    Engine.OLLAMA: {
        # Owned by whoever is before the `/` of its name.
        MODELS: listing(
            *(
                {**MODEL, "owned_by": owner}
                for owner in ("library", "vllm", "sglang", "lmdeploy", "llamacpp", "me", "local")
            )
        ),
        "/": b"Ollama is running",
        "/api/version": said(version="0.33.0"),
        "/api/tags": said(models=[]),
    },
    Engine.MISTRAL_RS: {
        MODELS: listing(
            {**MODEL, "id": "default", "owned_by": "local", "root": "default"},
            {**MODEL, "owned_by": "local", "status": "loaded"},
        ),
        "/v1/system/info": said(
            os="Linux",
            kernel=None,
            cpu={"brand": "x"},
            memory={"total_bytes": 1},
            devices=[],
            build={"cuda": False, "git_revision": "9e92262"},
            hf_cache_path=None,
        ),
        "/": b"OK",
        "/health": b"OK",
    },
    Engine.TGI: {
        MODELS: listing({**MODEL, "id": "org/m", "created": 0, "owned_by": "org/m"}),
        "/info": said(model_id="org/m", router="text-generation-router", version="3.3.6-dev0"),
        "/": b"",
        "/health": b"",
    },
    Engine.LOCALAI: {
        MODELS: listing({"id": "m", "object": "model"}),
        "/.well-known/localai.json": LOCALAI_DISCOVERY,
        # As vLLM says it, and as Ollama does, the last only where the operator wants it.
        "/version": said(version="v4.9.0 (82c191a)"),
        "/api/version": said(version="0.9.0"),
        "/api/tags": said(models=[]),
        "/": b"Ollama is running",
    },
    Engine.DYNAMO: {
        MODELS: listing({**MODEL, "owned_by": "nvidia", "context_window": 4096}),
        "/openapi.json": DYNAMO_OPENAPI,
        "/health": said(
            status="healthy", endpoints=["dyn://dynamo.backend.generate"], instances=[]
        ),
        "/live": said(status="live", message="Service is live"),
    },
    Engine.OPENAI: {
        MODELS: listing({**MODEL, "owned_by": "openai"}, {**MODEL, "owned_by": "nvidia"}),
        "/": b"OK",
        # As text-embeddings-inference.
        "/info": said(model_id="m", version="1.8.0"),
        "/openapi.json": said(info={"title": "LiteLLM API"}, paths={"/reset": {}}),
    },
}


@pytest.mark.parametrize("engine", ANSWERS)
async def test_engine_is_known_by_what_it_really_answers(engine: Engine) -> None:
    assert await detection(Upstream({**ANSWERS[engine]})).engine() is engine


def test_every_engine_answers_here() -> None:
    assert {*ANSWERS, Engine.AUTO} == set(Engine)
    assert {signal.engine for signal in SIGNALS} == set(ANSWERS) - {Engine.OPENAI}


@pytest.mark.parametrize("engine", ANSWERS)
def test_no_signal_of_another_is_in_its_answers(engine: Engine) -> None:
    """But for LocalAI's, which says what Ollama says: what tells it from that comes first."""
    heard = [
        signal.engine
        for signal in SIGNALS
        if (answer := ANSWERS[engine].get(signal.path)) is not None and signal.said(answer)
    ]

    assert heard[:1] == ([] if engine is Engine.OPENAI else [engine])
    assert heard[1:] == ([Engine.OLLAMA] if engine is Engine.LOCALAI else [])


ODD = [
    *(b"", b"null", b"[]", b"{}", b'"OK"', b"\xff", b"[" * 100_000, b"<html>OK</html>"),
    *(said(data={}), said(data=[None]), said(info=[], paths=[]), said(router=[], hf=[])),
]


@pytest.mark.parametrize("path", sorted({signal.path for signal in SIGNALS}))
@pytest.mark.parametrize("answer", ODD, ids=range(len(ODD)))
async def test_odd_answers_break_nothing(path: str, answer: bytes) -> None:
    for engine, answers in ANSWERS.items():
        found = await detection(Upstream({**answers, path: answer})).engine()

        # LocalAI that does not say so and says what Ollama says is Ollama.
        taken_for = {Engine.OLLAMA} if engine is Engine.LOCALAI else set()
        assert found in {engine, Engine.OPENAI, None} | taken_for


@pytest.mark.parametrize("empty", [listing(), said(object="list", data=None)])
@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.TRANSFORMERS, Engine.LOCALAI])
async def test_engine_without_a_model_is_known_all_the_same(engine: Engine, empty: bytes) -> None:
    """Ollama says null where it has none, transformers serve lists what is cached and not what it serves."""
    assert await detection(Upstream({**ANSWERS[engine], MODELS: empty})).engine() is engine


async def test_engine_that_wants_a_key_for_its_models_is_known_by_what_is_free() -> None:
    for engine in (Engine.LOCALAI, Engine.TGI, Engine.DYNAMO):
        answers: dict[str, bytes | None] = {**ANSWERS[engine], MODELS: None}
        assert await detection(Upstream(answers)).engine() is engine
