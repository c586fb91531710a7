"""Rebalances that were begun: what was to move, how long that is wanted, and whether it was called off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_, update

from service.domain.rebalances import Rebalance
from service.errors import NotFound
from service.store import schema
from service.store.codec import decode, encode
from service.store.waits import Wait

WAITS = (Wait("rebalance", "rebalances", "wanted_until", since="created_at"),)
_ROWS = schema.rebalances


def add(connection: Connection, rebalance: Rebalance) -> None:
    """Keep one that begins with this commit."""
    connection.execute(
        insert(_ROWS).values(
            uuid=rebalance.uuid,
            created_at=rebalance.created_at,
            wanted_until=rebalance.until,
            called_off_at=rebalance.called_off_at,
            body=encode(rebalance),
        )
    )


def get(connection: Connection, uuid: str, *, lock: bool = False) -> Rebalance:
    """One that was begun. Raises NotFound."""
    query = select(_ROWS).where(_ROWS.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("rebalance", uuid)
    return _rebalance(row)


def page(connection: Connection, after: tuple[int, str] | None, limit: int) -> Sequence[Rebalance]:
    """Those that were begun, the newest first. `after`: the time (ms) and uuid of the last one of the page before."""
    query = select(_ROWS).order_by(_ROWS.c.created_at.desc(), _ROWS.c.uuid.desc()).limit(limit)
    if after is not None:
        query = query.where(tuple_(_ROWS.c.created_at, _ROWS.c.uuid) < tuple_(*after))
    return [_rebalance(row) for row in connection.execute(query)]


def _rebalance(row: Row[Any]) -> Rebalance:
    times = {"created_at": row.created_at, "until": row.wanted_until, "called_off_at": row.called_off_at}
    return replace(decode(Rebalance, row.body), **times)


def call_off(connection: Connection, uuid: str, now: int) -> None:
    """Nobody is to move for it any more who has not gone yet."""
    connection.execute(update(_ROWS).where(_ROWS.c.uuid == uuid).values(called_off_at=now))


def wanted(connection: Connection, uuids: Iterable[str], now: int) -> frozenset[str]:
    """Which of these are still to be carried out."""
    query = select(_ROWS.c.uuid).where(
        _ROWS.c.uuid.in_(sorted(set(uuids))), _ROWS.c.called_off_at == 0, _ROWS.c.wanted_until > now
    )
    return frozenset(connection.scalars(query))
