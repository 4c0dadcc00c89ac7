"""Credentials → principal."""

from mediagate.core.errors import ScopeNotAllowed, Unauthenticated
from mediagate.core.scopes import DEFAULT_SCOPE, Principal
from mediagate.web.asgi import Headers, Scope
from mediagate.web.keys import Keys
from mediagate.web.routing import Guard
from mediagate.web.scope_header import ScopeHeader


class Authenticator:
    """Says who calls: which key, and for which tenant.

    A key that has a scope of its own decides, and a scope header may only repeat it. Any other caller's scope is what
    the header says. There is no way to leave it out and be somebody: a request without it is refused, at once or where
    it reaches for files, and never taken for one of the default scope.

    Args:
        keys: Who may come in.
        scope_header: Who names the tenant; None: nobody, and all callers without a scope of their own share one.
    """

    def __init__(self, *, keys: Keys, scope_header: ScopeHeader | None = None) -> None:
        self._keys = keys
        self._scope_header = scope_header

    def principal_of(self, scope: Scope, *, guard: Guard) -> Principal:
        """Who calls.

        Args:
            scope: Of the request (ASGI).
            guard: What the caller has to show.

        Raises:
            Unauthenticated: A key is needed here, and this is none.
            InvalidScope: The scope header is malformed, or missing where `guard` asks for it.
            ScopeNotAllowed: It may not be set by this caller, or not to this.
        """
        if guard is Guard.NONE:
            return Principal()
        headers = scope["headers"]
        try:
            own = self._keys.scope_of(headers)
        except Unauthenticated as error:
            if guard is Guard.TENANT_OF_FILES:
                return Principal(error)
            raise
        if guard is Guard.KEY:
            return Principal()
        if self._scope_header is None:
            return Principal(DEFAULT_SCOPE if own is None else own)
        named = self._scope_header.read(headers, scope.get("client"))
        found = named if own is None else own
        if found is None and guard is Guard.TENANT_OF_FILES:
            return Principal(self._scope_header.missing())
        if found is None:
            raise self._scope_header.missing()
        if named not in {None, found}:
            message = f"Scope header '{self._scope_header.name}' names another scope than this API key opens."
            raise ScopeNotAllowed(message, param=self._scope_header.name)
        return Principal(found)

    def for_upstream(self, headers: Headers) -> Headers:
        """`headers` without the one that names the tenant."""
        return headers if self._scope_header is None else self._scope_header.without(headers)
