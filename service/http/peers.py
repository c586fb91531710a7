"""Where an HTTP request came from."""

from __future__ import annotations

from starlette.requests import Request

from service.contract.call import FORWARDED
from service.listening import UnixPeer

UNIX_PEER = "unix_peer"
"""Key of a request's state: who calls by a unix socket, a `UnixPeer`; None where the kernel does not say."""


def peer(request: Request) -> str:
    """The address that the request came from; of a unix socket `uid N`, or `local` where that is not known."""
    if request.client:
        return request.client.host
    known = _unix_peer(request)
    return f"uid {known.uid}" if known is not None else "local"


def by_unix_socket(request: Request) -> bool:
    """Whether a program of this machine called for itself by a unix socket that is for its user, as the kernel says."""
    known = _unix_peer(request)
    return known is not None and known.admitted and not FORWARDED & set(request.headers)


def _unix_peer(request: Request) -> UnixPeer | None:
    found: UnixPeer | None = request.scope.get("state", {}).get(UNIX_PEER)
    return found
