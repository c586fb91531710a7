"""Copies of images on hosts, as rows: how far each has come, who brings it, and which this installation has made.

A process that brings one owns its row for a while and renews that with each step; one whose time is over is taken over
and gone on with. Only what has a row is ever deleted on a host.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, insert, select, update

from service.store import clock, fleet_events, schema
from service.store.fleet_events import FleetChange
from service.store.statement import Statement

_COPIES = schema.image_copies
_OWNERS = Statement(select(_COPIES.c.owner).where(_COPIES.c.owned_until > bindparam("now")).distinct())
LARGE = 256 << 20
"""Bytes from which on it is worth something to a plan that a host has a file: about 2 s of a link of 1 Gbit/s."""
IDLE_MS = 600_000
"""A copy that nobody went on with for so long begins a new time in which it has to arrive."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A row; see `store.schema_fleet.image_copies`."""

    host_uuid: str
    volume: str
    sha256: str
    image: str
    size: int
    done: int = 0
    digest: str = ""
    boot_id: str = ""
    whole: bool = False
    withdrawn_at: int = 0
    used_at: int = 0
    made_at: int = 0
    began_at: int = 0
    began_done: int = 0
    rate: int = 0
    changed_at: int = 0
    owner: str = ""
    owned_until: int = 0

    @property
    def status(self) -> str:
        """Arriving, Whole or Withdrawn."""
        if not self.whole:
            return "Arriving"
        return "Withdrawn" if self.withdrawn_at else "Whole"


def take(connection: Connection, wanted: Copy, owner: str, for_ms: int, *, named: bool = False) -> Copy:
    """The host's copy of that content that has come furthest, owned by this process for so many ms where nobody else
    owns it; `wanted` itself, stored, where there is none. `named`: by that very name.

    The host's row is locked: of two that come at once, one begins.
    """
    connection.execute(select(schema.hosts.c.uuid).where(schema.hosts.c.uuid == wanted.host_uuid).with_for_update())
    query = select(_COPIES).where(_COPIES.c.host_uuid == wanted.host_uuid, _COPIES.c.sha256 == wanted.sha256)
    if named:
        query = query.where(_COPIES.c.volume == wanted.volume)
    rows = connection.execute(query.order_by(_COPIES.c.whole.desc(), _COPIES.c.done.desc(), _COPIES.c.volume)).all()
    now = clock.now(connection)
    if not rows:
        fresh = {**_values(wanted), "made_at": now, "began_at": now, "changed_at": now, "used_at": now}
        connection.execute(insert(_COPIES).values({**fresh, "owner": owner, "owned_until": now + for_ms}))
        return one(connection, wanted.host_uuid, wanted.volume)
    found = _copy(rows[0])
    if found.owner not in ("", owner) and found.owned_until > now:
        return found
    anew = not found.began_at or found.changed_at < now - IDLE_MS
    began = {"began_at": now, "began_done": found.done} if anew else {}
    _set(connection, found, {**began, "owner": owner, "owned_until": now + for_ms, "changed_at": now})
    return one(connection, found.host_uuid, found.volume)


def went_on(connection: Connection, copy: Copy, owner: str, for_ms: int) -> bool:
    """Record how far it has come, by the process that owns it; False: another one does by now, or the row is gone.

    A copy that is whole is in use from now on, and told with its host.
    """
    now = clock.now(connection)
    told = ("done", "digest", "boot_id", "whole", "rate", "withdrawn_at")
    values = {name: getattr(copy, name) for name in told}
    kept = {"owner": "", "owned_until": 0} if copy.whole else {"owned_until": now + for_ms}
    mine = _that(copy.host_uuid, copy.volume) & (_COPIES.c.owner == owner)
    changed = update(_COPIES).where(mine).values({**values, **kept, "used_at": now, "changed_at": now})
    if connection.execute(changed).rowcount != 1:
        return False
    if copy.whole:
        tell(connection, copy.host_uuid)
    return True


def give_back(connection: Connection, host_uuid: str, volume: str, owner: str, *, over: bool = False) -> None:
    """Nobody brings it now. `over`: its time was used up; the next one who takes it gets a new one."""
    values = {"owner": "", "owned_until": 0, **({"began_at": 0} if over else {})}
    connection.execute(update(_COPIES).where(_that(host_uuid, volume), _COPIES.c.owner == owner).values(values))


def owners(connection: Connection, now: int) -> Sequence[str]:
    """The processes that bring some."""
    return tuple(_OWNERS.scalars(connection, {"now": now}))


