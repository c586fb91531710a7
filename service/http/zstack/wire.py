"""What both protocols read and write: bodies with a limit, JSON, URLs of jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from google.rpc import code_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

JSON_TYPE = "application/json; charset=utf-8"
_UUID = re.compile(r"[0-9a-f]{32}")
# What may stand in a Host header and so in a URL that is made of it.
_AUTHORITY = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,255}")


class Immediate(Exception):
    """A failure that is told at once, as plain text. `code`: the number of the status code that it is counted by."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.code = code_pb2.RESOURCE_EXHAUSTED if status == 413 else code_pb2.INVALID_ARGUMENT
        self.response = PlainTextResponse(text, status_code=status, headers=dict(headers or {}))


async def read_object(request: Request, limit: int) -> Mapping[str, Any]:
    """The JSON object that the body is; an empty body is an empty object. Raises Immediate (400, 413)."""
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise Immediate(413, f"the body may have at most {limit} bytes")
            pieces.append(piece)
    except ClientDisconnect as gone:
        raise Immediate(400, "the connection ended before the body did") from gone
    data = b"".join(pieces)
    if not data.strip():
        return {}
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
        # Half of a surrogate pair is a string for Python, and nothing that could be stored or answered.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Immediate(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise Immediate(400, "the body must be a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def json_text(text: str, status: int) -> Response:
    """JSON that is text already."""
    return Response(text, status_code=status, media_type=JSON_TYPE)


def location(request: Request, path: str) -> str:
    """A URL of this service by which the caller can reach it: by the name that it has called it now."""
    authority = request.headers.get("host", "")
    if not _AUTHORITY.fullmatch(authority):
        raise Immediate(400, "the header Host is not valid")
    return f"{request.url.scheme}://{authority}{path}"


def is_uuid(value: str) -> bool:
    """Whether it is 32 lower-case hex digits."""
    return _UUID.fullmatch(value) is not None
