"""Whether a request was meant for this server, and sent by whom it may be sent.

A web page can make its visitor's browser speak to the visitor's own machine. It gives itself away by the ``Origin``
that the browser adds; and where it has its own name lead to this machine, so as to be of the same origin, by the
``Host``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.api.errors import error_response

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")


class Addressed:
    """Answer 421 to a request for another host than this one, and 403 to one that a page from elsewhere sent."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._goes_by_any = "*" in self._hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app if scope["type"] == "lifespan" else self._refusal(scope) or self._app
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        authorities, origins = headers.getlist("host"), headers.getlist("origin")
        host = _host(authorities[0]) if len(authorities) == 1 else None
        if host is None or not (host in LOCAL or self._goes_by(host) or _is_address_of(scope, host)):
            rule = "this server does not go by that Host; http.hosts names those that it goes by"
            return error_response(421, "misdirected", rule)
        if not all(self._is_same(origin, authorities[0]) for origin in origins):
            return error_response(403, "foreign_origin", "pages of other sites may not use this server")
        return None

    def _goes_by(self, host: str) -> bool:
        return self._goes_by_any or self._is_named(host)

    def _is_same(self, origin: str, authority: str) -> bool:
        given = origin.lower().partition("://")[2]
        return given == authority.lower() or self._is_named(_host(given) or "")

    def _is_named(self, host: str) -> bool:
        """Whether a setting names it, or a name that it is below."""
        parents = (f"*.{host[dot + 1 :]}" for dot, character in enumerate(host) if character == ".")
        return not self._hosts.isdisjoint({host, *parents})


def _host(authority: str) -> str | None:
    """The host of ``host[:port]``, None where it is neither a name nor an address."""
    found = _AUTHORITY.fullmatch(authority.lower())
    return (found["six"] or found["name"]) if found else None


def _is_address_of(scope: Scope, host: str) -> bool:
    """Whether it is the address that the connection came to; no page can make its own name be that."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return False