def end_ownership(connection: Connection, owner: str) -> None:
    """The process is no more."""
    connection.execute(update(_COPIES).where(_COPIES.c.owner == owner).values(owner="", owned_until=0))


def one(connection: Connection, host_uuid: str, volume: str) -> Copy:
    """That very row, which is there."""
    return _copy(connection.execute(select(_COPIES).where(_that(host_uuid, volume))).one())


def on_host(connection: Connection, host_uuid: str) -> tuple[Copy, ...]:
    """All rows of a host, by name."""
    rows = connection.execute(select(_COPIES).where(_COPIES.c.host_uuid == host_uuid).order_by(_COPIES.c.volume))
    return tuple(_copy(row) for row in rows)


def forget(connection: Connection, host_uuid: str, volumes: Sequence[str]) -> None:
    """These are gone from the host."""
    gone = _COPIES.c.host_uuid == host_uuid, _COPIES.c.volume.in_(volumes)
    connection.execute(delete(_COPIES).where(*gone))
    tell(connection, host_uuid)


def withdraw(connection: Connection, host_uuid: str, volume: str) -> bool:
    """From now on no machine is made of it, unless somebody brings it at this moment."""
    now = clock.now(connection)
    free = _that(host_uuid, volume) & (_COPIES.c.owned_until <= now)
    changed = connection.execute(update(_COPIES).where(free).values(withdrawn_at=now)).rowcount == 1
    tell(connection, host_uuid)
    return changed


def hold(connection: Connection, copy: Copy, owner: str, for_ms: int) -> bool:
    """Whether the row is this process's from now on, and as it was when it was read."""
    now = clock.now(connection)
    same = _COPIES.c.withdrawn_at == copy.withdrawn_at, _COPIES.c.changed_at == copy.changed_at
    free = _that(copy.host_uuid, copy.volume) & (_COPIES.c.owned_until <= now)
    held = update(_COPIES).where(free, *same).values(owner=owner, owned_until=now + for_ms)
    return connection.execute(held).rowcount == 1


def use_again(connection: Connection, copy: Copy, owner: str) -> None:
    """One that was withdrawn is in use again."""
    mine = _that(copy.host_uuid, copy.volume) & (_COPIES.c.owner == owner)
    values = {"withdrawn_at": 0, "owner": "", "owned_until": 0, "used_at": clock.now(connection)}
    connection.execute(update(_COPIES).where(mine).values(values))
    tell(connection, copy.host_uuid)


def seen(connection: Connection, host_uuid: str, *, gone: Sequence[str], used: Sequence[str]) -> None:
    """Machines stand on some now; others are gone from the host."""
    if gone:
        forget(connection, host_uuid, gone)
    if used:
        some = _COPIES.c.host_uuid == host_uuid, _COPIES.c.volume.in_(used)
        connection.execute(update(_COPIES).where(*some).values(used_at=clock.now(connection)))


def tell(connection: Connection, host_uuid: str) -> None:
    """The host's row says which large files it has whole and in use; whoever plans reads it there."""
    in_use = (
        _COPIES.c.host_uuid == host_uuid,
        _COPIES.c.whole,
        _COPIES.c.withdrawn_at == 0,
        _COPIES.c.size >= LARGE,
    )
    sums = json.dumps(sorted(connection.scalars(select(_COPIES.c.sha256).where(*in_use).distinct())))
    hosts = schema.hosts
    there = connection.execute(select(hosts.c.images, hosts.c.zone_uuid).where(hosts.c.uuid == host_uuid)).first()
    if there is None or there.images == sums:
        return
    more = {"images": sums, "generation": hosts.c.generation + 1}
    connection.execute(update(hosts).where(hosts.c.uuid == host_uuid).values(more))
    fleet_events.append(connection, FleetChange.HOST, host_uuid, there.zone_uuid, clock.now(connection))


def _that(host_uuid: str, volume: str) -> ColumnElement[bool]:
    return (_COPIES.c.host_uuid == host_uuid) & (_COPIES.c.volume == volume)


def _set(connection: Connection, copy: Copy, values: dict[str, object]) -> None:
    connection.execute(update(_COPIES).where(_that(copy.host_uuid, copy.volume)).values(values))


def _values(copy: Copy) -> dict[str, object]:
    return {name: getattr(copy, name) for name in Copy.__slots__}


def _copy(row: Row[tuple[object, ...]]) -> Copy:
    return Copy(**row._mapping)
