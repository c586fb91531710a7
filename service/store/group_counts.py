"""How many groups and instances there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from service.domain.groups import GroupPhase, InstanceStatus
from service.store import schema


def counts(connection: Connection) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many groups and how many instances stand in each status (deleted groups left out)."""
    groups = connection.execute(
        select(schema.groups.c.status, func.count())
        .where(schema.groups.c.phase != GroupPhase.DELETED.value)
        .group_by(schema.groups.c.status)
    )
    members = connection.execute(
        select(schema.instances.c.status, func.count())
        .where(schema.instances.c.status != InstanceStatus.REMOVED.value)
        .group_by(schema.instances.c.status)
    )
    return dict(_pairs(groups)), dict(_pairs(members))


def _pairs(rows: Iterable[Any]) -> Iterable[tuple[str, int]]:
    return ((str(word), int(count)) for word, count in rows)
