"""Runs a native search on a thread, so that the caller's stop is heard within milliseconds.

The native solvers release the interpreter while they search.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from placement.stop import Stop

T = TypeVar("T")
POLL_SECONDS = 0.005
GRACE_POLLS = 4
"""CP-SAT takes 30 to 120 ms to end a search that it was told to end, most of them for taking its model apart; nobody
waits for that longer than so many polls."""


def run_until(
    search: Callable[[], T], interrupt: Callable[[], object], stop: Stop, instead: Callable[[], T] | None = None
) -> T:
    """The result of ``search``, run beside a poll of ``stop`` that calls ``interrupt`` while it is true.

    ``instead``: what is returned for a search that is slow to end; it then ends by itself, beside the caller. Without,
    the end is waited for.
    """
    done = threading.Event()
    box: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            box.append(search())
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="placement-search", daemon=True)
    thread.start()
    heard = 0
    while not done.wait(POLL_SECONDS):
        if stop():
            interrupt()
            heard += 1
        if instead is not None and heard > GRACE_POLLS:
            threading.Thread(target=_end, args=(thread, interrupt), name="placement-ending").start()
            return instead()
    thread.join()
    if failure:
        raise failure[0]
    return box[0]


def _end(thread: threading.Thread, interrupt: Callable[[], object]) -> None:
    """Sees a search to its end. The interpreter waits for this thread before it takes the native library apart."""
    while thread.is_alive():
        interrupt()
        thread.join(POLL_SECONDS)
