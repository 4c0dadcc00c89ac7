"""One reading of a URL: what passes here, everybody takes for the same host."""

from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2
import pytest
import yarl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from mediagate.core.urls import Host, host_of, parse_host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://media.example.com", "media.example.com"),
        ("https://media.example.com:8443/a/b.mp4?x=1&y=http://c/#t=10", "media.example.com"),
        ("https://Media.EXAMPLE.com/", "media.example.com"),
        ("http://gpu-1/clip.mp4", "gpu-1"),
        ("http://3090box:80/", "3090box"),
        ("https://my_bucket.example.com/", "my_bucket.example.com"),
        ("https://xn--bcher-kva.example.com/", "xn--bcher-kva.example.com"),
        ("https://1.2.3.4.example.com/", "1.2.3.4.example.com"),
        ("http://0x7f.example.com/", "0x7f.example.com"),
        ("http://8.8.8.8:65535/", ip_address("8.8.8.8")),
        ("http://127.0.0.1/", ip_address("127.0.0.1")),
        ("http://[::1]:1/", ip_address("::1")),
        ("http://[2606:4700::1111]/", ip_address("2606:4700::1111")),
        ("http://[::FFFF:127.0.0.1]/", ip_address("::ffff:127.0.0.1")),
        ("https://media.example.com/фильм.mp4", "media.example.com"),
        (f"https://{'a' * 63}.example.com/", f"{'a' * 63}.example.com"),
    ],
)
def test_a_plain_url_has_one_host(url: str, host: Host) -> None:
    assert host_of(url) == host


ODD_HOSTS = [
    # numbers that the C library and WHATWG URLs take for 127.0.0.1, or for nothing
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.0x1",
    "127.0.0.0x",
    "127.0.0.1.",
    "127.0.0.256",
    "1.127.0.0.1",
    "media.example.0x7f",
    # names
    "",
    ".",
    "localhost.",
    "media.example.com.",
    ".example.com",
    "media..example.com",
    "-media.example.com",
    "media-.example.com",
    "xn--localhost-",
    "a" * 64,
    "a." * 126 + "aa",
    # other alphabets, other ways of writing them
    "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
    "127\N{IDEOGRAPHIC FULL STOP}0.0.1",
    "media\N{FULLWIDTH FULL STOP}example.com",
    "bücher.example.com",
    "loca\N{LATIN SMALL LETTER LONG S}t",
    "\N{KELVIN SIGN}ube",
    "media\N{SOFT HYPHEN}.example.com",
    "%6c%6f%63alhost",
    "127.0.0.1%00",
    "127.0.0.1%2eexample.com",
    "media.example.com%2f",
    # userinfo
    "user@media.example.com",
    "user:word@media.example.com",
    "media.example.com@127.0.0.1",
    "media.example.com:80@127.0.0.1",
    "@127.0.0.1",
    # ports
    "media.example.com:",
    "media.example.com:0",
    "media.example.com:080",
    "media.example.com:65536",
    "media.example.com:99999999999999999999",
    "media.example.com:80:80",
    "media.example.com:-80",
    "media.example.com:\N{ARABIC-INDIC DIGIT EIGHT}",
    ":80",
    # IPv6
    "[]",
    "[::1",
    "::1",
    "[::1]]",
    "[[::1]]",
    "[::1%25eth0]",
    "[::1%eth0]",
    "[fe80::1%1]",
    "[::ffff:127.1]",
    "[::127.0.0.01]",
    "[127.0.0.1]",
    "[media.example.com]",
    "[v1.x]",
    "[::1].example.com",
    "[::1]80",
    "::1:80",
    # what ends a host, for some
    "127.0.0.1#@media.example.com",
    "media.example.com#@127.0.0.1",
    "media.example.com?@127.0.0.1",
    "media.example.com;@127.0.0.1",
    "media.example.com\\@127.0.0.1",
    "media.example.com\\.127.0.0.1",
    "127.0.0.1\\media.example.com",
    "media.example.com#x",
    "media.example.com?x",
    "media.example.com;x",
    "media.example.com,127.0.0.1",
    "media.example.com&x",
    "media.example.com\t",
    "media.example.com ",
    "127.0.0.1 .example.com",
    "media\t.example.com",
    "media.example.com\n",
    "media.example.com\x00",
]


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("rest", ["", "/", "/clip.mp4"])
def test_a_host_in_any_other_spelling_is_none(host: str, rest: str) -> None:
    assert host_of(f"http://{host}{rest}") is None


