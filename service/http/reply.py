"""What goes back to one HTTP caller: a message, an error with its status, or a stream of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.rpc import code_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from service.contract.call import REQUEST_ID_KEY
from service.contract.status import status_of
from service.errors import FieldViolation, InvalidArgument, Overloaded, Unavailable

JSON_TYPE = "application/json"
HTTP_STATUS: Mapping[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.INTERNAL: 500,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}
"""HTTP's code for gRPC's, as in google/rpc/code.proto."""


class NotJson(InvalidArgument):
    """The request does not say that its body is JSON. Browsers let any web page send bodies of other types."""

    reason = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self) -> None:
        super().__init__([FieldViolation("", "the body must be JSON, with the header Content-Type: application/json")])


class Reply:
    """What goes back to one caller."""

    def __init__(self, request: Request, send: Send, request_id: str) -> None:
        self._request = request
        self._send = send
        self._request_id = request_id
        self._headers = {REQUEST_ID_KEY: request_id}
        self._streaming = False

    async def message(self, message: Any) -> None:
        """The answer of a unary call."""
        text = json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=False)
        await self._respond(Response(text, media_type=JSON_TYPE, headers=self._headers))

    async def event(self, message: Any) -> None:
        """One response of a stream."""
        revision = getattr(getattr(message, "event", None), "revision", 0)
        text = json_format.MessageToJson(message, indent=None)
        await self._chunk((f"id: {revision}\n" if revision else "") + f"data: {text}\n\n")

    async def named(self, name: str, document: Any) -> None:
        """An event of a stream that has events of several kinds."""
        await self._chunk(f"event: {name}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n")

    async def comment(self) -> None:
        """An empty comment, so that neither a proxy nor the reader takes the connection for dead."""
        await self._chunk(": nothing new\n\n")

    async def sign_of_life(self) -> None:
        """A comment, which clients of server-sent events ignore; nothing before the first event."""
        if self._streaming:
            await self._chunk(": nothing happened\n\n")

    async def end(self) -> None:
        """The end of a stream that went well."""
        await self._chunk("event: end\ndata: {}\n\n", more=False)

    async def problem(
        self, error: Exception, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """An error: with its status, or as the last event of a stream that has begun. `status`: instead of its own."""
        body = _problem(error, self._request_id, status)
        if self._streaming:
            await self._chunk(f"event: error\ndata: {json.dumps(body)}\n\n", more=False)
            return
        shown = {**self._headers, **_retry_after(error), **(headers or {})}
        await self._respond(JSONResponse(body, body["error"]["code"], headers=shown))

    async def nothing(self) -> None:
        """End the response for a caller that has left: the server needs an end all the same."""
        if self._streaming:
            await self._chunk("", more=False)
            return
        await self._respond(Response(status_code=HTTP_STATUS[code_pb2.CANCELLED], headers=self._headers))

    async def _respond(self, response: Response) -> None:
        await response(self._request.scope, self._request.receive, self._send)

    async def _chunk(self, text: str, *, more: bool = True) -> None:
        if not self._streaming:
            self._streaming = True
            headers = {
                **self._headers,
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-store",
                "x-accel-buffering": "no",  # nginx holds back what it buffers until the stream ends
            }
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _retry_after(error: Exception) -> dict[str, str]:
    """When to come back, in whole seconds as HTTP has it, where the error says so."""
    if not isinstance(error, Overloaded | Unavailable):
        return {}
    return {"retry-after": str(-(-error.retry_after_ms // 1000))}


def problem(error: Exception, request_id: str) -> Response:
    """An error as an HTTP response."""
    body = _problem(error, request_id, None)
    return JSONResponse(body, body["error"]["code"], headers={REQUEST_ID_KEY: request_id, **_retry_after(error)})


def _problem(error: Exception, request_id: str, http: int | None) -> dict[str, Any]:
    """The body of an error. `http`: its HTTP status where it is not the code's own."""
    status = status_of(error, request_id)
    body = json_format.MessageToDict(status)
    body["code"] = http or (415 if isinstance(error, NotJson) else HTTP_STATUS.get(status.code, 500))
    body["status"] = code_pb2.Code.Name(status.code)
    return {"error": body}
