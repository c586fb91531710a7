"""Who may read `/metrics` and `/openapi.json`: programs of this machine, and others by their role."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app.identity import ADMIN, OPERATOR, SCRAPER, VIEWER, Identities
from service.contract.call import FORWARDED
from service.errors import CorralError, PermissionDenied, Unauthenticated
from service.http.peers import by_unix_socket

# Metrics tell of all projects, so that a tenant's own roles do not read them.
READERS: Mapping[str, frozenset[str]] = {
    "/metrics": frozenset({SCRAPER, ADMIN}),
    "/openapi.json": frozenset({VIEWER, OPERATOR, ADMIN}),
}


class ScrapeGuard:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp, identities: Identities, *, open_here: bool) -> None:
        """`open_here`: nobody else than this machine reaches the listener, and its programs need to show nothing."""
        self._app = app
        self._identities = identities
        self._open_here = open_here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        readers = READERS.get(scope["path"]) if scope["type"] == "http" else None
        refusal = None if readers is None else await self._refusal(Request(scope), readers)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    async def _refusal(self, request: Request, readers: frozenset[str]) -> Response | None:
        # What a proxy passes on comes from somewhere else.
        if self._open_here and not FORWARDED & set(request.headers):
            return None
        shown = request.headers.get("authorization", "")
        try:
            caller = await self._identities.identify(shown, by_unix_socket=by_unix_socket(request))
            if caller.role not in readers:
                raise PermissionDenied(f"{request.url.path} needs the role {' or '.join(sorted(readers))}")
        except Unauthenticated as error:
            return PlainTextResponse(f"{error.message}\n", 401, {"WWW-Authenticate": "Bearer"})
        except PermissionDenied as error:
            return PlainTextResponse(f"{error.message}\n", 403)
        except CorralError as error:
            return PlainTextResponse(f"{error.message}\n", 503, {"Retry-After": "1"})
        return None
