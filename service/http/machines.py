"""The listener for machines: what a machine is told before it boots, and what its guest reports. A token opens each.

Nothing else is served here, so that it may be reached from the networks of BMCs and machines, where the other listeners
are not.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from service.app.seed_images import SeedImage
from service.domain.seats import REPORT_PATH, SEED_PATH, Report, Seed, token_of
from service.errors import CorralError

MOST_BYTES = 16 << 10
_KIND = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_TEXTS = {"stage": 64, "detail": 512, "address": 64, "boot_id": 64, "weights": 64, "fault": 32}
_NUMBERS = ("epoch", "count", "answered", "restarts", "rank")
_BEARER = "Bearer "

GetSeed = Callable[[str], Awaitable[Seed | None]]
Tell = Callable[[str, Report], Awaitable[bool]]


def machines_app(seed: GetSeed, tell: Tell) -> Starlette:
    """The application. `seed(token)`: see StoredSeats.seed; `tell(token, report)`: see StoredSeats.report."""

    async def serve_seed(request: Request) -> Response:
        try:
            found = await seed(token_of(request.path_params["token"]))
            if found is None:
                return PlainTextResponse("given up\n", 410)
            image = await asyncio.to_thread(SeedImage, found)
        except CorralError:
            return _unavailable()
        return _part(image, request.headers.get("range", ""), head=request.method == "HEAD")

    async def take_report(request: Request) -> Response:
        token = request.headers.get("authorization", "")
        if not token.startswith(_BEARER):
            return PlainTextResponse("a report bears its machine's token\n", 401)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                return PlainTextResponse("too long\n", 413)
        try:
            said = _report(json.loads(body))
        except (ValueError, TypeError, RecursionError) as problem:
            return PlainTextResponse(f"{problem}\n", 400)
        try:
            known = await tell(token.removeprefix(_BEARER), said)
        except CorralError:
            return _unavailable()
        return Response(status_code=204) if known else PlainTextResponse("given up\n", 410)

    return Starlette(
        routes=[
            Route(SEED_PATH + "{token}.iso", serve_seed, methods=["GET", "HEAD"]),
            Route(REPORT_PATH, take_report, methods=["POST"]),
        ]
    )


def _unavailable() -> Response:
    return PlainTextResponse("try again\n", 503, {"retry-after": "2"})


def _report(said: Any) -> Report:
    """What a guest says. Raises ValueError that names the field."""
    if not isinstance(said, dict):
        raise ValueError("a report is an object")
    values: dict[str, Any] = {}
    for name, longest in _TEXTS.items():
        text = said.get(name, "")
        if not isinstance(text, str) or len(text) > longest or not text.isprintable():
            raise ValueError(f"{name}: must be a line of at most {longest} characters")
        values[name] = text
    for name in _NUMBERS:
        number = said.get(name, getattr(Report("x"), name))
        if isinstance(number, bool) or not isinstance(number, int) or not -1 <= number < 1 << 31:
            raise ValueError(f"{name}: must be an integer of -1 to 2147483647")
        values[name] = number
    if not values["stage"]:
        raise ValueError("stage: must be given")
    return Report(**values)


def _part(image: SeedImage, wanted: str, *, head: bool) -> Response:
    """All of it, or the bytes that the header `Range` names; a BMC reads its drive piece by piece."""
    size = image.size
    headers = {"accept-ranges": "bytes", "etag": f'"{image.made_at:x}-{size:x}"', "cache-control": "no-store"}
    first, last, code = 0, size - 1, 200
    named = _RANGE.fullmatch(wanted.strip())
    if named is not None and (named[1] or named[2]):
        code = 206
        if named[1]:
            first, last = int(named[1]), min(int(named[2]) if named[2] else size - 1, size - 1)
        else:
            first = max(0, size - int(named[2]))
        if first > last:
            return Response(b"", 416, {**headers, "content-range": f"bytes */{size}"}, _KIND)
        headers["content-range"] = f"bytes {first}-{last}/{size}"
    headers["content-length"] = str(last + 1 - first)
    return (
        Response(b"", code, headers, _KIND)
        if head
        else StreamingResponse(image.pieces(first, last), code, headers, _KIND)
    )
