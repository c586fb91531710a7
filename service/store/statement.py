"""Statements that run all the time: compiled once for each kind of database, and run on the driver's own cursor.

SQLAlchemy Core makes the SQL and knows the types. Running one by it costs ten times what SQLite needs for a row (65 us
and 7 us, measured), so what every claim and every change of a group runs is run without it. Errors are Core's own.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    Insert,
    SelectBase,
    Text,
    TypeDecorator,
    Update,
    bindparam,
    exc,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
_Process = Callable[[Any], Any]


class Statement:
    """One statement. `names`: what an INSERT or UPDATE is given values of when it runs."""

    def __init__(self, core: SelectBase | Insert | Update | Delete, names: Iterable[str] = ()) -> None:
        self.core = core
        self._names = tuple(names) or None
        self._forms: dict[str, _Form] = {}

    def all(self, connection: Connection, values: Values = {}) -> list[Any]:  # noqa: B006  # never changed
        """All rows, as named tuples."""
        form = self._form(connection)
        found = _run(connection, *form.ready(values)).fetchall()
        return list(map(form.row if form.results else form.make, found))

    def first(self, connection: Connection, values: Values = {}) -> Any:  # noqa: B006
        """The one row there is at most, or None."""
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def scalar(self, connection: Connection, values: Values = {}) -> Any:  # noqa: B006
        """The first column of the one row there is at most, or None."""
        rows = self.all(connection, values)
        return rows[0][0] if rows else None

    def scalars(self, connection: Connection, values: Values = {}) -> list[Any]:  # noqa: B006
        """The first column of all rows."""
        return [row[0] for row in self.all(connection, values)]

    def run(self, connection: Connection, values: Values = {}) -> int:  # noqa: B006
        """How many rows it touched."""
        return int(_run(connection, *self._form(connection).ready(values)).rowcount)

    def many(self, connection: Connection, rows: Sequence[Values]) -> int:
        """Once for each of the rows, in their order and in one call of the driver; how many rows it touched in all."""
        if not rows:
            return 0
        form = self._form(connection)
        return int(_run(connection, form.sql, [form.bound(row) for row in rows], many=True).rowcount)

    def _form(self, connection: Connection) -> _Form:
        dialect = connection.dialect
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = _compiled(self.core, self._names, dialect)
        return form


class _Form(NamedTuple):
    """A statement as one driver takes it. `order`: its parameters, where it takes them by their place; `fixed`: those
    that are always the same; `binds`, `results`: what is done to a value on its way, for those that need it."""

    sql: str
    order: tuple[str, ...] | None
    fixed: Mapping[str, Any]
    binds: tuple[tuple[str, _Process], ...]
    results: tuple[tuple[int, _Process], ...]
    make: Callable[[Iterable[Any]], Any]
    several: frozenset[str]
    texts: dict[tuple[int, ...], str]

    def ready(self, values: Values) -> tuple[str, Any]:
        """The SQL and what the driver is given with it."""
        bound = self.bound(values)
        if not self.several or self.order is None:
            return self.sql, bound
        flat: list[Any] = []
        sizes: list[int] = []
        for name, value in zip(self.order, bound, strict=True):
            given = _padded(value) if name in self.several else [value]
            if name in self.several:
                sizes.append(len(given))
            flat += given
        return self._text(tuple(sizes)), flat

    def _text(self, sizes: tuple[int, ...]) -> str:
        """The SQL for so many values in each place that takes several."""
        known = self.texts.get(sizes)
        if known is None:
            known = self.sql
            for size in sizes:
                known = known.replace(_PLACE, ", ".join("?" * size), 1)
            self.texts[sizes] = known
        return known

    def bound(self, values: Values) -> Any:
        """What the driver is given."""
        whole = {**self.fixed, **values}
        for name, process in self.binds:
            whole[name] = process(whole[name])
        return whole if self.order is None else [whole[name] for name in self.order]

    def row(self, found: Iterable[Any]) -> Any:
        """A row of the driver's, as one that Core would make."""
        columns = list(found)
        for place, process in self.results:
            columns[place] = process(columns[place])
        return self.make(columns)


