"""What the upstream is, found out by asking it; and what makes a difference here: what vLLM keeps for tenants.

**Asking.** Nothing is asked before somebody needs to know. An answer is kept for good; where there is none (the
upstream is down, or wants a key that we do not have), the next need asks again, at most once in `ASK_AGAIN_S`.

**Not knowing.** Until there is an answer the upstream is treated as vLLM. A server that refuses fields it does not know
then says so; the other way round, tenants could tell each other's prompts by the time that answers take, and nobody
would ever see it.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from mediagate.core.scopes import DEFAULT_SCOPE, Principal, Scope
from mediagate.core.store_key import StoreKey, Use
from mediagate.gateway.media_endpoints import leads_to
from mediagate.operations.resolve import CacheNames

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
ASK_AGAIN_S = 10.0
_MAX_ANSWER_BYTES = 1024**2

_MODELS = "/v1/models"

_SALTED = (
    ("completions",),  # chat completions too
    ("completions", "batch"),
    ("completions", "render"),
    ("responses",),
    ("responses", "render"),
    ("messages",),
    ("messages", "render"),
    ("embeddings",),
    ("pooling",),
    ("classify",),
    ("score",),
    ("rerank",),
    ("generative_scoring",),
    ("systemone",),
    ("inference", "v1", "generate"),
    ("invocations",),
)
"""Ends of the paths whose bodies take a `cache_salt`, in vLLM 0.32.0 (`entrypoints/**/protocol.py`)."""


class Upstream(Protocol):
    """What can be asked."""

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        """The body of a 200 to a GET, or None."""


class EngineProbe:
    """Asks the upstream what it is.

    Args:
        upstream: The upstream.
        clock: Seconds, monotonic.
    """

    def __init__(self, *, upstream: Upstream, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._clock = clock
        self._is_vllm: bool | None = None
        self._next_ask_at = -math.inf
        self._asking = asyncio.Lock()

    async def may_be_vllm(self) -> bool:
        """Whether the upstream is vLLM, or did not say."""
        if self._is_vllm is None:
            async with self._asking:  # those who need to know meanwhile wait for the same answer
                if self._is_vllm is None and self._clock() >= self._next_ask_at:
                    await self._ask()
        return self._is_vllm is not False

    async def _ask(self) -> None:
        answer = await self._upstream.fetch(
            _MODELS, timeout_s=ASK_TIMEOUT_S, max_bytes=_MAX_ANSWER_BYTES
        )
        self._is_vllm = None if answer is None else _lists_models_of_vllm(answer)
        if self._is_vllm is None:
            self._next_ask_at = self._clock() + ASK_AGAIN_S
            logger.warning(
                "the upstream's GET %s does not say what it is; it is taken for vLLM until it does. "
                "Set --engine to say so yourself",
                _MODELS,
            )


class CacheSalts:
    """Keeps tenants apart in vLLM's caches: that of prefixes by a salt, that of media by the names that clients give.

    vLLM keeps media under a client's `uuid`, for all clients alike: whoever knows or guesses one asks about another's
    media, and one that is the digest of somebody's media puts other media in their place.

    Args:
        key: Turns scopes into names that nobody can make or guess.
        is_wanted: Whether the upstream is vLLM.
    """

    def __init__(self, *, key: StoreKey, is_wanted: Callable[[], Awaitable[bool]]) -> None:
        self._key = key
        self._is_wanted = is_wanted

    async def names_for(
        self, method: str, raw_path: bytes, principal: Principal
    ) -> CacheNames | None:
        """What things are called in a request whose body is read; None: what the client calls them.

        A request that leaves out its scope, where it may, is not salted, as it shares nothing with any tenant's. What
        it calls media is not what tenants call theirs.
        """
        scope = principal.known_scope
        if scope == DEFAULT_SCOPE or method.upper() != "POST":
            return None
        if not await self._is_wanted():
            return None
        return CacheNames(
            media=partial(self._key.tag, Use.CACHED_MEDIA, scope or DEFAULT_SCOPE),
            salt=self._salt(scope) if scope and leads_to(raw_path, _SALTED) else None,
        )

    def _salt(self, scope: Scope) -> Callable[[str], str]:
        return partial(self._key.tag, Use.CACHE_SALT, scope)


def _lists_models_of_vllm(answer: bytes) -> bool | None:
    """What a list of models says of the server that made it; None: this is none."""
    try:
        body = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    models = body.get("data") if isinstance(body, dict) else None
    if not isinstance(models, list) or not models:
        return None
    return any(isinstance(model, dict) and model.get("owned_by") == "vllm" for model in models)
