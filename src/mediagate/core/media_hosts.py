"""Which hosts a client may have the upstream fetch media from.

    operator's entry               names
    media.example.com              this host, whatever its address
    *.example.com                  every name below example.com, but not itself
    10.0.0.5  10.0.0.0/8  fd00::1  URLs with such an address, and names that lead to one, if names may pass at all
    *                              any public address, as does an empty list

With a list, only what it names passes. A public address is one that anybody could reach; everything else is somebody's
own network: ours, the upstream's, or the cloud's metadata server.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from mediagate.core.errors import SourceNotAllowed
from mediagate.core.urls import NOT_PLAIN, Address, Host, host_of, parse_host

_WHAT_TO_DO = (
    "Upload the file with POST /v1/files and name it by its id, or have the operator of this server allow the host "
    "with --allowed-media-domains."
)

_ANY_PUBLIC = "*"
_ANY_BELOW = "*."

_GLOBAL_UNICAST = ip_network("2000::/3")
"""All that IANA has given out; outside it are loopback, link-local, site-local, multicast and embedded addresses."""

_NAT64 = ip_network("64:ff9b::/96")
"""Stands for an IPv4 address where there is only IPv6 (RFC 6052): DNS answers so there."""

_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            # What `is_global` says of these depends on the release of Python, or is yes.
            "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is a cloud's metadata server
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # Azure's wire server, which answers virtual machines and nobody else
            "224.0.0.0/4",  # multicast
            "2001::/23",  # Teredo, ORCHID, benchmarks
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)

_NOT_PUBLIC_DOMAINS = frozenset(
    # IANA's special-use domain names
    {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test"}
    # RFC 6762, appendix G: what private networks use
    | {"corp", "home", "intranet", "lan", "private"}
    | {"localdomain"}
)


class MediaHosts:
    """The operator's list.

    Args:
        entries: As drawn above; case is ignored.

    Raises:
        ValueError: An entry is none of those. Its text says which, and why.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        listed = tuple(entries)
        self._any_public = not listed or _ANY_PUBLIC in listed
        self._names: set[str] = set()
        self._domains: list[str] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in listed:
            if entry == _ANY_PUBLIC:
                continue
            network = _network(entry)
            name = parse_host(entry.removeprefix(_ANY_BELOW))
            if network is not None:
                self._networks.append(network)
            elif not isinstance(name, str):
                raise ValueError(_not_an_entry(entry))
            elif entry.startswith(_ANY_BELOW):
                self._domains.append("." + name)
            else:
                self._names.add(name)

    def judge(self, url: str, *, param: str) -> str | None:
        """Whether a client may name `url`, as far as the URL itself tells.

        Args:
            url: The very value that is sent on.
            param: JSON path of the value, for errors.

        Returns:
            The name that passes only if all its addresses do, see `check_addresses`; None: nothing is to be looked up.

        Raises:
            SourceNotAllowed: It is no plain URL, or its host is neither listed nor public.
        """
        host = host_of(url)
        if host is None:
            raise SourceNotAllowed(NOT_PLAIN, param=param)
        if self._lists(host):
            return None
        if not self._any_public:
            raise _refusal(f"Media may come from listed hosts only, and not from {host}.", param)
        if not isinstance(host, str):
            if not is_public(host):
                raise _refusal(f"{host} is no public address.", param)
            return None
        if not is_public_name(host):
            raise _refusal(f"{host} is no public host name.", param)
        return host

    def check_addresses(self, host: str, addresses: Collection[Address], *, param: str) -> None:
        """Check where a name leads that `judge` returned.

        One message for all: a client must not learn which names lead into a private network, and which to nothing.

        Args:
            host: The name.
            addresses: All that it has; none: it cannot be resolved.
            param: JSON path of the URL, for errors.

        Raises:
            SourceNotAllowed: There is none, or one that is neither listed nor public.
        """
        if not addresses or not all(self._lists(each) or is_public(each) for each in addresses):
            raise _refusal(f"From here, {host} does not resolve to public addresses.", param)

    def _lists(self, host: Host) -> bool:
        if isinstance(host, str):
            return host in self._names or any(map(host.endswith, self._domains))
        return any(host in network for network in self._networks)


def is_public(address: Address) -> bool:
    """Whether anybody could reach `address`, whoever they are."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_public(embedded)
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def is_public_name(name: str) -> bool:
    """Whether `name`, in lower case, may be known to everybody; where it leads is another question."""
    parent, _, domain = name.rpartition(".")
    return parent != "" and domain not in _NOT_PUBLIC_DOMAINS


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets for `address` are sent to."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    address = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
    try:
        return None if "%" in address else ip_network(address)  # a zone means nothing elsewhere
    except ValueError:
        return None


def _not_an_entry(entry: str) -> str:
    return (
        f"'{entry}' is no host name in ASCII, *.name, address or network, nor *; "
        "write the host alone, without scheme, port and path"
    )


def _refusal(message: str, param: str) -> SourceNotAllowed:
    return SourceNotAllowed(f"{message} {_WHAT_TO_DO}", param=param)
