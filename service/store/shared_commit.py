"""Group commit: what waits to be written at the same time shares one transaction of SQLite's one writer, and its fsync
(ARCHITECTURE mechanism 16).

Each unit has a savepoint, so that what it raises undoes its own work alone. Nobody is answered before the commit. Where
that fails nobody knows whether it happened, and each unit ends with Unavailable, also one that was refused: its refusal
may stand on what was not kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, exc

from service.errors import Unavailable
from service.store import sqlite_file, transaction
from service.store.transaction import T, Work

MOST_UNITS = 64
MOST_SECONDS = 0.05
"""Nobody waits longer than this for units that came after his own; one unit alone may take longer."""


@dataclass(slots=True)
class _Unit:
    """One caller's work; `result` and `error` are how it ended in a transaction that may yet fail."""

    work: Work[Any]
    done: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None

    def answer(self) -> None:
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(self.error)


class SharedCommit:
    """Runs units in the order in which they come, on the one thread of `executor`."""

    def __init__(self, engine: Engine, executor: Executor) -> None:
        self._engine = engine
        self._executor = executor
        self._guard = threading.Lock()
        self._waiting: deque[_Unit] = deque()
        self._is_led = False

    def run(self, work: Work[T]) -> asyncio.Future[T]:
        """`work`'s result once it is committed; cancelling it changes nothing. Raises what `work` raises, or
        Unavailable. `work` may run more than once, and must touch nothing but its connection."""
        unit = _Unit(work)
        unit.done.set_running_or_notify_cancel()  # from here on nobody cancels it
        with self._guard:
            self._waiting.append(unit)
            begins, self._is_led = not self._is_led, True
        if begins:
            self._executor.submit(self._lead)
        return asyncio.wrap_future(unit.done)

    def _lead(self) -> None:
        """Until nobody waits any more."""
        while units := self._next():
            rest = units
            try:
                while rest:
                    rest = self._commit(rest)
            except BaseException as error:  # nobody may be left to wait for ever
                for unit in rest:
                    if not unit.done.done():
                        unit.done.set_exception(error)

    def _next(self) -> list[_Unit]:
        with self._guard:
            units = [self._waiting.popleft() for _ in range(min(MOST_UNITS, len(self._waiting)))]
            self._is_led = bool(units)
            return units

    def _commit(self, units: list[_Unit]) -> list[_Unit]:
        """Commit some of the units, in their order, and answer them; what is left of them."""
        if len(units) == 1:
            _alone(self._engine, units[0])
            return []
        try:
            count = _together(self._engine, units)
        except _NotTogether:
            # The database itself had trouble under one of them, and nothing of any was kept: each for itself.
            for unit in units:
                _alone(self._engine, unit)
            return []
        except exc.DBAPIError as error:
            told = transaction.unavailable(error).message
            for unit in units:
                unit.done.set_exception(Unavailable(told))
            return []
        for unit in units[:count]:
            unit.answer()
        return units[count:]


class _NotTogether(Exception):
    """A transaction of several units was given up before its commit."""


def _alone(engine: Engine, unit: _Unit) -> None:
    try:
        result = transaction.run(engine, unit.work)
    except Exception as error:
        unit.done.set_exception(error)
    else:
        unit.done.set_result(result)


def _together(engine: Engine, units: list[_Unit]) -> int:
    """Run units in one transaction and commit it; how many, because time may be up before the last.

    Raises _NotTogether where it did not come to the commit, DBAPIError where that failed.
    """
    until = time.monotonic() + MOST_SECONDS

    def all_of_them(connection: Connection) -> int:
        for count, unit in enumerate(units, 1):
            try:
                _in_savepoint(connection, unit)
            except exc.DBAPIError as error:
                raise _NotTogether from error
            if time.monotonic() >= until:
                return count
        return len(units)

    with engine.connect() as connection:
        try:
            return transaction.within(connection, lambda: all_of_them(connection))
        except exc.DBAPIError as error:
            if transaction.is_of_the_commit(error):
                raise
            raise _NotTogether from error


def _in_savepoint(connection: Connection, unit: _Unit) -> None:
    """Run the unit, and keep how it ended. Raises DBAPIError where the whole transaction is spoilt."""
    sqlite_file.directly(connection, "SAVEPOINT unit")
    unit.result = unit.error = None
    try:
        unit.result = transaction.done(connection, unit.work)
    except exc.DBAPIError as error:
        if not isinstance(error, transaction.OF_THE_WORK):
            raise
        unit.error = error
    except Exception as error:
        unit.error = error
    if unit.error is not None:
        sqlite_file.directly(connection, "ROLLBACK TO unit")
    sqlite_file.directly(connection, "RELEASE unit")
