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


def run_until(search: Callable[[], T], interrupt: Callable[[], object], stop: Stop) -> T:
    """The result of ``search``, run beside a poll of ``stop`` that calls ``interrupt`` while it is true."""
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
    while not done.wait(POLL_SECONDS):
        if stop():
            interrupt()
    thread.join()
    if failure:
        raise failure[0]
    return box[0]
