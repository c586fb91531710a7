"""An asyncio event loop whose time jumps to the next timer, and processes on it that can be killed and frozen."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any


class Life(Enum):
    """What a process does with its callbacks: runs them, keeps them for later (SIGSTOP), or drops them (SIGKILL)."""

    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Killed(BaseException):
    """Unwinds the callback in which its process was killed; nothing of the process runs after it."""


class Process:
    """All tasks of one incarnation of a replica. Tasks and callbacks belong to it by their context."""

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.replica = name.split(".")[0]
        self.life = Life.RUNNING
        self.frozen_at = 0.0
        self.troubles = 0
        self.started = self.since = loop.time()
        self.held: deque[Any] = deque()
        self.table: dict[str, Callable[[], int]] | None = None
        self._loop = loop
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    @property
    def alive(self) -> bool:
        """Whether it was not killed; a frozen one is alive."""
        return self.life is not Life.DEAD

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine in the process."""
        return self._loop.create_task(work, name=name, context=self.context.copy())

    def kill(self) -> None:
        """As kill -9: no callback of the process runs any more."""
        self.life = Life.DEAD
        self.held.clear()

    def freeze(self) -> None:
        """As SIGSTOP: time goes on, the process does not."""
        if self.life is Life.RUNNING:
            self.life, self.frozen_at = Life.FROZEN, self._loop.time()

    def thaw(self) -> None:
        """As SIGCONT: everything that came meanwhile comes now, in its order."""
        if self.life is Life.FROZEN:
            self.life, self.since = Life.RUNNING, self._loop.time()
            self._loop.ready(self.held)
            self.held.clear()


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
LEASE: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar("lease", default=None)
"""(group, epoch) of the worker in whose context something happens."""


class _NoSelector:
    """Nothing outside the loop can wake it."""

    def close(self) -> None:
        """Nothing to close."""


class Stuck(Exception):
    """No callback is left that could ever run."""


class _Timer(asyncio.TimerHandle):
    """A timer that is made, compared and cancelled at less cost: a run has a hundred a virtual second."""

    __slots__ = ()
    __eq__, __hash__ = object.__eq__, object.__hash__  # never compared by what it calls

    def __init__(
        self, when: float, callback: Callable[..., object], args: Any, loop: Any, context: contextvars.Context | None
    ) -> None:
        # What the base class's would set, without asking the loop whether it is debugged.
        self._when, self._callback, self._args, self._loop = when, callback, args, loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = self._scheduled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        """See asyncio.Handle."""
        self._cancelled = True
        self._callback = self._args = None  # type: ignore[assignment]


class _Soon(asyncio.Handle):
    """A handle that is made at less cost, as _Timer is."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: Any, loop: Any, context: contextvars.Context | None
    ) -> None:
        self._callback, self._args, self._loop = callback, args, loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._repr = self._source_traceback = None


class _Pause(asyncio.Future[None]):
    """Ends by the loop's own hand: nothing is called for it but whoever waits."""

    def __lt__(self, _other: object) -> bool:
        return False

    __gt__ = __lt__  # of what comes at the same time none comes before the other


def _is_off(due: Any) -> bool:
    """Whether nobody waits for a timer or a pause any more."""
    return bool(due.done() if type(due) is _Pause else due._cancelled)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks in a fixed order; time moves only when nothing else can."""

    # What the base class keeps: the callbacks that may run, the timers as a heap, and whether `stop` was called.
    # The timers here are pairs of time and timer, which are compared without Python code.
    _ready: deque[Any]
    _scheduled: list[Any]
    _stopping: bool
    get_debug = staticmethod(bool)  # never: asked for each future and each callback

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self._present = 1_000.0
        self.processes_tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)
        self.slow_callback_duration = 1e9

    def time(self) -> float:
        """Virtual seconds."""
        return self._present

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio.BaseEventLoop."""
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, timer))
        return timer

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See asyncio.BaseEventLoop, which would ask whether it is closed, and where it was called from."""
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio.BaseEventLoop."""
        return asyncio.Future(loop=self)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio.BaseEventLoop."""
        return self.call_at(self._present + delay, callback, *args, context=context)

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """As asyncio.sleep, at less cost: half of all that happens are messages on their way to the database."""
        pause = _Pause(loop=self)
        heapq.heappush(self._scheduled, (self._present + seconds, pause))
        return pause

    def ready(self, handles: deque[Any]) -> None:
        """Queue callbacks that were held back."""
        self._ready.extend(handles)

    def outside(self, delay: float, callback: Callable[..., object], *args: object) -> None:
        """Call later as nobody's process: the network, a host, the passing of time."""
        self.call_later(delay, callback, *args, context=_NOBODY)

    def _make_task(self, _loop: object, work: Any, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=self, context=context)
        self.processes_tasks.append(task)
        if len(self.processes_tasks) > 2048:
            self.processes_tasks = [t for t in self.processes_tasks if not t.done()]
        return task

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is nobody to wake."""

    def _asyncgen_finalizer_hook(self, agen: object) -> None:
        """A generator of a killed process must not run its clean-up anywhere else."""

    def _run_once(self) -> None:
        """Run what may run, as asyncio.Handle does, until the loop is to stop."""
        ready, running, frozen = self._ready, Life.RUNNING, Life.FROZEN
        while True:
            if not ready:
                self._advance()
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                context = handle._context
                process = context.get(PROCESS)
                if process is not None and process.life is not running:
                    if process.life is frozen:
                        process.held.append(handle)
                    continue
                try:
                    context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # as of a handle, to whoever listens to the loop
                    broken = {"message": "a callback broke", "exception": error, "handle": handle}
                    self.call_exception_handler(broken)
            if self._stopping:
                return

    def _advance(self) -> None:
        scheduled, pop = self._scheduled, heapq.heappop
        while scheduled and _is_off(scheduled[0][1]):
            pop(scheduled)
        if not scheduled:
            if self._stopping:
                return
            raise Stuck
        self._present = present = max(self._present, scheduled[0][0])
        while scheduled and scheduled[0][0] <= present:
            handle = pop(scheduled)[1]
            if type(handle) is _Pause:
                if not handle.done():
                    handle.set_result(None)
            elif not handle._cancelled:
                self._ready.append(handle)

    def bury(self) -> None:
        """Forget every task that is left, without running it; then close the loop."""
        for task in self.processes_tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self.processes_tasks.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.close()


def _close(work: Any) -> None:
    """End a coroutine where it stands. What its clean-up wants to await or to touch exists no more."""
    for _ in range(20):
        try:
            work.close()
        except BaseException:  # noqa: S112  # "ignored GeneratorExit", or a broken clean-up: both are the dead's
            continue
        return


_NOBODY = contextvars.Context()
