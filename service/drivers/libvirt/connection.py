"""Connections to one host and calls over them: a sick host costs its own callers their deadlines and nothing else.

libvirt has no timeout for a call, and `open` to a hung daemon never returns. So every call runs in a thread of its own
that can be given up: the caller goes on at its deadline, the thread ends when libvirt lets it, and its connection is
not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from service.drivers.base import DriverError, HostUnreachable, OutcomeUnknown
from service.drivers.libvirt.errors import Abandoned, connection_lost, describe, translate, translate_open
from service.drivers.libvirt.event_loop import ensure_event_loop

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
Opener = Callable[[str], Any]

# More would not make a host faster: starting a machine is QEMU's and the kernel's time.
CALLS_AT_A_TIME = 4
# Threads in calls for which nobody waits any more. With this many the host gets no further calls until some end.
GIVEN_UP_LIMIT = 12
# A daemon that takes connections and does not answer is as good as down, however long a caller would wait.
OPEN_SECONDS = 10.0
KEEPALIVE_SECONDS = 2
KEEPALIVE_COUNT = 3


class Work:
    """What a running call knows about its caller: whether it still waits, and for how long."""

    def __init__(self, budget_seconds: float) -> None:
        self.ends = time.monotonic() + budget_seconds
        self._given_up = threading.Event()

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.ends - time.monotonic())

    def give_up(self) -> None:
        """The caller is gone."""
        self._given_up.set()

    def check(self) -> None:
        """To call before each step that has an effect. Raises Abandoned when nobody waits any more."""
        if self._given_up.is_set() or self.remaining == 0:
            raise Abandoned

    def pause(self, seconds: float) -> None:
        """Sleeps that long at most. Raises Abandoned when the caller goes meanwhile."""
        self._given_up.wait(min(seconds, self.remaining))
        self.check()


class Session:
    """One open connection. Closed once it is retired and its call has ended.

    `release` undoes what `Lane.prepare` registered: libvirt keeps a connection open while callbacks refer to it.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.release: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._in_call = False
        self._retired = False

    @property
    def retired(self) -> bool:
        """No new calls."""
        return self._retired

    @property
    def usable(self) -> bool:
        """Not retired, and not known to be broken. Asks nobody."""
        if self._retired:
            return False
        try:
            return bool(self.connection.isAlive())
        except libvirt.libvirtError:
            return False

    def enter(self) -> None:
        """A call begins."""
        with self._lock:
            self._in_call = True

    def leave(self) -> None:
        """The call has ended, in whatever way. May close the connection."""
        with self._lock:
            self._in_call = False
            last = self._retired
        if last:
            self._close()

    def retire(self) -> bool:
        """No new calls. True when nobody is in one, so that the caller has to `close_now`, off the event loop."""
        with self._lock:
            first, self._retired = not self._retired, True
            return first and not self._in_call

    def close_now(self) -> None:
        """Closes a retired session that nobody is in."""
        self._close()

    def _close(self) -> None:
        try:
            self.release()
            with contextlib.suppress(libvirt.libvirtError):
                self.connection.unregisterCloseCallback()
            self.connection.close()
        except libvirt.libvirtError as error:
            _log.debug("closing a connection: %s", describe(error))


