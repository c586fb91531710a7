"""Seats on machines that are given out as a whole (`service/domain/seats.py`), as rows.

A seed holds what its guest is told, secrets among it. It is stored encrypted by a key that only its token gives, and
the token stands nowhere but in the machine's own drive: whoever has the database alone reads none of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from service.domain.seats import BootImage, Report, Seating, SeatOf, SeatTaken, Seed, key_of
from service.store import clock, left_seats, schema

_SEATS = schema.machine_seats
_NONCE = 12
_OVER = b"over "
SILENCE_MS = 10_000
"""A guest repeats itself twice as often: its word after such a silence is news, whatever it says."""


def on_host(connection: Connection, host: str) -> Sequence[Seating]:
    """All seats of a machine, and what is kept of those that were given up."""
    now = clock.now(connection)
    rows = connection.execute(select(_SEATS).where(_SEATS.c.host_uuid == host))
    return left_seats.with_left(connection, host, [_seating(row, now) for row in rows], now)


def take(connection: Connection, host: str, seating: Seating, token: str, seed: Seed) -> None:
    """See `Seats.take`. The host's row is locked, so that of two who come one is told."""
    identity = seating.of
    connection.execute(select(schema.hosts.c.uuid).where(schema.hosts.c.uuid == host).with_for_update())
    rows = connection.execute(select(_SEATS).where(_SEATS.c.host_uuid == host)).all()
    mine = next((r for r in rows if (r.instance_uuid, r.attempt) == (identity.instance, identity.attempt)), None)
    if mine is not None and mine.revoked:
        raise SeatTaken("the attempt was given up on this machine")
    if any(not r.revoked for r in rows if r is not mine):
        raise SeatTaken("another member has the machine")
    values = {
        "cluster": identity.cluster,
        "group_uuid": identity.group,
        "key": key_of(token),
        "seed": _sealed(token, _packed(seed)),
        "started": False,
        "unanswered": False,
        "spec_hash": seating.spec_hash,
        "generation": seating.generation,
        "resources": json.dumps(dict(seating.resources), sort_keys=True),
        "record": seating.record,
        "made_at": clock.now(connection),
        "reported_at": 0,
        "report": "",
        "former": "" if mine is None else f"{mine.former} {mine.key}".strip(),
    }
    if mine is not None:
        connection.execute(update(_SEATS).where(_this(host, identity)).values(values))
        return
    connection.execute(
        insert(_SEATS).values(
            host_uuid=host, instance_uuid=identity.instance, attempt=identity.attempt, revoked=False, **values
        )
    )


def start(connection: Connection, host: str, identity: SeatOf, started: bool) -> None:
    """See `Seats.start`."""
    live = and_(_this(host, identity), _SEATS.c.revoked.is_(False))
    values = {"started": started, "unanswered": started}
    if connection.execute(update(_SEATS).where(live).values(values)).rowcount != 1:
        raise SeatTaken("the attempt was given up on this machine")


def leave(connection: Connection, host: str, identity: SeatOf, *, revoked: bool) -> None:
    """See `Seats.leave`."""
    mine = and_(_this(host, identity), _SEATS.c.revoked.is_(revoked))
    row = connection.execute(select(_SEATS).where(mine).with_for_update()).one_or_none()
    if row is not None:
        left_seats.keep(connection, row, clock.now(connection))
        connection.execute(delete(_SEATS).where(mine))


def revoke(connection: Connection, host: str, identity: SeatOf) -> None:
    """See `Seats.revoke`. Its seed is forgotten; its key stays, by which its machine is known if it runs."""
    connection.execute(select(schema.hosts.c.uuid).where(schema.hosts.c.uuid == host).with_for_update())
    gone = {"revoked": True, "seed": b"", "report": "", "reported_at": 0}
    if connection.execute(update(_SEATS).where(_this(host, identity)).values(gone)).rowcount:
        return
    connection.execute(
        insert(_SEATS).values(
            host_uuid=host, instance_uuid=identity.instance, attempt=identity.attempt, cluster=identity.cluster,
            group_uuid=identity.group, key="", started=False, spec_hash="", generation=0, resources="{}", record="",
            made_at=clock.now(connection), former="", **gone,
        )
    )  # fmt: skip


def seed(connection: Connection, token: str) -> Seed | None:
    """What the bearer of the token boots from; None where it was given up, or nobody knows it."""
    row = _live(connection, token)
    if row is None:
        return None
    cipher = AESGCM(_secret(token))
    try:
        packed = cipher.decrypt(row.seed[:_NONCE], row.seed[_NONCE:], None)
    except InvalidTag:
        return None  # what is stored was changed by somebody else
    return _unpacked(zlib.decompress(packed), int(row.made_at))


def reported(connection: Connection, token: str, report: Report) -> tuple[str, SeatOf, bool] | None:
    """Keep what the token's bearer says; whose it is, and whether it is news: (host, seat, news). None where it was
    given up or never let run."""
    row = _live(connection, token)
    if row is None or not row.started:
        return None
    now = clock.now(connection)
    told = json.dumps(asdict(replace(report, age=0.0)))
    values = {"report": told, "reported_at": now}
    connection.execute(update(_SEATS).where(_SEATS.c.key == row.key, _SEATS.c.revoked.is_(False)).values(values))
    before = Report(**json.loads(row.report)) if row.report else None
    silent = before is None or not 0 <= now - int(row.reported_at) < SILENCE_MS
    return row.host_uuid, _identity(row), silent or before is None or _news(before) != _news(report)


def _news(report: Report) -> Report:
    """The report without what counts on by itself: it is read at the next look."""
    return replace(report, count=0, answered=min(report.answered, 0), weights="", age=0.0)


def _live(connection: Connection, token: str) -> Row[Any] | None:
    query = select(_SEATS).where(_SEATS.c.key == key_of(token), _SEATS.c.revoked.is_(False))
    return connection.execute(query).one_or_none()


def _this(host: str, identity: SeatOf) -> Any:
    return and_(
        _SEATS.c.host_uuid == host,
        _SEATS.c.instance_uuid == identity.instance,
        _SEATS.c.attempt == identity.attempt,
    )


def _secret(token: str) -> bytes:
    return hashlib.sha256(b"corral seed " + token.encode()).digest()


def _packed(seed: Seed) -> bytes:
    """One that is laid over an image names that in a first line; an ISO image by itself begins with zeros."""
    return seed.content if seed.over is None else _OVER + json.dumps(asdict(seed.over)).encode() + b"\n" + seed.content


def _unpacked(packed: bytes, made_at: int) -> Seed:
    if not packed.startswith(_OVER):
        return Seed(packed, made_at)
    line, _, content = packed.removeprefix(_OVER).partition(b"\n")
    return Seed(content, made_at, BootImage(**json.loads(line)))


def _sealed(token: str, content: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(_secret(token)).encrypt(nonce, zlib.compress(content), None)


def _identity(row: Row[Any]) -> SeatOf:
    return SeatOf(row.cluster, row.group_uuid, row.instance_uuid, row.attempt)


def _seating(row: Row[Any], now: int) -> Seating:
    report = None
    if row.report:
        report = replace(Report(**json.loads(row.report)), age=max(0, now - row.reported_at) / 1000)
    return Seating(
        _identity(row), row.key, row.started, row.revoked, row.spec_hash, row.generation,
        json.loads(row.resources), row.record, report, frozenset(row.former.split()), row.unanswered,
    )  # fmt: skip
