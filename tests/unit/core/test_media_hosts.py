"""Which hosts a client may have the upstream fetch media from: nobody's own network, unless the operator says so."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.errors import SourceNotAllowed
from mediagate.core.media_hosts import MediaHosts, is_public
from mediagate.core.urls import Address

PARAM = "messages[0].content[1].image_url.url"
PUBLIC = "media.example.com"


def refusal(hosts: MediaHosts, url: str) -> str:
    """What a client is told that names `url`."""
    with pytest.raises(SourceNotAllowed) as refused:
        hosts.judge(url, param=PARAM)
    assert refused.value.param == PARAM
    return refused.value.message


PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "100.63.255.255",
    "100.128.0.0",
    "172.32.0.1",
    "192.1.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]

# IANA's special-purpose registries, multicast, and what stands for an IPv4 address.
PRIVATE_IPV4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    "168.63.129.16/32",
]
PRIVATE_IPV6 = [
    *("::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48"),
    *("2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    *("fc00::/7", "fd00:ec2::254/128", "fe80::/10", "fec0::/10", "ff00::/8", "ff0e::/16"),
    *("4000::/3", "::ffff:0:0:0/96"),
]
in_private_ipv4 = st.sampled_from(PRIVATE_IPV4).flatmap(lambda net: st.ip_addresses(network=net))
in_private_ipv6 = st.sampled_from(PRIVATE_IPV6).flatmap(lambda net: st.ip_addresses(network=net))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) for c in text)


def dotted(format_: str) -> Callable[[IPv4Address], str]:
    return lambda address: ".".join(format(octet, format_) for octet in address.packed)


def embedded(prefix: str, *, shift: int = 0, flip: int = 0) -> Callable[[IPv4Address], str]:
    """An IPv6 address that stands for an IPv4 address."""
    network = int(IPv6Address(prefix))
    return lambda address: f"[{IPv6Address(network | (int(address) ^ flip) << shift)}]"


IPV4_SPELLINGS: list[Callable[[IPv4Address], str]] = [
    str,
    lambda address: str(int(address)),
    lambda address: hex(int(address)),
    lambda address: hex(int(address)).upper(),
    lambda address: f"0{int(address):o}",
    lambda address: f"{int(address):012d}",
    lambda address: f"{address.packed[0]}.{int(address) & 0xFFFFFF}",
    lambda address: f"{address.packed[0]}.{address.packed[1]}.{int(address) & 0xFFFF}",
    lambda address: f"0x{address.packed[0]:x}.{int(address) & 0xFFFFFF}",
    dotted("03d"),
    dotted("#x"),
    dotted("04o"),
    "{}.".format,
    "{}:0080".format,
    lambda address: f"%{ord(str(address)[0]):02x}{str(address)[1:]}",
    lambda address: full_width(str(address)),
    lambda address: str(address).replace(".", "\N{IDEOGRAPHIC FULL STOP}"),
    embedded("::"),
    embedded("::ffff:0:0"),
    lambda address: f"[::ffff:{address}]",
    lambda address: f"[::{address}]",
    lambda address: f"[0000:0000:0000:0000:0000:FFFF:{address}]",
    embedded("::ffff:0:0:0"),
    embedded("64:ff9b::"),
    embedded("64:ff9b:1::"),
    embedded("2002::", shift=80),
    embedded("2001::", flip=0xFFFFFFFF),
    embedded("2001::", shift=64),
    "[{}]".format,
]
IPV6_SPELLINGS: list[Callable[[IPv6Address], str]] = [
    "[{}]".format,
    lambda address: f"[{address.exploded}]",
    lambda address: f"[{address.exploded.upper()}]",
    "[{}%25eth0]".format,
    "[{}%eth0]".format,
    "[{}].".format,
    str,
]
DISGUISES = ["{}", f"{PUBLIC}@{{}}", f"{{}}#@{PUBLIC}", f"{{}}\\@{PUBLIC}", f"{PUBLIC}/@{{}}"]
"""A host made to look like another one."""


@pytest.mark.parametrize("network", PRIVATE_IPV4 + PRIVATE_IPV6)
def test_private_networks_are_not_public(network: str) -> None:
    addresses = ip_network(network)

    assert not is_public(addresses[0])
    assert not is_public(addresses[-1])


@pytest.mark.parametrize("spelling", range(len(IPV4_SPELLINGS)))
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1"])
def test_well_known_private_addresses_are_refused_in_every_spelling(
    address: str, spelling: int
) -> None:
    host = IPV4_SPELLINGS[spelling](IPv4Address(address))

    for disguise in DISGUISES:
        assert refusal(MediaHosts(), f"http://{disguise.format(host)}/x.png")


spelt_private_addresses = st.one_of(
    st.builds(
        lambda spell, address: spell(address), st.sampled_from(IPV4_SPELLINGS), in_private_ipv4
    ),
    st.builds(
        lambda spell, address: spell(address), st.sampled_from(IPV6_SPELLINGS), in_private_ipv6
    ),
)


@settings(max_examples=300)
@given(
    spelt_private_addresses,
    st.sampled_from(DISGUISES),
    st.sampled_from(["", ":80", ":65535"]),
    st.sampled_from(["", "/", "/clip.mp4?x#y"]),
    st.sampled_from([(), ("*",), (PUBLIC,), ("*", f"*.{PUBLIC}", "8.8.8.8", "2606::/16")]),
)
def test_private_addresses_are_refused_in_every_spelling(
    host: str, disguise: str, port: str, rest: str, entries: tuple[str, ...]
) -> None:
    hosts = MediaHosts(entries)

    assert refusal(hosts, f"http://{disguise.format(host + port)}{rest}")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "db.localhost", "localhost.localdomain", "printer", "gpu-1"),
        *("printer.local", "metadata.google.internal", "host.docker.internal", "db.corp.internal"),
        *("router.home.arpa", "1.0.0.127.in-addr.arpa", "nas.lan", "nas.home", "wiki.intranet"),
        *("vault.private", "ldap.corp", "x.test", "x.example", "x.invalid", "x.onion", "x.alt"),
        "llm.default.svc.cluster.local",
    ],
)
def test_names_of_private_networks_are_refused_without_being_looked_up(host: str) -> None:
    message = refusal(MediaHosts(), f"http://{host}:8000/x.png")

    assert message.startswith(f"{host.lower()} is no public host name.")
    assert "POST /v1/files" in message
    assert "--allowed-media-domains" in message


@pytest.mark.parametrize(
    "host", ["example.com", "localhost.example.com", "xn--bcher-kva.example.com"]
)
@pytest.mark.parametrize("entries", [(), ("*",), ("10.0.0.0/8", "*")])
def test_a_name_that_may_be_public_is_still_to_be_looked_up(
    host: str, entries: tuple[str, ...]
) -> None:
    assert MediaHosts(entries).judge(f"https://{host.upper()}:1/x.png", param=PARAM) == host


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses_pass(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    assert is_public(ip_address(address))
    assert MediaHosts().judge(f"http://{host}/x.png", param=PARAM) is None


@given(st.ip_addresses(v=6))
def test_nothing_outside_what_is_given_out_is_public(address: IPv6Address) -> None:
    is_unicast = int(address) >> 125 == 1
    is_translated = int(address) >> 32 in {0x64FF9B << 64, 0xFFFF}

    assert is_unicast or is_translated or not is_public(address)


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("media.example.com", "media.example.com"),
        ("MEDIA.example.com", "media.EXAMPLE.com"),
        ("media.lan", "media.lan"),
        ("localhost", "localhost"),
        ("gpu_1", "gpu_1"),
        ("*.example.com", "media.example.com"),
        ("*.Example.com", "a.b.EXAMPLE.com"),
        ("*.lan", "media.lan"),
        ("10.0.0.5", "10.0.0.5"),
        ("10.0.0.0/8", "10.255.255.255"),
        ("0.0.0.0/0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "[0:0:0:0:0:0:0:1]"),
        ("fd00::/8", "[FD00::1]"),
        ("FD00::1", "[fd00::1]"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_what_is_listed_passes_and_is_not_looked_up(entry: str, host: str) -> None:
    assert MediaHosts([entry]).judge(f"http://{host}:8000/x.png", param=PARAM) is None
    assert MediaHosts(["*", entry]).judge(f"http://{host}/x.png", param=PARAM) is None


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("media.example.com", "example.com"),
        ("media.example.com", "a.media.example.com"),
        ("media.example.com", "8.8.8.8"),
        ("*.example.com", "example.com"),
        ("*.example.com", "evilexample.com"),
        ("*.example.com", "example.com.evil.com"),
        ("10.0.0.0/8", "11.0.0.1"),
        ("10.0.0.0/8", "media.example.com"),
        ("10.0.0.5", "[::ffff:10.0.0.5]"),
        ("10.0.0.5", "[64:ff9b::10.0.0.5]"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("fd00::/8", "[fc00::1]"),
    ],
)
def test_with_a_list_nothing_else_passes(entry: str, host: str) -> None:
    message = refusal(MediaHosts([entry]), f"http://{host}/x.png")

    assert "listed hosts only" in message
    assert "POST /v1/files" in message


@pytest.mark.parametrize(
    "url", ["http://media.lan/@10.0.0.1/", "http://u@media.lan/", "ftp://media.lan/"]
)
def test_a_list_lets_no_url_pass_that_can_be_read_in_two_ways(url: str) -> None:
    assert "plain http(s) URL" in refusal(MediaHosts(["media.lan"]), url)


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "",
            " ",
            "**",
            "*.",
            "*.*",
            "a.*",
            "*a.com",
            ".example.com",
            "example.com.",
            "a b",
            "a,b",
        ),
        *("https://example.com", "example.com:443", "example.com/x", "user@example.com"),
        *("bücher.de", "\N{KELVIN SIGN}ube", "127.1", "0x7f000001", "10.0.0.1/8", "10.0.0.0/33"),
        *(
            "*.10.0.0.1",
            "*.5",
            "*.10.0.0.0/8",
            "::1%eth0",
            "fe80::%1/64",
            "[::1",
            "[::1]:80",
            "[fd00::]/8",
        ),
    ],
)
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="write the host alone") as wrong:
        MediaHosts(["example.com", entry])

    assert f"'{entry}'" in str(wrong.value)


public_addresses = st.sampled_from(PUBLIC_ADDRESSES).map(ip_address)


@given(st.sets(public_addresses, min_size=1))
def test_a_name_passes_if_all_its_addresses_are_public(addresses: set[Address]) -> None:
    MediaHosts().check_addresses(PUBLIC, addresses, param=PARAM)


@given(st.lists(public_addresses), st.one_of(in_private_ipv4, in_private_ipv6), st.integers(0, 9))
def test_one_private_address_is_enough_to_refuse_a_name(
    public: list[Address], private: Address, at: int
) -> None:
    public.insert(at, private)

    with pytest.raises(SourceNotAllowed) as refused:
        MediaHosts().check_addresses(PUBLIC, public, param=PARAM)

    assert refused.value.param == PARAM
    assert str(private) not in refused.value.message.split()


def test_a_name_may_lead_to_a_listed_address() -> None:
    hosts = MediaHosts(["*", "10.0.0.0/8"])

    hosts.check_addresses(PUBLIC, [ip_address("10.0.0.5"), ip_address("8.8.8.8")], param=PARAM)
    with pytest.raises(SourceNotAllowed):
        hosts.check_addresses(PUBLIC, [ip_address("192.168.0.1")], param=PARAM)


def test_a_client_does_not_learn_which_names_lead_into_the_private_network() -> None:
    messages = set()
    for addresses in ([], [ip_address("10.0.0.5")], [ip_address("fe80::1%eth0")]):
        with pytest.raises(SourceNotAllowed) as refused:
            MediaHosts().check_addresses(PUBLIC, addresses, param=PARAM)
        messages.add(refused.value.message)

    assert len(messages) == 1
    assert messages.pop().startswith(f"From here, {PUBLIC} does not resolve to public addresses.")
