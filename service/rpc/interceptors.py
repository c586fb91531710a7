"""Puts the contract's frame around every RPC, and ends it with the status of what was raised.

It is outermost, so nothing that a handler raises can reach a client except through the table in `contract.status`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc

from service.contract.call import REQUEST_ID_KEY, TRACEPARENT_KEY, request_id_of
from service.contract.frame import HEALTH, CallFrame, FramedCall
from service.contract.roles import ROLES
from service.contract.status import MethodUnimplemented, status_of
from service.contract.turns import Turn
from service.domain.tenants import Caller
from service.errors import CorralError, Overloaded
from service.rpc import calls
from service.telemetry.call_metrics import GRPC
from service.telemetry.grpc_metrics import UNKNOWN_METHOD, Method

Handler = Any
"""grpc.RpcMethodHandler; its stubs only know the blocking API."""

Identify = Callable[[Any], Awaitable[Caller]]
"""Who makes the call, from its grpc.aio.ServicerContext. Raises Unauthenticated."""

Answer = Callable[[FramedCall], Awaitable[Any]]

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

# The library asks for a method's handler and runs it in one task. The turn is waited for in between, so that requests
# of calls that cannot begin yet are left on the wire, where their senders keep them.
_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


class CallGuard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services of one server. Two servers need two, or they would share their handlers."""

    def __init__(self, frame: CallFrame, identify: Identify) -> None:
        self._frame = frame
        self._identify = identify
        self._wrapped: dict[str, tuple[Method, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler with everything around it."""
        path = handler_call_details.method
        method, wrapped = self._wrapped.get(path) or self._find(path, await continuation(handler_call_details))
        if method.service != HEALTH:
            try:
                _turn.set(await self._frame.turn())
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
        """A handler that answers any shape of call with the error, whoever calls, without reading from it."""

        async def run(_requests: AsyncIterator[bytes], context: Any) -> None:
            async def refuse(_call: FramedCall) -> None:
                raise error

            await self._around(method, context, refuse)

        return grpc.stream_stream_rpc_method_handler(run)

    def _wrap(self, handler: Handler, method: Method) -> Handler:
        deserializer = calls.guarded(handler.request_deserializer, self._frame.limits.max_message_bytes)
        serializer = calls.serialized(handler.response_serializer)
        if handler.request_streaming and handler.response_streaming:
            bidi = self._stream(handler.stream_stream, method, from_stream=True)
            return grpc.stream_stream_rpc_method_handler(bidi, deserializer, serializer)
        if handler.response_streaming:
            stream = self._stream(handler.unary_stream, method, from_stream=False)
            return grpc.unary_stream_rpc_method_handler(stream, deserializer, serializer)
        if handler.request_streaming:
            once = self._once(handler.stream_unary, method)
            return grpc.stream_unary_rpc_method_handler(once, deserializer, serializer)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, method), deserializer, serializer)

    def _unary(self, behavior: Callable[[Any, Any], Any], method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        async def run(request: Any, context: Any) -> Any:
            async def answer(call: FramedCall) -> Any:
                await self._permit(call, context)
                response = await behavior(_received(call, request), context)
                call.count_sent()
                return response

            return await self._around(method, context, answer)

        return run

    def _once(self, behavior: Callable[[Any, Any], Any], method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        """Of a method that takes a stream and answers once."""

        async def run(requests: AsyncIterator[Any], context: Any) -> Any:
            async def answer(call: FramedCall) -> Any:
                await self._permit(call, context)
                call.begun()  # what comes slowly delays nobody
                response = await behavior(_each_received(call, requests), context)
                call.count_sent()
                return response

            return await self._around(method, context, answer)

        return run

    def _stream(
        self, behavior: Callable[[Any, Any], Any], method: Method, *, from_stream: bool
    ) -> Callable[[Any, Any], Awaitable[None]]:
        # A coroutine that writes, not a generator: a client that leaves then interrupts it here, where it is handled.
        async def run(request: Any, context: Any) -> None:
            async def answer(call: FramedCall) -> None:
                await self._permit(call, context)
                source = _each_received(call, request) if from_stream else _received(call, request)
                async with aclosing(behavior(source, context)) as responses:
                    async for response in responses:
                        call.begun()
                        await context.write(response)
                        call.count_sent()

            await self._around(method, context, answer)

        return run

    async def _permit(self, call: FramedCall, context: Any) -> None:
        await call.permit(lambda: self._identify(context), ROLES.get(call.method.path))

    async def _around(self, method: Method, context: Any, answer: Answer) -> Any:
        shown = dict(context.invocation_metadata() or ())
        request_id = request_id_of(shown.get(REQUEST_ID_KEY), shown.get(TRACEPARENT_KEY))
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        framed = self._frame.call(
            GRPC, method, request_id, peer=_peer(context), turn=_turn.get(), seconds_left=context.time_remaining
        )
        try:
            async with framed as call:
                return await _answered(call, context, answer)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error, request_id)


def _peer(context: Any) -> str:
    """Its address; of a unix socket gRPC tells nothing about who is at the other end."""
    address = str(context.peer())
    return "local" if address.startswith("unix:") else address


async def _answered(call: FramedCall, context: Any, answer: Answer) -> Any:
    """What `answer` returns. What only gRPC raises is told to the frame in its own terms."""
    try:
        return await answer(call)
    except grpc.aio.AbortError:
        # A servicer of a library has ended the call by itself.
        call.code = _number(context.code())
        raise
    except grpc.aio.InternalError as gone:
        # A write found the connection gone: the client gave the call up, and nothing failed here.
        raise asyncio.CancelledError from gone
    except NotImplementedError as error:
        raise MethodUnimplemented(f"/{call.method.path}") from error


async def _abort(context: Any, error: Exception, request_id: str) -> None:
    """End the RPC with the error's status. Always raises."""
    status = status_of(error, request_id)
    trailing = ((_DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, request_id))
    try:
        await context.abort(_CODES[status.code], status.message, trailing_metadata=trailing)
    except grpc.aio.InternalError as gone:
        # The connection went away under the answer; gRPC would report that as a failure of the handler.
        raise asyncio.CancelledError from gone


async def _each_received(call: FramedCall, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _received(call, request)


def _received(call: FramedCall, request: Any) -> Any:
    call.received()
    if isinstance(request, calls.Refused):
        raise request.error
    return request


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


def _number(code: Any) -> int:
    """The number of a status code, as grpc.aio tells it before and after an abort."""
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)
