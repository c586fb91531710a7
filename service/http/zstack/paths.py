"""Empty segments of ZStack's paths are nothing: its SDKs write `zones//UUID`, `//v1//zones` and `groups/`."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile(r"/{2,}")
_OURS = ("/zstack/", "/v1/")


class WithoutEmptySegments:
    """An ASGI application in front of another one. `raw_path` stays as it came: signatures are over it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := normal(scope["path"])) != scope["path"]:
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


def normal(path: str) -> str:
    """The path without empty segments, where it is one of ZStack's."""
    whole = _SLASHES.sub("/", path)
    return (whole.rstrip("/") or "/") if whole.startswith(_OURS) else path
