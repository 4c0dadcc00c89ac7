"""What vLLM is told so that it keeps tenants apart."""

import re
from collections.abc import Callable

import pytest

from mediagate.core.errors import InvalidScope
from mediagate.core.scopes import DEFAULT_SCOPE, Principal, Scope
from mediagate.core.store_key import StoreKey
from mediagate.gateway.cache_salts import CacheSalts
from mediagate.gateway.media_endpoints import media_dialect

CHAT = b"/v1/chat/completions"
ALICE, BOB = Principal(Scope("alice")), Principal(Scope("bob"))
KEY = StoreKey(bytes(32))


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

    names = await salts.names_for("POST", path.encode(), ALICE)

    assert media_dialect("POST", path.encode()) is not None, "what is not read cannot be salted"
    assert names is not None
    assert names.salt is not None
    # As vLLM wants it: at most 128 characters, and none of `@`, `/`, `\` and NUL.
    assert re.fullmatch("[0-9a-f]{64}", names.salt(""))


@pytest.mark.parametrize(
    "path", ["/tokenize", "/v1/messages/count_tokens", "/v1/responses/resp_1/cancel", "/"]
)
async def test_other_endpoints_get_names_for_media_and_no_salt(path: str) -> None:
    salts = CacheSalts(key=KEY, is_wanted=wanted)

    names = await salts.names_for("POST", path.encode(), ALICE)

    assert names is not None
    assert names.salt is None
    assert re.fullmatch("[0-9a-f]{64}", names.media('"u"'))


async def test_request_that_asks_for_nothing_is_left_alone_and_asks_nothing() -> None:
    salts = CacheSalts(key=KEY, is_wanted=never_asked)

    assert await salts.names_for("GET", b"/v1/responses", ALICE) is None


async def test_callers_without_a_tenant_are_left_alone_and_ask_nothing() -> None:
    """H79: where there are no tenants, nothing is changed."""
    salts = CacheSalts(key=KEY, is_wanted=never_asked)

    assert await salts.names_for("POST", CHAT, Principal(DEFAULT_SCOPE)) is None


async def unwanted() -> bool:
    return False


async def test_engine_that_is_not_vllm_is_told_nothing() -> None:
    salts = CacheSalts(key=KEY, is_wanted=unwanted)

    assert await salts.names_for("POST", CHAT, ALICE) is None


async def salt_of(salts: CacheSalts, who: Principal) -> Callable[[str], str]:
    names = await salts.names_for("POST", CHAT, who)
    assert names is not None
    assert names.salt is not None
    return names.salt


async def test_no_tenant_can_choose_anothers_salt() -> None:
    salts = CacheSalts(key=KEY, is_wanted=wanted)
    foreign = CacheSalts(key=StoreKey(bytes(31) + b"1"), is_wanted=wanted)
    alice, bob = [await salt_of(salts, who) for who in (ALICE, BOB)]
    elsewhere = await salt_of(foreign, ALICE)

    told = [
        alice(""), bob(""), alice("x"), bob("x"),
        bob(alice("")), bob("alice"), alice("alice"), elsewhere(""),
    ]  # fmt: skip

    assert len(set(told)) == len(told)
    assert alice("x") == alice("x")
    assert not any("alice" in salt or "x" in salt for salt in told)


async def test_no_tenant_can_name_what_is_kept_for_another() -> None:
    """Nor can a client that does not say for whom it asks, which is not salted."""
    salts = CacheSalts(key=KEY, is_wanted=wanted)
    nobody = Principal(InvalidScope("Say for whom.", param="X-Tenant"))
    names = [await salts.names_for("POST", CHAT, who) for who in (ALICE, BOB, nobody)]
    alice, bob, stranger = (each.media for each in names if each is not None)

    told = [
        *(each(name) for each in (alice, bob, stranger) for name in ('"u"', '"v"')),
        bob(alice('"u"')), stranger(alice('"u"')), stranger('"alice"'), await told_as_salt(salts),
    ]  # fmt: skip

    assert len(set(told)) == len(told)
    assert alice('"u"') == alice('"u"')
    assert names[2] is not None
    assert names[2].salt is None


async def told_as_salt(salts: CacheSalts) -> str:
    return (await salt_of(salts, ALICE))('"u"')
