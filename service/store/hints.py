"""Hints between replicas by PostgreSQL's LISTEN and NOTIFY: faster than polling; may be lost, repeated or late.

One process owns a SQLite file, so there is nobody to tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, Text, bindparam, func, literal, select

from service.store.statement import Statement

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

NEWS = "corral_news"
DUE = "corral_due"
SERVING_LOCK = 0x_C0_44_A1_03
"""Key of the advisory lock that every replica shares while it is connected: a command that needs the database for
itself takes it alone."""
RECONNECT_SECONDS = 1.0
_CONNECT_SECONDS = 5
_NOTIFY = Statement(select(func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text))))


TELL_NEWS = func.pg_notify(literal(NEWS, Text), literal("", Text)).label("told")
"""A column for a statement of PostgreSQL: with its commit, every replica looks for new events at once."""


def group_is_due(connection: Connection, uuid: str) -> None:
    """With this transaction's commit, every replica looks at the group at once."""
    _notify(connection, DUE, uuid)


class Listener:
    """Hears what other replicas commit. `run` until cancelled; needs a `postgresql` URL."""

    def __init__(self, url: URL, news: Callable[[], None], due: Callable[[str], None]) -> None:
        """`news()`, `due(group_uuid)`: called on the event loop. `due("")`: something may have been missed."""
        self._url = url
        self._news = news
        self._due = due

    async def run(self) -> None:
        """Listen; connect again where the connection is lost. Replicas poll as well, so nothing depends on it."""
        import psycopg

        while True:
            try:
                await self._listen()
            except psycopg.Error as error:
                logger.info("no hints from other replicas: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        import psycopg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await psycopg.AsyncConnection.connect(
            address,
            autocommit=True,
            client_encoding="utf8",
            connect_timeout=_CONNECT_SECONDS,
            keepalives_idle=5,
            keepalives_interval=2,
        )
        async with connection:
            await connection.execute("SELECT pg_try_advisory_lock_shared(%s)", (SERVING_LOCK,))
            for channel in (NEWS, DUE):
                await connection.execute(f"LISTEN {channel}")
            self._news()
            self._due("")
            async for notice in connection.notifies():
                self._hear(notice)

    def _hear(self, notice: psycopg.Notify) -> None:
        if notice.channel == NEWS:
            self._news()
        else:
            self._due(notice.payload)


def _notify(connection: Connection, channel: str, payload: str) -> None:
    if connection.dialect.name == "postgresql":
        _NOTIFY.all(connection, {"channel": channel, "payload": payload})
