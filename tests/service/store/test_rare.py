"""What is asked for in one statement is what its own statements say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection, update

from service.domain.groups import GroupPhase, Waiting
from service.domain.network import ForeignAddress
from service.domain.ownership import Holding, Quarantined
from service.domain.specs import PlacementPolicy
from service.domain.tenants import Quota
from service.store import addresses, bookings, claims, fleet, groups, ownership, quotas, retired, schema
from service.store.basis import basis
from service.store.rare import _RARE, Rare, rare, with_basis, with_stand
from tests.support.builders import ENTRY, ZONE, entry, group, host, seat, zone
from tests.support.database import Database

MINE, OTHER = "a" * 32, "b" * 32
HOST = host(1).uuid
NONE = Rare(*[False] * len(Rare._fields))


def put(connection: Connection, **changes: object) -> None:
    made = group(1, uuid=OTHER, **changes)
    groups.create(connection, replace(made, instances=()), due_at=0)


def hold(connection: Connection, of: str = MINE, holding: Holding = Holding.MACHINE) -> None:
    one = Quarantined(holding=holding, key="k", host=HOST, group=of, instance="1" * 32, attempt=1)
    ownership.hold(connection, HOST, [one], 1)


def book(connection: Connection) -> None:
    bookings.book(connection, "e" * 32, OTHER, [(MINE, seat("1" * 32, HOST, {"vcpu": 1}))])


def ahead(connection: Connection) -> None:
    connection.execute(update(schema.hosts).values(ahead=True))


THERE: dict[str, tuple[str, Callable[[Connection], object]]] = {
    "a host has seen more": ("held", ahead),
    "a machine of the group is in quarantine": ("held", hold),
    "a volume of the group is in quarantine": ("", lambda c: hold(c, holding=Holding.VOLUME)),
    "a machine of another group is in quarantine": ("", lambda c: hold(c, OTHER)),
    "another group waits": ("waiting", lambda c: put(c, phase=GroupPhase.PLANNING, waiting=Waiting(since=1, until=9))),
    "another group may wait": ("", lambda c: put(c, phase=GroupPhase.PLANNING, waiting=Waiting(until=9))),
    "another group keeps apart": ("apart", lambda c: put(c, placement=PlacementPolicy(anti_affinity_groups=(MINE,)))),
    "one that did so is deleted": (
        "",
        lambda c: put(c, phase=GroupPhase.DELETED, placement=PlacementPolicy(anti_affinity_groups=(MINE,))),
    ),
    "a seat is kept": ("booked", book),
    "the project has a quota": ("quota", lambda c: quotas.put(c, [Quota("project", {"vcpu": 4})])),
    "another project has one": ("", lambda c: quotas.put(c, [Quota("others", {"vcpu": 4})])),
    "a member was let go": ("retired", lambda c: retired.retire(c, [("1" * 32, 1, HOST)], MINE, "why", 1)),
    "another one was": ("", lambda c: retired.retire(c, [("2" * 32, 1, HOST)], OTHER, "why", 1)),
}


@pytest.mark.parametrize("what", THERE)
def test_each_flag_is_for_what_it_says_and_for_nothing_else(db: Database, what: str) -> None:
    db.fill(1)
    assert db.read(lambda c: rare(c, MINE, "project", ["1" * 32])) == NONE
    flag, come = THERE[what]
    db.write(lambda c: come(c))
    wanted = NONE._replace(**{flag: True}) if flag else NONE
    assert db.read(lambda c: rare(c, MINE, "project", ["1" * 32])) == wanted
    with_it, found = db.read(lambda c: with_basis(c, MINE, "project", ["1" * 32]))
    assert (with_it, found) == (wanted, db.read(lambda c: basis(c, "project")))


def test_what_is_rare_is_told_with_how_a_group_stands_where_it_is_as_known(db: Database) -> None:
    (at, *_) = db.fill(1)
    known = group(1, uuid=MINE)
    db.write(lambda c: groups.create(c, known, due_at=0))
    (one, *_) = members = [m.uuid for m in known.instances]
    assert db.write(lambda c: with_stand(c, known, members)) == ({}, NONE)
    db.write(lambda c: claims.take(c, MINE, [seat(one, at, {"vcpu": 1})]))
    db.write(lambda c: bookings.book(c, "e" * 32, OTHER, [(MINE, seat(one, at, {"vcpu": 1}))]))
    assert db.write(lambda c: with_stand(c, known, members)) == (
        {(one, 1): frozenset({at})}, NONE._replace(booked=True)
    )  # fmt: skip
    assert db.write(lambda c: with_stand(c, replace(known, version=known.version + 1), members)) is None
    assert db.write(lambda c: with_stand(c, replace(known, epoch=known.epoch + 1), members)) is None


def test_the_basis_of_deploys_is_what_the_catalogue_and_the_zones_say(db: Database) -> None:
    db.fill(1)

    def more(connection: Connection) -> None:
        fleet.put_zone(connection, zone(uuid="f" * 32, name="empty"))
        fleet.put_model_service(connection, entry(uuid="e" * 32, name="another"))
        addresses.take_addresses(connection, ZONE, zone().network, [("1" * 32, 1), ("2" * 32, 1)])
        foreign = ForeignAddress("10.9.0.20", "52:54:00:00:00:01", "lease", HOST, 1)
        addresses.seen_on_host(connection, ZONE, zone().network, HOST, [foreign], 1)
        quotas.put(connection, [Quota("limited", {"vcpu": 4})])

    db.write(more)
    found = db.read(lambda c: basis(c, "limited"))
    assert found.catalogue == db.read(fleet.model_services)
    assert set(found.catalogue) == {ENTRY, "e" * 32}
    assert found.zones == db.read(fleet.zones)
    assert found.taken == {ZONE: 3}
    assert found.limited
    assert not db.read(basis).limited
    assert not db.read(lambda c: basis(c, "others")).limited


def test_no_table_that_grows_is_looked_through(db: Database) -> None:
    if not db.store.sqlite:
        pytest.skip("PostgreSQL looks through tables as small as these")
    values = {"group": MINE, "project": "project", "members": ["1" * 32]}

    def plan(connection: Connection) -> list[str]:
        sql, given = _RARE._form(connection).ready(values)
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", tuple(given))]

    found = db.read(plan)
    assert any("hosts USING" in step and "ix_hosts_ahead" in step for step in found), found
    assert [step for step in found if step.startswith("SCAN") and "group_apart" not in step] == ["SCAN CONSTANT ROW"]
