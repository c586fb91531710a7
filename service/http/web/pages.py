"""The page's own files, from the package: nothing is loaded from elsewhere, and no other script runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
SECURITY: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: the page may load and call its own service alone, and stand in no other page."""


class _File:
    """One file, read once."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        # Asked for again at each visit and answered with nothing where it is the same: a new version is seen at once.
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = {**SECURITY, "Content-Type": kind, "ETag": etag, "Cache-Control": "no-cache"}

    async def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)


def page_routes() -> list[Route]:
    """A route for the page, and one for each of its files."""
    files = {path: _File(found.read_bytes(), _kind(path)) for path, found in _found("", _assets())}
    index = files.pop("index.html")
    routes = [Route(f"/web/{path}", file.answer, methods=["GET"]) for path, file in sorted(files.items())]
    return [Route("/", index.answer, methods=["GET"]), *routes]


def _assets() -> Traversable:
    return resources.files(__package__) / "assets"


def _found(prefix: str, folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _found(f"{path}/", entry)
        else:
            yield path, entry


def _kind(path: str) -> str:
    """The media type by the file's ending. Raises KeyError for a file that is none of the page."""
    return _TYPES[path.rpartition(".")[2]]