class Lane:
    """Connections to one host for up to `calls_at_a_time` calls, opened as they are needed and kept.

    Each connection serves one call at a time. libvirt 9's client was seen to crash, or to notice a dead daemon after
    38 s instead of 8, when two threads waited in calls on the same connection while its keepalive ran out.

    `check` is called with each new connection and raises DriverError for one that is not to be used.
    `prepare` is called with each new connection in the opening thread and returns what undoes it; `closed` is called on
    the event loop when a connection broke.
    """

    def __init__(
        self,
        uri: str,
        *,
        calls_at_a_time: int = CALLS_AT_A_TIME,
        prepare: Callable[[Any], Callable[[], None]] | None = None,
        closed: Callable[[], None] | None = None,
        check: Callable[[Any], None] | None = None,
        opener: Opener = libvirt.open,
    ) -> None:
        self._uri = uri
        self._opener = opener
        self._prepare = prepare
        self._closed = closed
        self._check = check
        self._slots = asyncio.Semaphore(calls_at_a_time)
        self._idle: list[Session] = []
        self._opening: asyncio.Task[None] | None = None
        self._given_up = 0
        self._count = threading.Lock()
        self._shut = False

    async def call(
        self, function: Callable[[Work, Any], Result], *, budget_seconds: float, has_effect: bool, what: str
    ) -> Result:
        """Runs `function(work, connection)` in a thread and returns what it returns.

        Raises what the function raises, libvirt's errors translated; HostUnreachable when no connection could be had;
        at the deadline OutcomeUnknown, or HostUnreachable for a call without effect. `what` names the call for logs.
        """
        work = Work(budget_seconds)
        if self._given_up >= GIVEN_UP_LIMIT:
            raise HostUnreachable("the host does not finish its calls", f"{self._given_up} calls are still waited for")
        try:
            async with asyncio.timeout(budget_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise HostUnreachable("the host is busy", f"no free call for {what}") from None
        try:
            session = await self._connected(work)
            return await self._run(session, work, function, has_effect, what)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Lets the connections go. Calls that run keep theirs until they end."""
        self._shut = True
        if self._opening is not None:
            self._opening.cancel()
        while self._idle:
            self._retire(self._idle.pop())

    # --- opening -----------------------------------------------------------------------------------------------------

    async def _connected(self, work: Work) -> Session:
        """A session that nobody else uses until it is given back."""
        while True:
            if self._shut:
                raise HostUnreachable("the driver is closed")
            while self._idle:
                session = self._idle.pop()
                if session.usable:
                    return session
                self._broken(session)  # noticed before libvirt told
            # One open at a time: a daemon that hangs would otherwise hold a thread for each call.
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(_note_failed_open)
            try:
                async with asyncio.timeout(min(work.remaining, OPEN_SECONDS)):
                    await asyncio.shield(self._opening)
            except TimeoutError:
                raise HostUnreachable("the host's hypervisor does not answer", "open did not return in time") from None

    async def _open(self) -> None:
        """Open one more session, and give it out before this task ends: a waiter that finds the task ended and no
        session would loop for ever and keep the event loop to itself."""
        loop = asyncio.get_running_loop()
        try:
            session = await in_thread(lambda: self._open_blocking(loop), "libvirt-open")
        finally:
            self._opening = None
        self._give_back(session)

    def _open_blocking(self, loop: asyncio.AbstractEventLoop) -> Session:
        ensure_event_loop()
        try:
            connection = self._opener(self._uri)
        except libvirt.libvirtError as error:
            raise translate_open(error) from error
        session = Session(connection)

        def on_close(_connection: Any, _reason: int, _opaque: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the connection
                loop.call_soon_threadsafe(self._broken, session)

        try:
            with contextlib.suppress(libvirt.libvirtError):  # the test driver has no wire to keep alive
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            with contextlib.suppress(libvirt.libvirtError):  # nor one that could break
                connection.registerCloseCallback(on_close, None)
            if self._check is not None:
                self._check(connection)
            if self._prepare is not None:
                session.release = self._prepare(connection)
        except DriverError:
            session.close_now()
            raise
        except libvirt.libvirtError as error:
            session.close_now()
            raise translate_open(error) from error
        return session

    def _give_back(self, session: Session) -> None:
        if self._shut:
            self._retire(session)
        elif session.usable:
            self._idle.append(session)
        else:
            self._broken(session)

    def _broken(self, session: Session) -> None:
        """May be called more than once for a session; tells of it once."""
        if session in self._idle:
            self._idle.remove(session)
        if not session.retired and self._closed is not None and not self._shut:
            self._closed()
        self._retire(session)

    def _retire(self, session: Session) -> None:
        if session.retire():
            # Closing asks the other side, which may be the one that hangs.
            threading.Thread(target=session.close_now, name="libvirt-close", daemon=True).start()

    # --- calling -----------------------------------------------------------------------------------------------------

    async def _run(
        self, session: Session, work: Work, function: Callable[[Work, Any], Result], has_effect: bool, what: str
    ) -> Result:
        ended = threading.Event()
        given_up: list[bool] = []

        def blocking() -> Result:
            try:
                work.check()
                return function(work, session.connection)
            finally:
                session.leave()
                with self._count:
                    ended.set()
                    if given_up:
                        self._given_up -= 1

        session.enter()
        running = asyncio.ensure_future(in_thread(blocking, f"libvirt {what}"))
        try:
            done, _ = await asyncio.wait({running}, timeout=work.remaining)
            if done:
                return running.result()
        except libvirt.libvirtError as error:
            if connection_lost(error):
                self._broken(session)
            raise translate(error, has_effect=has_effect) from error
        except Abandoned:
            pass  # it noticed its deadline itself
        finally:
            work.give_up()
            with self._count:
                if not ended.is_set():
                    given_up.append(True)
                    self._given_up += 1
            if given_up:
                running.add_done_callback(_note_late_end)
                self._broken(session)  # or as good as broken: nobody may use it while that call goes on
            else:
                self._give_back(session)
        raise self._too_late(has_effect, what)

    def _too_late(self, has_effect: bool, what: str) -> DriverError:
        if has_effect:
            return OutcomeUnknown("the host did not finish the operation in time", f"{what}: deadline")
        return HostUnreachable("the host did not answer in time", f"{what}: deadline")


def _note_failed_open(task: asyncio.Task[None]) -> None:
    """Take note of the error: whoever waited has been told, and asyncio would complain where nobody did."""
    if not task.cancelled() and task.exception() is not None:
        _log.debug("a connection could not be opened: %r", task.exception())


def _note_late_end(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.debug("a call that was given up has ended: %r", task.exception())


async def in_thread(function: Callable[[], Result], name: str) -> Result:
    """Runs a function in a new daemon thread. Cancelling the wait does not stop the thread; its result is dropped."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def deliver(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            result = function()
        except BaseException as error:
            outcome = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
