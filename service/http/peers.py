"""Where an HTTP request came from."""

from __future__ import annotations

from starlette.requests import Request


def peer(request: Request) -> str:
    """The address that the request came from; `local` for a unix socket."""
    return request.client.host if request.client else "local"