@pytest.mark.parametrize(
    "rest",
    ["@127.0.0.1/", "a?@127.0.0.1/", "a#@127.0.0.1/", "a b", "a\\b", "a\n", "a\x7f", "\ud800"],
)
def test_the_rest_of_a_url_is_judged_too(rest: str) -> None:
    """llama-server takes the first @ of a whole URL for the end of a password."""
    assert host_of("http://media.example.com/") is not None
    assert host_of(f"http://media.example.com/{rest}") is None


@pytest.mark.parametrize(
    "start", ["", "//", "http:/", "http:", "HTTP://", "httpS://", "ftp://", " http://", "http:///"]
)
def test_the_scheme_is_http_or_https_in_lower_case(start: str) -> None:
    assert host_of(f"{start}media.example.com/") is None


@pytest.mark.parametrize("text", ["::1", "[::1]", "media.example.com:80", "media.example.com/"])
def test_a_host_by_itself_is_a_name_or_ipv4(text: str) -> None:
    assert parse_host(text) is None


LABELS = st.text("abmxzAXZ0189_-", min_size=1, max_size=6)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded.upper()}]"),
    st.sampled_from(ODD_HOSTS),
)
PORTS = st.one_of(st.just(""), st.integers(0, 70_000).map(":{}".format))
RESTS = st.one_of(
    st.just(""),
    st.text(max_size=12).map("/{}".format),
    st.text("/?#[]:;%&=.\\@<>\"'{}|^`~ é", max_size=12).map("/{}".format),
    st.text("/?#[]:;%.\\@ ", max_size=4),
)


def as_host(text: str | None) -> Host:
    """What a parser made of it, in our terms."""
    assert text is not None
    host = text.lower().strip("[]")
    return ip_address(host) if ":" in host else parse_host(host) or host


@settings(max_examples=300)
@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, RESTS)
@example("http", "media.example.com", ":80", "/a?b#c")
def test_what_passes_is_the_same_host_to_every_parser(
    scheme: str, host: str, port: str, rest: str
) -> None:
    """The standard library's, and those of the engines: urllib3 (under requests), yarl (under aiohttp), httpx."""
    url = f"{scheme}://{host}{port}{rest}"
    ours = host_of(url)
    if ours is None:
        return

    theirs = {
        "urllib": (urlsplit(url).hostname, urlsplit(url).port),
        "urllib3": (parse_url(url).host, parse_url(url).port),
        "yarl": (yarl.URL(url).raw_host, yarl.URL(url).explicit_port),
    }

    number = int(port[1:]) if port else None
    for name, (their_host, their_port) in theirs.items():
        assert (as_host(their_host), their_port) == (ours, number), name
    assert as_host(httpx2.URL(url).raw_host.decode()) == ours


@settings(max_examples=300)
@given(HOSTS, PORTS, RESTS)
@example("media.example.com", "", "/@127.0.0.1/")
def test_what_passes_is_the_same_host_to_who_looks_for_one_character_at_a_time(
    host: str, port: str, rest: str
) -> None:
    """A parser as in llama-server: the first @ ends a password, the first slash behind it the host."""
    url = f"http://{host}{port}{rest}"
    ours = host_of(url)
    if ours is None:
        return

    authority = url.partition("://")[2].split("@", 1)[-1].partition("/")[0]
    name = authority.removesuffix(port) if port else authority

    assert as_host(name) == ours


@given(st.lists(st.text("abcxyz", min_size=1, max_size=9), min_size=1, max_size=4))
def test_ordinary_names_pass(labels: list[str]) -> None:
    name = ".".join(labels)

    assert host_of(f"https://{name}:8443/clip.mp4?x#y") == name
    assert parse_host(name) == name
