"""Who calls: the key, the header, and what happens when they do not agree."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mediagate.core.errors import InvalidScope, MediagateError, ScopeNotAllowed, Unauthenticated
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.web.asgi import Headers
from mediagate.web.auth import Authenticator
from mediagate.web.keys import Keys
from mediagate.web.routing import Guard
from mediagate.web.scope_header import ScopeHeader


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """`gateway` opens every scope, `ka` the scope a."""
    (tmp_path / "keys.toml").write_text("[scopes]\na = ['ka']")
    return Keys(("gateway",), file=tmp_path / "keys.toml")


def request(key: str | None = None, scope: str | None = None) -> dict[str, Any]:
    headers = []
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    if scope is not None:
        headers.append((b"x-tenant", scope.encode()))
    return {"type": "http", "headers": headers, "client": ("127.0.0.1", 1)}


@pytest.mark.parametrize(
    ("key", "scope", "found"),
    [
        ("gateway", "a", "a"),
        ("gateway", "b", "b"),
        ("gateway", None, InvalidScope),
        ("ka", None, "a"),
        ("ka", "a", "a"),
        ("ka", "A", ScopeNotAllowed),
        ("ka", "b", ScopeNotAllowed),
        ("ka", "", InvalidScope),
        ("kx", "a", Unauthenticated),
        (None, "a", Unauthenticated),
    ],
)
def test_scope_of_the_key_wins_and_the_header_may_only_repeat_it(
    keys: Keys, key: str | None, scope: str | None, found: str | type[MediagateError]
) -> None:
    """H65."""
    authenticator = Authenticator(keys=keys, scope_header=ScopeHeader(name="X-Tenant"))

    if isinstance(found, str):
        principal = authenticator.principal_of(request(key, scope), guard=Guard.TENANT)
        assert principal.scope == found
    else:
        with pytest.raises(found):
            authenticator.principal_of(request(key, scope), guard=Guard.TENANT)


@pytest.mark.parametrize(("key", "found"), [("gateway", DEFAULT_SCOPE), ("ka", "a")])
def test_header_means_nothing_where_none_is_configured(keys: Keys, key: str, found: str) -> None:
    authenticator = Authenticator(keys=keys)

    principal = authenticator.principal_of(request(key, "b"), guard=Guard.TENANT)

    assert principal.scope == found
    headers = request(key, "b")["headers"]
    assert authenticator.for_upstream(headers) == headers


def test_missing_header_is_named_and_never_the_default_scope() -> None:
    """H65."""
    authenticator = Authenticator(keys=Keys(), scope_header=ScopeHeader(name="X-Tenant"))

    with pytest.raises(InvalidScope) as caught:
        authenticator.principal_of(request(), guard=Guard.TENANT)

    assert caught.value.message == "Scope header 'X-Tenant' is required."
    assert caught.value.param == "X-Tenant"


def test_guards_ask_for_nothing_for_a_key_and_for_a_tenant(keys: Keys) -> None:
    authenticator = Authenticator(keys=keys, scope_header=ScopeHeader(name="X-Tenant"))

    assert authenticator.principal_of(request(), guard=Guard.NONE).scope == DEFAULT_SCOPE
    assert authenticator.principal_of(request("gateway"), guard=Guard.KEY).scope == DEFAULT_SCOPE
    with pytest.raises(Unauthenticated):
        authenticator.principal_of(request(), guard=Guard.KEY)
    with pytest.raises(InvalidScope):
        authenticator.principal_of(request("gateway"), guard=Guard.TENANT)


def test_tenant_may_be_left_open_until_files_are_asked_for() -> None:
    """H65: then its absence is the error that it would have been at once."""
    authenticator = Authenticator(keys=Keys(), scope_header=ScopeHeader(name="X-Tenant"))

    principal = authenticator.principal_of(request(), guard=Guard.TENANT_OF_FILES)

    assert principal.known_scope is None
    with pytest.raises(InvalidScope) as caught:
        principal.scope  # noqa: B018
    assert caught.value.message == "Scope header 'X-Tenant' is required."
    assert caught.value.param == "X-Tenant"


@pytest.mark.parametrize("key", [None, "nobodys"])
def test_key_may_be_left_out_where_no_files_are_named(keys: Keys, key: str | None) -> None:
    """An engine may ask for none; then who names files needs one all the same."""
    principal = Authenticator(keys=keys).principal_of(request(key), guard=Guard.TENANT_OF_FILES)

    assert principal.known_scope is None
    with pytest.raises(Unauthenticated):
        principal.scope  # noqa: B018


def test_tenant_that_is_named_counts_where_it_may_be_left_open(keys: Keys) -> None:
    authenticator = Authenticator(keys=keys, scope_header=ScopeHeader(name="X-Tenant"))

    for key, scope in (("gateway", "b"), ("ka", None), ("ka", "a")):
        principal = authenticator.principal_of(request(key, scope), guard=Guard.TENANT_OF_FILES)
        assert principal.known_scope == principal.scope == (scope or "a")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"x-tenant", b"")], InvalidScope),
        ([(b"x-tenant", b"a,b")], InvalidScope),
        ([(b"x-tenant", b"a"), (b"x-tenant", b"a")], InvalidScope),
        ([(b"x_tenant", b"a")], InvalidScope),
        ([(b"x-tenant", b"a")], ScopeNotAllowed),
    ],
)
def test_header_that_is_wrong_is_refused_where_it_may_be_left_out(
    headers: Headers, error: type[MediagateError]
) -> None:
    """H69."""
    trusted = ["10.0.0.0/8" if error is ScopeNotAllowed else "127.0.0.0/8"]
    header = ScopeHeader(name="X-Tenant", trusted=[ip_network(each) for each in trusted])
    authenticator = Authenticator(keys=Keys(), scope_header=header)

    with pytest.raises(error):
        authenticator.principal_of(request() | {"headers": headers}, guard=Guard.TENANT_OF_FILES)


def test_without_a_header_configured_nobody_has_to_name_a_tenant() -> None:
    principal = Authenticator(keys=Keys()).principal_of(request(), guard=Guard.TENANT_OF_FILES)

    assert principal.known_scope == principal.scope == DEFAULT_SCOPE
