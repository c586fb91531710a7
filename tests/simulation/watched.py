"""A connection that knows which tables were changed, and when, so that what has not changed is not read again.

SQLite tells that of a whole database. May not import anything of the service: the observer reads by it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Any

_WORD = re.compile(r"\w+")
_WRITES = re.compile(
    r'(?:INSERT(?: OR \w+)? INTO|REPLACE INTO|UPDATE(?: OR \w+)?|DELETE FROM)\s+"?(\w+)', re.IGNORECASE
)
_READS = ("SELECT", "BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "PRAGMA")
_TRIGGER = re.compile(r"\bON (\w+)\b")
_CHANGES = re.compile(r"\b(?:INSERT INTO|DELETE FROM|UPDATE(?! SET| OF)) (\w+)")


class WatchedConnection(sqlite3.Connection):
    """Every statement of its cursors counts for the tables that it names. One that ends badly counts too."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.tick = 0
        self._changed: dict[str, int] = {}
        self._all = 0
        self._tables: dict[str, frozenset[str]] = {}
        self._written: dict[str, tuple[str, ...] | None] = {}
        self._known: frozenset[str] = frozenset()
        self._noted: dict[str, tuple[str, ...]] = {}
        self.unwatched = sqlite3.Cursor(self)
        self.reading: set[str] | None = None
        """Where somebody wants to know it: the tables that statements name from now on."""

    def know(self) -> None:
        """Read which tables there are, and which others a change of each changes by a trigger."""
        rows = self.unwatched.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        self._known = frozenset(name for kind, name, _ in rows if kind == "table")
        for sql in (sql for kind, _, sql in rows if kind == "trigger"):
            head, _, body = sql.partition("BEGIN")
            found, changed = _TRIGGER.search(head), _CHANGES.findall(body)
            if found is None or not changed:
                raise ValueError(f"a trigger that changes what nobody knows: {sql}")
            self._noted[found[1]] = (*self._noted.get(found[1], ()), *changed)
        self._tables.clear()
        self._written.clear()

    def cursor(self, factory: Any = None) -> Any:
        """See sqlite3.Connection."""
        return super().cursor(factory or _WatchedCursor)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """See sqlite3.Connection, whose own makes no use of `cursor`."""
        self.note(sql)
        return super().execute(sql, parameters)

    def everything_changed(self) -> None:
        """The database is another one, or a transaction was undone."""
        self.tick += 1
        self._all = self.tick

    def tables_of(self, sql: str) -> frozenset[str]:
        """The tables that a statement names."""
        found = self._tables.get(sql)
        if found is None:
            found = self._tables[sql] = self._known.intersection(_WORD.findall(sql))
        return found

    def is_since(self, tables: Iterable[str], tick: int) -> bool:
        """Whether one of these has changed since `tick`."""
        if self._all > tick:
            return True
        changed = self._changed
        return any(changed.get(table, 0) > tick for table in tables)

    def note(self, sql: str) -> None:
        """A statement is about to run."""
        try:
            written = self._written[sql]
        except KeyError:
            written = self._written[sql] = self._writes(sql)
        if written is None:
            self.everything_changed()
        elif written:
            self.tick += 1
            for table in written:
                self._changed[table] = self.tick
        if self.reading is not None:
            self.reading |= self.tables_of(sql)

    def _writes(self, sql: str) -> tuple[str, ...] | None:
        """The tables that a statement changes; None: it may be any."""
        text = sql.lstrip()
        if text.upper().startswith(_READS):
            return ()
        found = _WRITES.match(text)
        return None if found is None else (found[1], *self._noted.get(found[1], ()))


class _WatchedCursor(sqlite3.Cursor):
    connection: WatchedConnection

    def execute(self, sql: str, parameters: Any = ()) -> _WatchedCursor:
        """See sqlite3.Cursor."""
        self.connection.note(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> _WatchedCursor:
        """See sqlite3.Cursor."""
        self.connection.note(sql)
        return super().executemany(sql, parameters)
