"""JSON for everyone: every RPC of the contract over HTTP, streams as server-sent events.

Thin: a request becomes the method's protobuf message, and the gRPC face's own servicer answers it, so that validation,
roles, use cases and errors are the same. Errors are `google.rpc.Status` as JSON, as Google's APIs have them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import code_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.app.identity import Identities, require
from service.app.rates import Admit, unlimited
from service.contract.call import REQUEST_ID_KEY, request_id_of, set_caller
from service.contract.roles import ROLES
from service.contract.status import is_expected, status_of
from service.errors import FieldViolation, InvalidArgument, Overloaded, Unavailable
from service.http.bindings import Rule, rules
from service.telemetry.logs import get_logger

_log = get_logger("corral.http")

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


def json_routes(
    services: Mapping[str, tuple[Any, Any]],
    identities: Identities,
    *,
    max_body_bytes: int,
    admit: Admit = unlimited,
) -> list[Route]:
    """A route for each annotated method. `services`: full name -> (descriptor, servicer)."""
    made = []
    for rule in rules(descriptor for descriptor, _ in services.values()):
        handler = getattr(services[rule.service][1], rule.method)
        endpoint = _Endpoint(rule, handler, identities, max_body_bytes, admit)
        made.append(Route(rule.path, endpoint.answer, methods=[rule.verb], name=rule.method))
    # A path with a verb behind a colon must be tried before the one whose variable would swallow it.
    return sorted(made, key=lambda route: (":" not in route.path, route.path))


class _Endpoint:
    """One method."""

    def __init__(
        self, rule: Rule, handler: Callable[[Any, Any], Any], identities: Identities, max_body_bytes: int, admit: Admit
    ) -> None:
        self._rule = rule
        self._handler = handler
        self._identities = identities
        self._max_body_bytes = max_body_bytes
        self._admit = admit
        self._message = message_factory.GetMessageClass(rule.descriptor.input_type)

    async def answer(self, request: Request) -> Response:
        """The method's answer, or its error."""
        request_id = request_id_of([(REQUEST_ID_KEY, request.headers.get(REQUEST_ID_KEY, ""))])
        headers = {"x-request-id": request_id}
        try:
            path = f"{self._rule.service}/{self._rule.method}"
            caller = await self._identities.identify(request.headers.get("authorization", ""))
            self._admit(caller)
            require(caller, ROLES[path], path)
            set_caller(caller)
            message = await self._read(request)
            answered = self._handler(message, None)
            if self._rule.streams:
                # The first response is waited for, so that a refused call has a status of its own.
                first = await _while_wanted(request, anext(answered, None))
                return self._stream(first, answered, request_id, headers)
            return _json(await _while_wanted(request, answered), headers)
        except ClientDisconnect:
            return Response(status_code=HTTP_STATUS[code_pb2.CANCELLED], headers=headers)
        except Exception as error:
            return JSONResponse(*_problem(error, request_id), headers={**headers, **_retry_after(error)})

    def _stream(
        self, first: Any, responses: AsyncIterator[Any], request_id: str, headers: Mapping[str, str]
    ) -> StreamingResponse:
        """Server-sent events: the first response, None where there is none, and what follows."""

        async def events() -> AsyncIterator[bytes]:
            async with aclosing(responses):  # type: ignore[type-var]
                try:
                    if first is not None:
                        yield _event(first)
                        async for response in responses:
                            yield _event(response)
                except Exception as error:
                    body, _ = _problem(error, request_id)
                    yield b"event: error\ndata: " + json.dumps(body).encode() + b"\n\n"
                else:
                    yield b"event: end\ndata: {}\n\n"

        shown = {**headers, "cache-control": "no-store"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=shown)

    async def _read(self, request: Request) -> Any:
        values: dict[str, Any] = {}
        if self._rule.has_body:
            values = await self._body(request)
        else:
            values = self._query(request.query_params.multi_items())
            last = request.headers.get("last-event-id", "")
            if self._rule.streams and last and "startRevision" not in values:
                values["startRevision"] = last  # what a browser sends when it comes back
        for variable in self._rule.variables:
            values[_field(self._rule, variable).json_name] = request.path_params[variable]
        try:
            return json_format.ParseDict(values, self._message())
        except json_format.ParseError as error:
            raise InvalidArgument([FieldViolation(_named(str(error)), "is not what the field holds")]) from error

    async def _body(self, request: Request) -> dict[str, Any]:
        text = b""
        try:
            async for part in request.stream():
                text += part
                if len(text) > self._max_body_bytes:
                    raise Overloaded(f"the body has more than {self._max_body_bytes} bytes")
        except ClientDisconnect as gone:
            raise InvalidArgument([FieldViolation("", "the connection ended before the body did")]) from gone
        try:
            values = json.loads(text or b"{}")
        except (ValueError, RecursionError) as error:
            raise InvalidArgument([FieldViolation("", "the body is not JSON")]) from error
        if not isinstance(values, dict):
            raise InvalidArgument([FieldViolation("", "the body is not a JSON object")])
        return values

    def _query(self, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        known = {name: f for f in self._rule.descriptor.input_type.fields for name in (f.name, f.json_name)}
        for name, text in items:
            field = known.get(name)
            if field is None:
                raise InvalidArgument.of(name, f"is no parameter; allowed are {', '.join(sorted(known)) or 'none'}")
            value: Any = text
            if field.type == FieldDescriptor.TYPE_BOOL:
                if text not in ("true", "false"):
                    raise InvalidArgument.of(name, "must be true or false")
                value = text == "true"
            if field.is_repeated:
                values.setdefault(field.json_name, []).append(value)
            else:
                values[field.json_name] = value
        return values


async def _while_wanted(request: Request, answer: Awaitable[Any]) -> Any:
    """The answer, which is given up when its client leaves, as gRPC does it. Raises ClientDisconnect then."""
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _field(rule: Rule, name: str) -> Any:
    return rule.descriptor.input_type.fields_by_name[name]


_WHERE = re.compile(r' at "?\w+((?:\.\w+(?:\[\d+\])?)+)?"?\.*(?:\n|$)')
_UNKNOWN = re.compile(r'no field named "([^"]{1,255})"')
_WITHIN = re.compile(r"Failed to parse (\w+) field: ")


def _named(problem: str) -> str:
    """The path of the field that json_format's error speaks of, as exactly as it says."""
    unknown = _UNKNOWN.search(problem)
    where = _WHERE.search(problem)
    path = where[1].lstrip(".") if where is not None and where[1] else ".".join(_WITHIN.findall(problem))
    if unknown is not None:
        known = where[1].lstrip(".") + "." if where is not None and where[1] else ""
        return known + unknown[1]
    return path


def _json(message: Any, headers: Mapping[str, str]) -> Response:
    text = json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=False)
    return Response(text, media_type="application/json", headers=dict(headers))


def _event(message: Any) -> bytes:
    text = json_format.MessageToJson(message, indent=None)
    revision = getattr(getattr(message, "event", None), "revision", 0)
    return (f"id: {revision}\n" if revision else "").encode() + f"data: {text}\n\n".encode()


def _retry_after(error: Exception) -> dict[str, str]:
    """When to come back, in whole seconds as HTTP has it, where the error says so."""
    if not isinstance(error, Overloaded | Unavailable):
        return {}
    return {"retry-after": str(-(-error.retry_after_ms // 1000))}


def _problem(error: Exception, request_id: str) -> tuple[dict[str, Any], int]:
    """Body and HTTP status of an error."""
    if not is_expected(error):
        _log.error("a handler failed", request_id=request_id, exc_info=error)
    status = status_of(error, request_id)
    http = HTTP_STATUS.get(status.code, 500)
    body = json_format.MessageToDict(status)
    body["code"] = http
    body["status"] = code_pb2.Code.Name(status.code)
    return {"error": body}, http
