"""Keeps tenants apart in what vLLM keeps for all: its caches of prefixes, and of media.

Until an upstream has said what it is, it is treated as vLLM. A server that refuses fields it does not know then says
so; the other way round, tenants could tell each other's prompts by the time that answers take, and nobody would ever
see it.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from mediagate.core.scopes import DEFAULT_SCOPE, Principal, Scope
from mediagate.core.store_key import StoreKey, Use
from mediagate.gateway.media_endpoints import leads_to
from mediagate.operations.rewrite import CacheNames

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
