"""The header that names the tenant: whatever could be read in two ways is refused."""

from ipaddress import ip_network

import pytest

from mediagate.core.errors import InvalidScope, MediagateError, ScopeNotAllowed
from mediagate.web.asgi import Headers
from mediagate.web.scope_header import ScopeHeader

NAME = "X-Consumer-ID"
CLIENT = ("192.0.2.7", 4711)


def read(*headers: tuple[bytes, bytes], name: str = NAME) -> str | None:
    others: Headers = [(b"host", b"gate"), (b"x-consumer", b"z"), (b"x-consumer-id-2", b"z")]
    return ScopeHeader(name=name).read([*others, *headers], CLIENT)


def refusal(*headers: tuple[bytes, bytes]) -> MediagateError:
    with pytest.raises(InvalidScope) as caught:
        read(*headers)
    assert caught.value.param == NAME
    assert NAME in caught.value.message
    return caught.value


@pytest.mark.parametrize("spelling", [b"x-consumer-id", b"X-Consumer-ID", b"X-CONSUMER-ID"])
@pytest.mark.parametrize("name", [NAME, NAME.lower(), NAME.upper()])
def test_case_of_the_name_makes_no_difference_and_that_of_the_value_does(
    spelling: bytes, name: str
) -> None:
    """H70."""
    assert read((spelling, b"Team-A"), name=name) == "Team-A"


def test_space_around_the_value_is_no_part_of_it() -> None:
    """H69: RFC 9110 §5.5."""
    assert read((b"x-consumer-id", b" \t a b \t")) == "a b"


def test_header_that_is_not_there_is_no_scope() -> None:
    assert read() is None


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b" \t ", b"x" * 257, b"a\x00", b"a\x0bb", b"a\x7f", b"\xc3\xa9", b"a,b", b"a, b"],
)
def test_what_is_no_scope_is_refused(value: bytes) -> None:
    """H69."""
    refusal((b"x-consumer-id", value))


def test_longest_scope_is_256_bytes_without_the_space_around() -> None:
    assert read((b"x-consumer-id", b" " + b"x" * 256 + b" ")) == "x" * 256


@pytest.mark.parametrize("second", [b"x-consumer-id", b"X-Consumer-Id", b"x_consumer_id"])
@pytest.mark.parametrize("value", [b"a", b"b", b""])
def test_second_line_is_refused_even_if_it_says_the_same(second: bytes, value: bytes) -> None:
    """H69, H70."""
    refusal((b"x-consumer-id", b"a"), (second, value))
    refusal((second, value), (b"x-consumer-id", b"a"))


@pytest.mark.parametrize(
    "alias", [b"x_consumer_id", b"X_Consumer_ID", b"x-consumer_id", b"x.consumer.id"]
)
def test_alias_alone_is_refused(alias: bytes) -> None:
    """H70: a proxy that removes a client's `X-Consumer-ID` may let this one through."""
    assert "hyphens" in refusal((alias, b"a")).message


@pytest.mark.parametrize(
    ("host", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("unknown", False),
        ("", False),
        (None, False),
    ],
)
def test_header_is_taken_from_trusted_addresses_only(host: str | None, is_trusted: bool) -> None:
    """H72: an address that is not known is in no list."""
    networks = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::/10")
    header = ScopeHeader(name=NAME, trusted=[ip_network(network) for network in networks])
    client = None if host is None else (host, 1)

    assert header.read([(b"host", b"gate")], client) is None
    if is_trusted:
        assert header.read([(b"x-consumer-id", b"a")], client) == "a"
    else:
        for name in (b"x-consumer-id", b"x_consumer_id"):
            with pytest.raises(ScopeNotAllowed):
                header.read([(name, b"")], client)


def test_no_spelling_of_it_goes_to_the_upstream() -> None:
    """H71."""
    kept: Headers = [(b"host", b"gate"), (b"x-consumer", b"1"), (b"x-consumer-id-2", b"2")]
    ours: Headers = [(b"X-Consumer-ID", b"a"), (b"x_consumer_id", b"a"), (b"x-consumer.id", b"b")]

    assert ScopeHeader(name=NAME).without([*kept[:1], *ours, *kept[1:]]) == kept
