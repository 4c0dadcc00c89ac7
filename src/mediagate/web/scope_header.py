"""The header in which a gateway in front names the tenant.

A client that can say who it is can be anybody. So whatever could be read in two ways, here or by whoever passed it on,
is refused rather than settled: two lines, a list in one line, another spelling of the name. CGI-like servers turn
`X_Tenant` and `X.Tenant` into `X-Tenant`; a proxy that removes only the one lets a client's other one through.
"""

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from mediagate.core.errors import InvalidScope, ScopeNotAllowed
from mediagate.core.scopes import MAX_SCOPE_BYTES, Scope, parse_scope
from mediagate.web.asgi import HeaderList, Headers

Network = IPv4Network | IPv6Network
Address = tuple[str, int]

_LETTERS_AND_DIGITS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_ALIKE = bytes(
    byte if byte in _LETTERS_AND_DIGITS else ord("-") for byte in bytes(range(256)).lower()
)
_OWS = b" \t"


class ScopeHeader:
    """Reads the tenant of a request.

    Args:
        name: Of the header, as the operator writes it.
        trusted: Networks from which it is taken; none: from anywhere.
    """

    def __init__(self, *, name: str, trusted: Collection[Network] = ()) -> None:
        self.name = name
        self._exactly = name.lower().encode()
        self._alike = name.encode().translate(_ALIKE)
        self._trusted = trusted

    def read(self, headers: HeaderList, client: Address | None) -> Scope | None:
        """The scope that the request names; None: it has no such header.

        Args:
            headers: Of the request.
            client: The address that sent it. One that is unknown, as behind a Unix socket, is trusted only if all are.

        Raises:
            ScopeNotAllowed: It comes from an address that may not set it.
            InvalidScope: It does not name one scope.
        """
        lines = [(name.lower(), value) for name, value in headers if self._is_alike(name)]
        if not lines:
            return None
        if self._trusted and not self._is_trusted(client):
            message = f"Scope header '{self.name}' is not taken from this address."
            raise ScopeNotAllowed(message, param=self.name)
        if len(lines) > 1:
            raise self._invalid("is given twice")
        spelling, value = lines[0]
        if spelling != self._exactly:
            raise self._invalid("must be spelt with hyphens, as it is here")
        value = value.strip(_OWS)
        if not value:
            raise self._invalid("is empty")
        scope = parse_scope(value.decode("latin-1"))
        if scope is None:
            reason = f"must be 1 to {MAX_SCOPE_BYTES} printable ASCII characters without commas"
            raise self._invalid(reason)
        return scope

    def missing(self) -> InvalidScope:
        """The error for a request that has to name a scope and does not."""
        return self._invalid("is required")

    def without(self, headers: HeaderList) -> Headers:
        """The headers for the upstream, to which tenants are no business."""
        return [(name, value) for name, value in headers if not self._is_alike(name)]

    def _is_alike(self, name: bytes) -> bool:
        return name.translate(_ALIKE) == self._alike

    def _is_trusted(self, client: Address | None) -> bool:
        if client is None:
            return False
        try:
            address = ip_address(client[0].partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def _invalid(self, reason: str) -> InvalidScope:
        return InvalidScope(f"Scope header '{self.name}' {reason}.", param=self.name)
