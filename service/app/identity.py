"""Who calls: a bearer token or session, or the URI in a client certificate; never anything in a request's body."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from service.app.sessions import Sessions
from service.domain.tenants import Anonymous, Caller, Certificate, Token
from service.errors import PermissionDenied, Unauthenticated

OPEN = ""
"""The role of methods that answer everybody who can reach the listener: a load balancer has no credentials."""
VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
SCRAPER = "scraper"
"""Of tokens that read `/metrics` and may nothing else: it has no rank among the roles of methods."""
RANK: Mapping[str, int] = {VIEWER: 0, OPERATOR: 1, ADMIN: 2}
"""Roles in order: a role may do all that a lower one may."""

_BEARER = "bearer "


class Identities:
    """Tells callers apart. `anonymous`: which callers without credentials are administrators."""

    def __init__(
        self,
        sessions: Sessions,
        tokens: Iterable[Token] = (),
        certificates: Iterable[Certificate] = (),
        *,
        anonymous: Anonymous = Anonymous.NOBODY,
    ) -> None:
        self._sessions = sessions
        self.replace(tokens, certificates, anonymous=anonymous)

    def replace(self, tokens: Iterable[Token], certificates: Iterable[Certificate], *, anonymous: Anonymous) -> None:
        """Know these callers alone from now on."""
        self._tokens = tuple(tokens)
        self._certificates = {certificate.uri: certificate.caller for certificate in certificates}
        self._anonymous = anonymous

    async def identify(
        self, authorization: str, certificate_uris: Iterable[str] = (), *, by_unix_socket: bool = False
    ) -> Caller:
        """The caller. `authorization`: `Bearer <token or session uuid>`, or empty. `by_unix_socket`: called so, and not
        for somebody else, as a proxy does.

        Credentials must be right: a wrong token is refused even where none is needed.
        Raises Unauthenticated, Unavailable.
        """
        if authorization:
            return await self._bearer(authorization)
        for uri in certificate_uris:
            if uri in self._certificates:
                return self._certificates[uri]
        if self._anonymous is Anonymous.LOOPBACK or (self._anonymous is Anonymous.UNIX and by_unix_socket):
            return Caller()
        raise Unauthenticated("the call needs a bearer token, a session or a known client certificate")

    async def _bearer(self, authorization: str) -> Caller:
        if not authorization.lower().startswith(_BEARER):
            raise Unauthenticated("the authorization must be 'Bearer <token>'")
        secret = authorization[len(_BEARER) :].strip()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        # All are compared, so that the time it takes does not tell how near a guess is.
        found = [t.caller for t in self._tokens if hmac.compare_digest(t.sha256, digest)]
        if found:
            return found[0]
        try:
            return await self._sessions.caller(secret)
        except Unauthenticated as error:
            raise Unauthenticated("the bearer token is unknown, and no session has it as its uuid") from error


def require(caller: Caller, role: str, method: str) -> None:
    """Raises PermissionDenied where the caller's role is below the method's. Asked before anything is looked up."""
    if RANK.get(caller.role, -1) < RANK[role]:
        raise PermissionDenied(f"{method} needs the role {role}")
