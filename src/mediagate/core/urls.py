"""http(s) URLs whose host every parser reads alike; what any two could read differently is no URL here.

    http:// or https://            lower-case
    a host name or an address      DNS names in ASCII, IPv4 as four decimal numbers, IPv6 in brackets
    :port                          1 to 65535, without leading zeros; may be left out
    nothing, or / and the rest     no blank, control, backslash, and no @ anywhere

The check is on the very value that is sent on. Parsers that engines use differ in what is left out here:

- `@`: llama-server takes the first one, wherever it stands, for the end of a password: `http://a.example/@127.0.0.1/`
  is on its own machine. In a path it is written `%40`.
- `?` and `#` right behind the host: llama-server makes them part of it, and older parsers read past them.
- Numbers: the C library takes `127.1`, `0x7f.1`, `017700000001` and `2130706433` for 127.0.0.1, WHATWG URLs too.
- Non-ASCII and percent-encoded hosts: decoded and normalised by some, full-width digits and dots into ASCII.
- Blanks, controls, backslashes: cut off, removed, or read as slashes.
- A dot at the end, and IPv6 zones: kept by some, dropped by others.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
Host = str | Address
"""A DNS name in lower case, or an address."""

NOT_PLAIN = (
    "This is no plain http(s) URL: http:// or https:// in lower case, a host name in ASCII or an address in its usual "
    "spelling, a port if need be, then nothing or a path that begins with a slash. It has no user name or password, "
    "and no blank, backslash or @ anywhere: write %20, %5C and %40."
)
"""What to tell a client whose URL is none of these."""

_URL = re.compile(
    r"https?://"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45}+)\]|(?P<name>[A-Za-z0-9_.-]{1,253}+))"
    r"(?::(?P<port>[1-9][0-9]{0,4}+))?+"
    r"(?:/[^\s\\@\x00-\x1f\x7f-\x9f\ud800-\udfff]*+)?+"
)
_MAX_PORT = 65535
_MAX_NAME = 253

# Underscores are in the names of many buckets. A hyphen never ends a label: `xn--localhost-` would decode to localhost.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that makes the whole an IPv4 address, of whatever spelling (WHATWG URL, "ends in a number")."""


def host_of(url: str) -> Host | None:
    """The host of `url`; None: it is no URL of the form above."""
    match = _URL.fullmatch(url)
    if match is None or int(match["port"] or 1) > _MAX_PORT:
        return None
    if match["ipv6"] is not None:
        return _address(IPv6Address, match["ipv6"])
    return parse_host(match["name"])


def parse_host(text: str) -> Host | None:
    """The DNS name or IPv4 address that `text` is; None: it is neither, or not in its usual spelling."""
    name = text.lower()
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _address(IPv4Address, name)
    is_name = text.isascii() and len(name) <= _MAX_NAME and all(map(_LABEL.fullmatch, labels))
    return name if is_name else None


def _address(family: type[IPv4Address] | type[IPv6Address], text: str) -> Address | None:
    try:
        return family(text)
    except AddressValueError:
        return None
