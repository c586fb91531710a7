"""Where an HTTP request came from."""

from __future__ import annotations

from starlette.requests import Request

from service.contract.call import FORWARDED


def peer(request: Request) -> str:
    """The address that the request came from; `local` for a unix socket."""
    return request.client.host if request.client else "local"


def by_unix_socket(request: Request) -> bool:
    """Whether a program of this machine called by a unix socket, and not for somebody else as a proxy does."""
    server = request.scope.get("server")
    return server is not None and server[1] is None and not FORWARDED & set(request.headers)
