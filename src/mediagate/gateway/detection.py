"""What the upstream is, found out by asking it.

Only what no other engine says counts. Nothing is asked before somebody needs to know. An answer is kept for good; where
there is none (the upstream is down, busy, or wants a key that we do not have), the next need asks again, at most once
in `ASK_AGAIN_S`.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mediagate.core.engines import Engine

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
ASK_AGAIN_S = 10.0
_MAX_ANSWER_BYTES = 1024**2

_MODELS = "/v1/models"


class Upstream(Protocol):
    """What can be asked."""

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        """The body of a 200 to a GET, or None."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What an engine says of itself.

    Attributes:
        path: What to ask.
        engine: Who answers so.
        said: Whether that is in an answer.
    """

    path: str
    engine: Engine
    said: Callable[[bytes], bool]


def _owned_by(owner: str, beside: str) -> Callable[[bytes], bool]:
    """A model is `owner`'s, and has a member `beside`: transformers serve fills in authors of repositories."""

    def said(answer: bytes) -> bool:
        models = _members(answer).get("data")
        return isinstance(models, list) and any(
            isinstance(model, dict) and model.get("owned_by") == owner and beside in model
            for model in models
        )

    return said


def _member(name: str, value: str | None = None) -> Callable[[bytes], bool]:
    def said(answer: bytes) -> bool:
        members = _members(answer)
        return name in members and (value is None or members[name] == value)

    return said


def _titled(title: str) -> Callable[[bytes], bool]:
    def said(answer: bytes) -> bool:
        info = _members(answer).get("info")
        return isinstance(info, dict) and info.get("title") == title

    return said


def _has_routes(*paths: str) -> Callable[[bytes], bool]:
    def said(answer: bytes) -> bool:
        routes = _members(answer).get("paths")
        return isinstance(routes, dict) and all(path in routes for path in paths)

    return said


def _text(text: bytes) -> Callable[[bytes], bool]:
    def said(answer: bytes) -> bool:
        return answer.strip() == text

    return said


def _members(answer: bytes | None) -> dict[str, Any]:
    try:
        body = json.loads(answer or b"")
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


SIGNALS: Sequence[Signal] = (
    Signal(_MODELS, Engine.VLLM, _owned_by("vllm", "root")),
    Signal(_MODELS, Engine.SGLANG, _owned_by("sglang", "root")),
    Signal(_MODELS, Engine.LMDEPLOY, _owned_by("lmdeploy", "root")),
    Signal(_MODELS, Engine.LLAMA_SERVER, _owned_by("llamacpp", "meta")),
    # LocalAI answers like others too, so it comes first.
    Signal("/.well-known/localai.json", Engine.LOCALAI, _member("endpoints")),
    Signal("/openapi.json", Engine.DYNAMO, _titled("NVIDIA Dynamo OpenAI Frontend")),
    Signal("/openapi.json", Engine.LLAMA_CPP_PYTHON, _titled("🦙 llama.cpp Python API")),
    Signal("/openapi.json", Engine.TRANSFORMERS, _has_routes("/load_model", "/reset")),
    Signal("/info", Engine.TGI, _member("router", "text-generation-router")),
    Signal("/", Engine.OLLAMA, _text(b"Ollama is running")),
    Signal("/v1/system/info", Engine.MISTRAL_RS, _member("hf_cache_path")),
)
"""In the order in which they are asked for; what is asked by one path is asked once."""


class Detection:
    """Asks the upstream what it is.

    Args:
        upstream: The upstream.
        clock: Seconds, monotonic.
    """

    def __init__(self, *, upstream: Upstream, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._clock = clock
        self._engine: Engine | None = None
        self._next_ask_at = -math.inf
        self._asking = asyncio.Lock()

    async def engine(self) -> Engine | None:
        """What it is, `OPENAI` if it is none that is known; None: it did not say."""
        if self._engine is None:
            async with self._asking:  # those who need to know meanwhile wait for the same answer
                if self._engine is None and self._clock() >= self._next_ask_at:
                    await self._ask()
        return self._engine

    async def _ask(self) -> None:
        models = await self._fetch(_MODELS)
        self._engine = _recognise({_MODELS: models})
        is_late = False
        if self._engine is None:
            began_at = self._clock()
            # All at once: an upstream that does not answer is waited for once.
            others = sorted({signal.path for signal in SIGNALS} - {_MODELS})
            found = await asyncio.gather(*map(self._fetch, others))
            self._engine = _recognise(dict(zip(others, found, strict=True)))
            # One that is busy is not unknown: what did not come in time might have told.
            is_late = self._clock() - began_at >= ASK_TIMEOUT_S
        if self._engine is None and not is_late and _members(models).get("data"):
            self._engine = Engine.OPENAI
        if self._engine is None:
            self._next_ask_at = self._clock() + ASK_AGAIN_S
            logger.warning(
                "the upstream's GET %s does not say what it is; nothing is taken for granted until it does. "
                "Set --engine to say so yourself",
                _MODELS,
            )
        else:
            logger.info("The upstream's engine is %s.", self._engine)

    async def _fetch(self, path: str) -> bytes | None:
        return await self._upstream.fetch(
            path, timeout_s=ASK_TIMEOUT_S, max_bytes=_MAX_ANSWER_BYTES
        )


def _recognise(answers: Mapping[str, bytes | None]) -> Engine | None:
    """Who answers so; None: nobody who is known."""
    said = (
        signal.engine
        for signal in SIGNALS
        if (answer := answers.get(signal.path)) is not None and signal.said(answer)
    )
    return next(said, None)
