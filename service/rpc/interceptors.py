"""The one composition around every RPC: request id, identity, limits, errors, metrics and the log line.

It is outermost, so nothing that a handler raises can reach a client except through the table in `errors`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from google.rpc import code_pb2

from service.app.identity import require
from service.app.rates import Admit, unlimited
from service.contract.call import REQUEST_ID_KEY, request_id_of, set_caller
from service.contract.roles import OPEN, ROLES
from service.contract.status import MethodUnimplemented, is_expected, status_of
from service.domain.tenants import Caller
from service.errors import CorralError, Overloaded, PermissionDenied, Unavailable
from service.rpc import calls
from service.rpc.turns import Turn, Turns
from service.telemetry.grpc_metrics import UNKNOWN_METHOD, GrpcMetrics, Method, code_name
from service.telemetry.logs import get_logger

Handler = Any
"""grpc.RpcMethodHandler; its stubs only know the blocking API."""

Identify = Callable[[Any], Awaitable[Caller]]
"""Who makes the call, from its grpc.aio.ServicerContext. Raises Unauthenticated."""

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_QUIET_SERVICES = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
_DEADLINE_TOLERANCE_SECONDS = 0.05
# Load balancers ask it, and must get an answer exactly when the service is busy.
_HEALTH = "grpc.health.v1.Health"
_UNLIMITED = (_HEALTH, "Check")

# The library asks for a method's handler and runs it in one task.
_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)

_log = get_logger("corral.rpc")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is served at a time. `max_message_bytes`: of one request. `max_waiting`: calls that have not begun.

    `max_connections`: of one listener; one more is closed as soon as it comes.
    """

    max_message_bytes: int = 4 << 20
    max_unary: int = 1024
    max_streams: int = 8192
    max_waiting: int = 8192
    max_connections: int = 4096


@dataclass(slots=True, eq=False)
class _Call:
    """One RPC in progress."""

    method: Method
    request_id: str
    context: Any
    task: asyncio.Task[Any] | None
    started: float = field(default_factory=time.perf_counter)
    code: grpc.StatusCode = grpc.StatusCode.OK
    ended_by_drain: bool = False
    sent: int = 0

    @property
    def streaming(self) -> bool:
        return self.method.type != "unary"


_NOBODY = Caller(principal="", project="", role="")


