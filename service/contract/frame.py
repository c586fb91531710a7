"""The one frame around every call, by whichever face it comes: gRPC, JSON, ZStack's protocols.

Before the call: limits, its turn, identity, rate and role. During it: its request id in every log line. At its end: one
log line and the metrics. A face tells what it knows of a call, answers it inside `CallFrame.call`, and renders the
error that comes out of it. The request id is the server's name of the call: the caller's `x-request-id` where it has
sent one. It is in the answer, in the log line and, as part of the `Caller`, in the audit rows of what the call changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from google.rpc import code_pb2

from service.app.identity import OPEN, require
from service.app.rates import Admit, unlimited
from service.contract.call import set_caller
from service.contract.status import code_of, is_expected
from service.contract.turns import Turn, Turns
from service.domain.tenants import NOBODY, Caller
from service.errors import CorralError, Overloaded, PermissionDenied, Unavailable
from service.telemetry import logs, traces
from service.telemetry.call_metrics import JOB, CallMetrics
from service.telemetry.grpc_metrics import Method
from service.telemetry.logs import get_logger

Identify = Callable[[], Awaitable[Caller]]
"""Finds out who makes the call. Raises Unauthenticated, Unavailable."""

HEALTH = "grpc.health.v1.Health"
"""Load balancers ask it, and must get an answer exactly when the service is busy: it waits for no turn."""
_UNLIMITED = f"{HEALTH}/Check"
_QUIET_SERVICES = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
_DEADLINE_TOLERANCE_SECONDS = 0.05
_NAMES = {number: name for name, number in code_pb2.Code.items()}

_log = get_logger("corral.calls")


class CallerLeft(Exception):
    """The caller closed its connection before it had its answer: the call is given up, and there is nobody to tell."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How much is served at a time. `max_message_bytes`: of one request. `max_waiting`: calls that have not begun.

    `max_unary`, `max_streams`: calls in progress, of all faces together. `max_connections`: of the gRPC listener; one
    more is closed as soon as it comes.
    """

    max_message_bytes: int = 4 << 20
    max_unary: int = 1024
    max_streams: int = 8192
    max_waiting: int = 8192
    max_connections: int = 4096


@dataclass(slots=True, eq=False)
class FramedCall:
    """One call in progress. `method` may be told late, by a face that reads it from the body; `quiet`: its log line is
    for debugging alone; `code`: how it ends, which a face sets where it answers an error by itself."""

    _frame: CallFrame
    face: str
    method: Method
    request_id: str
    peer: str
    turn: Turn | None
    seconds_left: Callable[[], float | None]
    quiet: bool = False
    caller: Caller = NOBODY
    code: int = code_pb2.OK
    sent: int = 0
    _task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    _ending: CorralError | CallerLeft | None = None
    _started: float = field(default_factory=time.perf_counter)

    async def permit(self, identify: Identify, role: str | None) -> Caller:
        """Wait for the call's turn and find out who makes it and whether they may, before the request is looked at.

        `role`: the least role that may call the method, OPEN for everybody, None for nobody. Returns the caller, who
        is `current_caller()` from here on.
        Raises Overloaded, Unauthenticated, RateLimited, PermissionDenied, Unavailable.
        """
        if self.turn is None and self.method.service != HEALTH:
            self.turn = await self._frame.turn()
        if role == OPEN:
            return self._known(NOBODY)
        caller = await identify()
        self.caller = caller  # so that the log line of a refusal names the caller
        self._frame.admit(caller)
        if role is None:
            raise PermissionDenied(f"nobody may call {self.method.path}")
        require(caller, role, self.method.path)
        return self._known(caller)

    def _known(self, caller: Caller) -> Caller:
        self.caller = replace(caller, request_id=self.request_id, peer=self.peer or caller.peer)
        set_caller(self.caller)
        return self.caller

    def received(self) -> None:
        """Count a message of the caller's."""
        self._frame.metrics.received(self.face, self.method)

    def begun(self) -> None:
        """The call has its first answer, and the next call may begin: a caller that does not read delays nobody."""
        if self.turn is not None:
            self.turn.end()

    def count_sent(self) -> None:
        """Count a message to the caller."""
        self.sent += 1
        self._frame.metrics.sent(self.face, self.method)

    def failed(self, error: BaseException) -> None:
        """The call ends with the error. One that no use case promises to raise is a bug, logged with its traceback."""
        if self.code != code_pb2.OK:
            return
        if isinstance(error, CallerLeft):
            self.code = code_pb2.CANCELLED
            return
        self.code = code_of(error)
        if not is_expected(error):
            _log.error("a handler failed", face=self.face, method=self.method.path, exc_info=error)

    def end_with(self, error: CorralError | CallerLeft) -> None:
        """Break the call off with an error, from outside of its task. Does nothing to a call that has ended."""
        if self._task is not None and self._ending is None:
            self._ending = error
            self._task.cancel()

    def _cancelled(self) -> CorralError | CallerLeft | None:
        """What a cancellation means: the error of `end_with`, or None where the caller left or its deadline passed."""
        if self._ending is not None and self._task is not None:
            self._task.uncancel()
            self.failed(self._ending)
            return self._ending
        remaining = self.seconds_left()
        # A client resets the stream at its own deadline, which can arrive before ours has passed.
        expired = remaining is not None and remaining <= _DEADLINE_TOLERANCE_SECONDS
        if self.code == code_pb2.OK:
            self.code = code_pb2.DEADLINE_EXCEEDED if expired else code_pb2.CANCELLED
        return None

    def _ended(self) -> None:
        self._task = None
        if self.face == JOB and self.code in (code_pb2.UNAVAILABLE, code_pb2.CANCELLED):
            return  # it is taken up again, by this process or another
        seconds = time.perf_counter() - self._started
        code = _NAMES[self.code]
        self._frame.metrics.ended(self.face, self.method, code, seconds)
        quiet = self.quiet or self.method.service.startswith(_QUIET_SERVICES)
        tell = _log.debug if quiet and self.code != code_pb2.INTERNAL else _log.info
        tell(
            "call",
            face=self.face,
            method=self.method.path,
            code=code,
            milliseconds=round(seconds * 1000, 1),
            messages=self.sent,
            principal=self.caller.principal,
            peer=self.peer,
        )


