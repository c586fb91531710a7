"""Keeps web pages out: what a browser sends for a page of another origin reaches no face of the HTTP listener.

A page that is open in an operator's browser may send requests to any address of the operator's machine, and where a
name of the page's own leads to that address it may read the answers. Such requests are known by the headers that
browsers always send: `Origin`, `Sec-Fetch-Site` and `Host`. Programs send `Host` alone, and nothing changes for them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.contract.call import REQUEST_ID_KEY, request_id_of
from service.contract.frame import CallFrame
from service.errors import CorralError, PermissionDenied
from service.http.peers import peer
from service.http.reply import problem
from service.telemetry.call_metrics import JSON, ZSTACK
from service.telemetry.grpc_metrics import UNKNOWN_METHOD

_OWN_PAGES = ("same-origin", "none")
"""`Sec-Fetch-Site` of this service's own pages, and of what a person typed. A sibling's port is another site's."""
_JSON_PREFIX = "/corral/"
_ZSTACK_PREFIXES = ("/zstack/", "/v1/")
_FORBIDDEN = 403


class CrossSite(PermissionDenied):
    """A web page of another origin sent the request."""

    reason = "CROSS_SITE"


class ForeignHost(PermissionDenied):
    """The request names a host that this service is not: a name that was made to lead here may have sent it."""

    reason = "FOREIGN_HOST"


class WebGuard:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp, frame: CallFrame, host_names: Collection[str] | None) -> None:
        """`host_names`: what the service may be called besides addresses and localhost; None: anything."""
        self._app = app
        self._frame = frame
        self._names = None if host_names is None else {name.lower() for name in host_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = await self._refused(Request(scope), refusal)
        await response(scope, receive, send)

    def _refusal(self, request: Request) -> CorralError | None:
        host = request.headers.get("host", "")
        if self._names is not None and host and not _is_ours(host, self._names):
            return ForeignHost("the request is for a host that is not served here; server.host_names may name it")
        origin = request.headers.get("origin")
        if origin is not None and _authority(origin) != host.lower():
            return CrossSite("requests of web pages of other origins are not served")
        site = request.headers.get("sec-fetch-site", "none")
        if site not in _OWN_PAGES and not _follows_a_link(request):
            return CrossSite("requests of web pages of other sites are not served")
        return None

    async def _refused(self, request: Request, error: CorralError) -> Response:
        """The refusal in the words of the face, logged and counted like its calls."""
        path = request.url.path
        request_id = request_id_of(request.headers.get(REQUEST_ID_KEY))
        face = ZSTACK if path.startswith(_ZSTACK_PREFIXES) else JSON
        try:
            async with self._frame.call(face, UNKNOWN_METHOD, request_id, peer=peer(request)):
                raise error
        except CorralError as refusal:
            if path.startswith(_JSON_PREFIX):
                return problem(refusal, request_id)
            status = _FORBIDDEN if isinstance(refusal, PermissionDenied) else 429
            return PlainTextResponse(f"{refusal.message}\n", status, {REQUEST_ID_KEY: request_id})


def _is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this service: by an address, which no name server gives out, or by a known name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets without an address in them
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True


def _authority(origin: str) -> str | None:
    """Host and port of an origin; None where it is none that a page of this service could have."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _follows_a_link(request: Request) -> bool:
    """Whether a person comes here from another site's page: its scripts see nothing of the answer. Only for pages."""
    headers, path = request.headers, request.url.path
    by_hand = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    faces = (_JSON_PREFIX, *_ZSTACK_PREFIXES)
    return by_hand and request.method == "GET" and not path.startswith(faces)
