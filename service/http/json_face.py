"""JSON for everyone: every RPC of the contract over HTTP, streams as server-sent events.

Thin: a request becomes the method's protobuf message, and the gRPC face's own servicer answers it within the same
frame, so that limits, validation, roles, use cases and errors are the same. Errors are `google.rpc.Status` as JSON, as
Google's APIs have them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from itertools import islice
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.app.identity import Identities
from service.contract import heartbeat
from service.contract.call import REQUEST_ID_KEY, TRACEPARENT_KEY, request_id_of
from service.contract.frame import CallerLeft, CallFrame, FramedCall
from service.contract.heartbeat import beating
from service.contract.roles import ROLES
from service.contract.status import MethodUnimplemented
from service.contract.validation import MAX_VIOLATIONS
from service.errors import FieldViolation, InvalidArgument, Overloaded
from service.http.bindings import Rule, rules
from service.http.connections import more_time
from service.http.json_problems import violations
from service.http.peers import by_unix_socket, peer
from service.http.ranges import whole_or_part
from service.http.reply import JSON_TYPE, NotJson, Reply, left
from service.telemetry.call_metrics import JSON
from service.telemetry.grpc_metrics import UNKNOWN_METHOD, Method

_ANY_PATH = "/corral/{rest:path}"


def json_routes(services: Mapping[str, tuple[Any, Any]], frame: CallFrame, identities: Identities) -> list[Route]:
    """A route for each path of annotated methods. `services`: full name -> (descriptor, servicer)."""
    by_path: dict[str, dict[str, _Endpoint]] = {}
    for rule in rules(descriptor for descriptor, _ in services.values()):
        handler = getattr(services[rule.service][1], rule.method)
        kind = _Upload if rule.raw else _Endpoint
        by_path.setdefault(rule.path, {})[rule.verb] = kind(rule, handler, frame, identities)
    # A path with a verb after a colon must be tried before the one whose variable would match the verb too.
    paths = sorted(by_path, key=lambda path: (":" not in path, path))
    return [*(Route(path, _Path(by_path[path], frame)) for path in paths), Route(_ANY_PATH, _Path({}, frame))]


class _Path:
    """All methods of one path, as an ASGI application: the answer of a stream is part of its call."""

    def __init__(self, endpoints: Mapping[str, _Endpoint], frame: CallFrame) -> None:
        """Without endpoints it is a path that nothing serves."""
        self._endpoints = endpoints
        self._frame = frame
        verbs = set(endpoints) | ({"HEAD"} if "GET" in endpoints else set())
        self._allow = {"Allow": ", ".join(sorted(verbs))} if verbs else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        verb = "GET" if request.method == "HEAD" else request.method
        if verb in self._endpoints:
            await self._endpoints[verb].answer(request, send)
            return
        request_id = request_id_of(request.headers.get(REQUEST_ID_KEY))
        reply = Reply(request, send, request_id)
        try:
            async with self._frame.call(JSON, UNKNOWN_METHOD, request_id, peer=peer(request)):
                raise MethodUnimplemented(request.url.path)
        except MethodUnimplemented as error:
            await reply.problem(error, status=405 if self._endpoints else 404, headers=self._allow)
        except Exception as error:
            await reply.problem(error)


class _Endpoint:
    """One method."""

    def __init__(
        self, rule: Rule, handler: Callable[[Any, Any], Any], frame: CallFrame, identities: Identities
    ) -> None:
        self._rule = rule
        self._handler = handler
        self._frame = frame
        self._identities = identities
        kind = "client_stream" if rule.raw else "server_stream" if rule.streams else "unary"
        self._method = Method(kind, rule.service, rule.method)
        self._message = message_factory.GetMessageClass(rule.descriptor.input_type)

    async def answer(self, request: Request, send: Send) -> None:
        """Send the method's answer, or its error."""
        request_id = request_id_of(request.headers.get(REQUEST_ID_KEY), request.headers.get(TRACEPARENT_KEY))
        reply = Reply(request, send, request_id)
        framed = self._frame.call(JSON, self._method, request_id, peer=peer(request))
        try:
            async with framed as call:
                await self._answered(call, request, reply)
        except CallerLeft:
            await reply.nothing()
        except Exception as error:
            await reply.problem(error)

    async def _answered(self, call: FramedCall, request: Request, reply: Reply) -> None:
        body = await self._body(request)
        shown = request.headers.get("authorization", "")
        unix = by_unix_socket(request)
        await call.permit(lambda: self._identities.identify(shown, by_unix_socket=unix), ROLES.get(self._method.path))
        message = self._read(request, body)
        call.received()
        # An answer is given up when its client leaves, as gRPC does it.
        leaving = asyncio.create_task(left(request))
        leaving.add_done_callback(lambda gone: None if gone.cancelled() else call.end_with(CallerLeft()))
        try:
            if self._rule.streams:
                await self._stream(call, self._handler(message, None), reply)
                return
            answer = await self._handler(message, None)
            call.count_sent()
        finally:
            leaving.cancel()
        await reply.message(answer)

    async def _stream(self, call: FramedCall, responses: AsyncGenerator[Any, None], reply: Reply) -> None:
        """Server-sent events. Nothing is sent before the first, so that a refused call has a status of its own."""
        async with aclosing(beating(responses, heartbeat.SECONDS)) as beats:
            async for response in beats:
                if response is None:
                    await reply.sign_of_life()
                    continue
                call.begun()
                await reply.event(response)
                call.count_sent()
        await reply.end()

    def _read(self, request: Request, body: bytes) -> Any:
        if self._rule.has_body:
            if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
                raise NotJson
            return self._message_of(request, _object(body))
        values = self._query(request.query_params.multi_items())
        last = request.headers.get("last-event-id", "")
        if self._rule.streams and last and "startRevision" not in values:
            values["startRevision"] = last  # a browser that connects again says what it has seen last
        return self._message_of(request, values)

    def _message_of(self, request: Request, values: dict[str, Any]) -> Any:
        for variable in self._rule.variables:
            values[_field(self._rule, variable).json_name] = request.path_params[variable]
        try:
            return json_format.ParseDict(values, self._message())
        except json_format.ParseError as error:
            wrong = [*islice(violations(values, self._rule.descriptor.input_type), MAX_VIOLATIONS)]
            raise InvalidArgument(
                wrong or [FieldViolation(_named(str(error)), "is not what the field holds")]
            ) from error

    async def _body(self, request: Request) -> bytes:
        """The whole body, read before the call's turn: a slow line delays nobody else."""
        most = self._frame.limits.max_message_bytes
        text = bytearray()
        try:
            async for part in request.stream():
                text += part
                if len(text) > most:
                    raise Overloaded(f"the body has more than {most} bytes")
        except ClientDisconnect as gone:
            raise CallerLeft from gone
        return bytes(text)

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