def _no_deadline() -> float | None:
    return None


def named(request_id: str) -> AbstractContextManager[None]:
    """In every log line inside stands which call and which trace it belongs to."""
    return logs.about(request_id=request_id, trace_id=traces.trace_id(request_id))


def _span(method: Method, request_id: str) -> AbstractContextManager[None]:
    quiet = method.service.startswith(_QUIET_SERVICES)
    return nullcontext() if quiet else traces.call(method.path, request_id)


class CallFrame:
    """Frames the calls of all faces, which share its limits and turns."""

    def __init__(self, metrics: CallMetrics, limits: CallLimits | None = None, admit: Admit = unlimited) -> None:
        self.metrics = metrics
        self.limits = limits or CallLimits()
        self.admit = admit
        self._turns = Turns(self.limits.max_waiting)
        self._active = {False: 0, True: 0}
        self._streams: set[FramedCall] = set()

    def beside(self) -> CallFrame:
        """A frame with limits and turns of its own, for a listener that must answer while this one's are used up."""
        return CallFrame(self.metrics, self.limits, self.admit)

    async def turn(self) -> Turn:
        """Wait for a turn to begin a call. Raises Overloaded where too many wait already."""
        return await self._turns.take()

    @asynccontextmanager
    async def call(
        self,
        face: str,
        method: Method,
        request_id: str,
        *,
        peer: str = "",
        turn: Turn | None = None,
        seconds_left: Callable[[], float | None] = _no_deadline,
    ) -> AsyncIterator[FramedCall]:
        """One call, from its arrival to the last byte of its answer; `permit` must come before anything is done.

        `turn`: where it was waited for already. `seconds_left`: until the caller's deadline.
        Raises Overloaded where too much is in progress, and whatever is raised inside.
        """
        call = FramedCall(self, face, method, request_id, peer, turn, seconds_left)
        streaming = method.streams
        self.metrics.started(face, method)
        self._active[streaming] += 1
        with named(request_id), _span(method, request_id):
            try:
                if streaming:
                    self._streams.add(call)
                self._refuse_too_many(method, streaming)
                yield call
            except asyncio.CancelledError:
                ending = call._cancelled()
                if ending is None:
                    raise
                raise ending from None
            except Exception as error:
                call.failed(error)
                raise
            finally:
                call.begun()
                self._active[streaming] -= 1
                self._streams.discard(call)
                call._ended()

    @asynccontextmanager
    async def job(self, method: Method, request_id: str, caller: Caller) -> AsyncIterator[FramedCall]:
        """The work of a call that was permitted and acknowledged before. `request_id`: that call's.

        Where the work is to be tried again, this end is neither logged nor counted.
        """
        call = FramedCall(self, JOB, method, request_id, caller.peer, None, _no_deadline)
        call._known(caller)
        with named(request_id), traces.continued(request_id), traces.span(f"job {method.path}"):
            try:
                yield call
            except asyncio.CancelledError:
                call.code = code_pb2.CANCELLED
                raise
            except Exception as error:
                call.failed(error)
                raise
            finally:
                call._ended()

    def end_streams(self) -> None:
        """End every open stream with Unavailable and a hint when to come back. Must run on the event loop."""
        for call in tuple(self._streams):
            call.end_with(Unavailable("the service is shutting down; watch again from the last revision"))

    def _refuse_too_many(self, method: Method, streaming: bool) -> None:
        limit = self.limits.max_streams if streaming else self.limits.max_unary
        if self._active[streaming] > limit and method.path != _UNLIMITED:
            raise Overloaded(f"{limit} {'streams' if streaming else 'calls'} are in progress already")
