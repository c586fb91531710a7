"""Alembic's home: `versions/` changes deployed databases, `upgrade` brings one to the newest.

Alembic is imported where there is something to change alone: it takes a good part of a start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, exc, inspect, text

from service.errors import Unavailable
from service.store import changed_hosts

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = 0x_C0_44_A1_04
"""Key of the advisory lock: one replica changes the schema. `store/engine` and `store/hints` have the others."""
OTHERS_SECONDS = 900
"""How long a replica waits for another one's upgrade. A large database takes minutes."""
_STATEMENT_SECONDS = 600
"""How long one statement of an upgrade may take: it may write a whole table anew."""
_HERE = Path(__file__).parent


def upgrade(engine: Engine, to: str = "head") -> None:
    """Bring the database to the newest schema (or revision `to`); an up-to-date one is left alone.

    Safe to call at every start.

    Several replicas that start at once wait for each other. Raises Unavailable where the database cannot be reached,
    or was brought to a schema that this version does not know.
    """
    try:
        connection = engine.connect()
    except exc.DBAPIError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    with connection, _tables_may_be_rebuilt(connection), connection.begin():
        if engine.dialect.name == "postgresql":
            _be_alone(connection)
        is_there = to == "head" and _present(connection) == newest()
        if not is_there:
            _change(connection, to)
        if to == "head":
            changed_hosts.install(connection)
        if is_there:
            return
        if engine.dialect.name == "sqlite" and (wrong := connection.execute(text("PRAGMA foreign_key_check")).all()):
            raise Unavailable(f"the upgrade would leave rows that refer to nothing, in {wrong[0][0]}: nothing was done")


def newest() -> str:
    """The newest revision of this version: the highest number of its files."""
    return max(path.stem.partition("_")[0] for path in (_HERE / "versions").glob("[0-9]*.py"))


def _present(connection: Connection) -> str | None:
    """The revision of the database; None: it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _change(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)  # its setup lines say nothing to an operator
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    present = _present(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise Unavailable(
            f"the database has the schema {present} of a newer version; this one knows {max(known)} at most: "
            "run the newer version, or restore a backup from before the upgrade"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _be_alone(connection: Connection) -> None:
    """Wait for a replica that changes the schema now, by limits that are not those of a claim: both may take long.
    How long a statement waits for locks of replicas at work stays as it is, since all of them wait behind it."""
    if not connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME}).scalar_one():
        logger.info("another replica upgrades the database: waiting for it")
        usual = connection.execute(text("SHOW lock_timeout")).scalar_one()
        for limit in ("lock_timeout", "statement_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = '{OTHERS_SECONDS}s'"))
        try:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
        except exc.OperationalError as error:
            said = f"another replica has upgraded the database for {OTHERS_SECONDS} s: look at it"
            raise Unavailable(said) from error
        connection.execute(text(f"SET LOCAL lock_timeout = '{usual}'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'"))


@contextmanager
def _tables_may_be_rebuilt(connection: Connection) -> Iterator[None]:
    """On SQLite a table is changed by making a new one and dropping the old one, which foreign keys that refer to it
    would forbid. They are off meanwhile; SQLite switches them outside of transactions alone."""
    if connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.driver_connection
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


def is_newest(engine: Engine) -> bool:
    """Whether the database has the schema of this version. Raises Unavailable."""
    try:
        with engine.connect() as connection:
            return _present(connection) == newest()
    except exc.DBAPIError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