class CallGuard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services of one server. Two servers need two, or they would share their handlers."""

    def __init__(self, metrics: GrpcMetrics, *, limits: Limits, identify: Identify, admit: Admit = unlimited) -> None:
        self._metrics = metrics
        self._admitted = admit
        self._limits = limits
        self._identify = identify
        self._active: dict[bool, int] = {False: 0, True: 0}
        self._streams: set[_Call] = set()
        self._wrapped: dict[str, tuple[Method, Handler]] = {}
        self._turns = Turns(limits.max_waiting)

    def end_streams(self) -> None:
        """End every open stream with UNAVAILABLE and a hint when to come back. Must run on the server's loop."""
        for call in tuple(self._streams):
            if call.task is not None and not call.ended_by_drain:
                call.ended_by_drain = True
                call.task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler with everything around it."""
        path = handler_call_details.method
        method, wrapped = self._wrapped.get(path) or self._find(path, await continuation(handler_call_details))
        if method.service != _HEALTH:
            try:
                _turn.set(await self._turns.take())
            except Overloaded as error:
                return self._refusing(method, error)
        return wrapped

    def _find(self, path: str, handler: Handler | None) -> tuple[Method, Handler]:
        """Wraps a method's handler at its first call. A path that nothing serves is not kept: callers choose it."""
        if handler is None:
            return UNKNOWN_METHOD, self._refusing(UNKNOWN_METHOD, MethodUnimplemented(path))
        method = _method(path, handler)
        self._wrapped[path] = method, self._wrap(handler, method)
        return self._wrapped[path]

    def _refusing(self, method: Method, error: CorralError) -> Handler:
        """A handler that answers any shape of call with the error, without reading from it."""

        async def run(_requests: AsyncIterator[bytes], context: Any) -> None:
            async def refuse(_call: _Call) -> None:
                raise error

            await self._around(method, context, refuse, refused=True)

        return grpc.stream_stream_rpc_method_handler(run)

    def _wrap(self, handler: Handler, method: Method) -> Handler:
        deserializer = calls.guarded(handler.request_deserializer, self._limits.max_message_bytes)
        serializer = handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            bidi = self._stream(handler.stream_stream, method, from_stream=True)
            return grpc.stream_stream_rpc_method_handler(bidi, deserializer, serializer)
        if handler.response_streaming:
            stream = self._stream(handler.unary_stream, method, from_stream=False)
            return grpc.unary_stream_rpc_method_handler(stream, deserializer, serializer)
        if handler.request_streaming:
            raise TypeError(f"{method.name}: no service of ours takes a stream and answers once")
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, method), deserializer, serializer)

    def _unary(self, behavior: Callable[[Any, Any], Any], method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        async def run(request: Any, context: Any) -> Any:
            async def answer(call: _Call) -> Any:
                response = await _as_awaitable(behavior(self._received(request, method), context))
                self._count_sent(call)
                return response

            return await self._around(method, context, answer)

        return run

    def _stream(
        self, behavior: Callable[[Any, Any], Any], method: Method, *, from_stream: bool
    ) -> Callable[[Any, Any], Awaitable[None]]:
        # A coroutine that writes, not a generator: a client that leaves then interrupts it here, where it is handled.
        async def run(request: Any, context: Any) -> None:
            async def answer(call: _Call) -> None:
                source = self._each_received(request, method) if from_stream else self._received(request, method)
                async with aclosing(behavior(source, context)) as responses:
                    async for response in responses:
                        _end_turn()  # a reader that does not read delays nobody
                        await context.write(response)
                        self._count_sent(call)

            await self._around(method, context, answer)

        return run

    async def _each_received(self, requests: AsyncIterator[Any], method: Method) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._received(request, method)

    def _received(self, request: Any, method: Method) -> Any:
        self._metrics.received(method)
        if isinstance(request, calls.Refused):
            raise request.error
        return request

    def _count_sent(self, call: _Call) -> None:
        call.sent += 1
        self._metrics.sent(call.method)

    async def _around(
        self, method: Method, context: Any, answer: Callable[[_Call], Awaitable[Any]], *, refused: bool = False
    ) -> Any:
        """`refused`: whoever calls, so that nobody is asked who that is."""
        request_id = request_id_of(context.invocation_metadata())
        call = _Call(method, request_id, context, asyncio.current_task())
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        self._metrics.started(method)
        self._active[call.streaming] += 1
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if not refused:
                    self._admit(call)
                    set_caller(await self._permitted(method, context))
                return await answer(call)
            except asyncio.CancelledError:
                await self._cancelled(call)
                raise
            except grpc.aio.AbortError:
                call.code = _CODES.get(_number(context.code()), grpc.StatusCode.UNKNOWN)
                raise
            except grpc.aio.InternalError as gone:
                # A write found the connection gone: the client gave the call up, and nothing failed here.
                call.code = grpc.StatusCode.CANCELLED
                raise asyncio.CancelledError from gone
            except NotImplementedError:
                await self._abort(call, MethodUnimplemented(f"/{method.service}/{method.name}"))
            except Exception as error:
                await self._abort(call, error)
            finally:
                _end_turn()
                self._active[call.streaming] -= 1
                self._streams.discard(call)
                self._ended(call)

    async def _permitted(self, method: Method, context: Any) -> Caller:
        """Who calls. Raises Unauthenticated, RateLimited, PermissionDenied, before the request is looked at."""
        path = f"{method.service}/{method.name}"
        role = ROLES.get(path)
        if role == OPEN:
            return _NOBODY
        caller = await self._identify(context)
        self._admitted(caller)
        if role is None:
            raise PermissionDenied(f"nobody may call {path}")
        require(caller, role, path)
        return caller

    def _admit(self, call: _Call) -> None:
        """Raises Overloaded where too much is in progress already."""
        if call.streaming:
            self._streams.add(call)
        if (call.method.service, call.method.name) == _UNLIMITED:
            return
        limit = self._limits.max_streams if call.streaming else self._limits.max_unary
        if self._active[call.streaming] > limit:
            raise Overloaded(f"{limit} {'streams' if call.streaming else 'calls'} are in progress already")

    async def _cancelled(self, call: _Call) -> None:
        """The client left, its deadline passed, or the server drains and tells so."""
        if call.ended_by_drain and call.task is not None:
            call.task.uncancel()
            await self._abort(call, Unavailable("the service is shutting down; watch again from the last revision"))
        remaining = call.context.time_remaining()
        # A client resets the stream at its own deadline, which can arrive before ours has passed.
        expired = remaining is not None and remaining <= _DEADLINE_TOLERANCE_SECONDS
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED

    async def _abort(self, call: _Call, error: Exception) -> None:
        """End the RPC with the error's status. Always raises."""
        if not is_expected(error):
            _log.error("a handler failed", method=call.method.name, exc_info=error)
        status = status_of(error, call.request_id)
        call.code = _CODES[status.code]
        details = status.SerializeToString()
        trailing = ((_DETAILS_KEY, details), (REQUEST_ID_KEY, call.request_id))
        try:
            await call.context.abort(call.code, status.message, trailing_metadata=trailing)
        except grpc.aio.InternalError as gone:
            # The connection went away under the answer; gRPC would report that as a failure of the handler.
            raise asyncio.CancelledError from gone

    def _ended(self, call: _Call) -> None:
        seconds = time.perf_counter() - call.started
        self._metrics.handled(call.method, code_name(call.code.name), seconds)
        quiet = call.method.service.startswith(_QUIET_SERVICES) and call.code is not _CODES[code_pb2.INTERNAL]
        tell = _log.debug if quiet else _log.info
        tell(
            "call",
            method=f"{call.method.service}/{call.method.name}",
            code=call.code.name,
            milliseconds=round(seconds * 1000, 1),
            messages=call.sent,
            peer=call.context.peer(),
        )


def _end_turn() -> None:
    """This call has begun: it has something to tell, or it has ended."""
    turn = _turn.get()
    if turn is not None:
        turn.end()


def _method(path: str, handler: Handler) -> Method:
    """The labels of a path `/package.Service/Method`."""
    service, _, name = path.removeprefix("/").rpartition("/")
    kinds = {
        (False, False): "unary",
        (False, True): "server_stream",
        (True, False): "client_stream",
        (True, True): "bidi_stream",
    }
    return Method(kinds[handler.request_streaming, handler.response_streaming], service, name)


async def _as_awaitable(result: Any) -> Any:
    """Handlers are coroutines; only those that generated code leaves unimplemented raise at once."""
    return await result


def _number(code: Any) -> int:
    """The number of a status code, as grpc.aio tells it before and after an abort."""
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)