_PLACE = "?/*several*/"


def _padded(values: Sequence[Any]) -> list[Any]:
    """As many as the next power of two, by the last one again, so that a statement has few texts; for none, nothing."""
    padded = list(values) or [None]
    size = 1 << (len(padded) - 1).bit_length()
    return padded + padded[-1:] * (size - len(padded))


def _compiled(core: Any, names: tuple[str, ...] | None, dialect: Dialect) -> _Form:
    made: Any = core.compile(dialect=dialect, column_keys=None if names is None else list(names))
    if made.insert_prefetch or made.update_prefetch:
        raise TypeError("a column has a default that Python would have to give: name it")
    if "POSTCOMPILE" in str(made):
        raise TypeError("a list would be written out when it runs: use `among`, or compare with each")
    columns = list(core.exported_columns) if isinstance(core, SelectBase) else list(getattr(core, "_returning", ()))
    # By the names that they have in the SQL: those without one of their own are listed in `binds` by another.
    named = [(name, bind) for bind, name in made.bind_names.items()]
    binds = ((name, _impl(bind.type, dialect).bind_processor(dialect)) for name, bind in named)
    results = (
        (place, _impl(column.type, dialect).result_processor(dialect, None)) for place, column in enumerate(columns)
    )
    needed = {name for name, bind in named if bind.required}
    return _Form(
        str(made),
        None if made.positiontup is None else tuple(made.positiontup),
        {name: value for name, value in made.params.items() if name not in needed},
        tuple((name, process) for name, process in binds if process is not None),
        tuple((place, process) for place, process in results if process is not None),
        namedtuple("Row", [str(column.key) for column in columns], rename=True)._make,  # type: ignore[attr-defined]
        frozenset(name for name, bind in named if isinstance(bind.type, _Several)),
        {},
    )


def _impl(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    return kind.dialect_impl(dialect)


def _run(connection: Connection, sql: str, values: Any, *, many: bool = False) -> Any:
    """The driver's cursor after the statement. Raises DBAPIError."""
    if not connection.in_transaction():
        connection.begin()
    driver: Any = connection.connection.dbapi_connection
    try:
        if not many:
            return driver.execute(sql, values)
        cursor = driver.cursor()
        cursor.executemany(sql, values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_of_core(connection, sql, error) from error
    return cursor


def _as_of_core(connection: Connection, sql: str, error: Any) -> Exception:
    dialect: Any = connection.dialect
    gone = bool(dialect.is_disconnect(error, connection.connection.dbapi_connection, None))
    if gone:
        connection.invalidate(error)
    made: Exception = exc.DBAPIError.instance(
        sql,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=gone,
        dialect=dialect,
    )
    return made


class _Several(TypeDecorator[Sequence[str]]):
    """Texts as one parameter: an array of PostgreSQL's, and on SQLite as many parameters as there are texts."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return ARRAY(Text()) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return list(value)


class _Among(ColumnElement[bool]):
    # Of no type: SQLAlchemy would compare a boolean one with 1 on SQLite, which then reads the whole table.
    inherit_cache = False

    def __init__(self, column: ColumnElement[str], name: str) -> None:
        self.column, self.bind = column, bindparam(name, type_=_Several())


@compiles(_Among)
def _on_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, bind = compiler.process(element.column, **options), compiler.process(element.bind, **options)
    return f"{column} IN ({bind}/*several*/)"


@compiles(_Among, "postgresql")
def _on_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, bind = compiler.process(element.column, **options), compiler.process(element.bind, **options)
    return f"{column} = ANY({bind})"


def among(column: Column[str], name: str) -> ColumnElement[bool]:
    """That the column is one of the texts that the parameter `name` has: one statement, however many they are."""
    return _Among(column, name)