class _Upload(_Endpoint):
    """A method that takes a stream of bytes and answers once: the body is the bytes, all else are parameters."""

    async def _answered(self, call: FramedCall, request: Request, reply: Reply) -> None:
        shown, unix = request.headers.get("authorization", ""), by_unix_socket(request)
        await call.permit(lambda: self._identities.identify(shown, by_unix_socket=unix), ROLES.get(self._method.path))
        call.begun()  # what comes slowly delays nobody
        values = self._query(request.query_params.multi_items())
        if self._rule.raw in values:
            raise InvalidArgument.of(self._rule.raw, "is the body, and no parameter")
        first = self._message_of(request, whole_or_part(request, values))
        async with aclosing(self._messages(call, request, first)) as messages:
            answer = await self._handler(messages, None)
        call.count_sent()
        await reply.message(answer)

    async def _messages(self, call: FramedCall, request: Request, first: Any) -> AsyncGenerator[Any, None]:
        call.received()
        yield first
        longer = more_time(request)
        try:
            async for part in request.stream():
                longer()
                if part:
                    call.received()
                    yield self._message(**{self._rule.raw: part})
        except ClientDisconnect as gone:
            raise CallerLeft from gone


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object that a body is; an empty one is empty. Raises InvalidArgument."""
    try:
        values = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidArgument([FieldViolation("", "the body is not JSON")]) from error
    if not isinstance(values, dict):
        raise InvalidArgument([FieldViolation("", "the body is not a JSON object")])
    return values


def _field(rule: Rule, name: str) -> Any:
    return rule.descriptor.input_type.fields_by_name[name]


_WHERE = re.compile(r' at "?\w+((?:\.\w+(?:\[\d+\])?)+)?"?\.*(?:\n|$)')
_UNKNOWN = re.compile(r'no field named "([^"]{1,255})"')
_WITHIN = re.compile(r"Failed to parse (\w+) field: ")


def _named(problem: str) -> str:
    """The path of the field that the error of `json_format` names, as exactly as it does."""
    unknown = _UNKNOWN.search(problem)
    where = _WHERE.search(problem)
    path = where[1].lstrip(".") if where is not None and where[1] else ".".join(_WITHIN.findall(problem))
    if unknown is not None:
        known = where[1].lstrip(".") + "." if where is not None and where[1] else ""
        return known + unknown[1]
    return path
