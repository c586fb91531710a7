"""What hosts have and who holds it, read in one statement, is what is read of each by itself."""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.fleet import MEMORY, VCPU
from service.store import bookings, changed_hosts, claims, fleet, groups, stock
from tests.service.store.test_pinned_claims import GIB, pinned, probed
from tests.support.builders import group, seat
from tests.support.database import Database, member

GROUP, GONE = group(1).uuid, "d" * 32


def test_what_is_read_of_changed_hosts_is_what_there_is(db: Database) -> None:
    one, two, three = db.fill(3)
    db.write(lambda c: groups.create(c, group(1), due_at=0))
    before = db.read(changed_hosts.moment)

    def hold(connection: Connection) -> None:
        probed(connection, one, 96 << 20)
        probed(connection, two)
        claims.take(connection, GROUP, [pinned(1, one, 0, 3), member(2, two, vcpu=1)])
        claims.take(connection, GONE, [member(3, one, vcpu=1)])
        bookings.book(connection, "e" * 32, GROUP, [(GROUP, seat("4" * 32, one, {VCPU: 1, MEMORY: GIB}))])
        fleet.delete_host(connection, fleet.host(connection, three), 1)

    db.write(hold)
    now, rows = db.read(lambda c: changed_hosts.changes(c, before))
    assert now == db.read(changed_hosts.moment)
    assert set(rows) >= {one, two}
    assert rows.get(three) is None
    there = {uuid: row for uuid, row in rows.items() if row is not None}
    vectors, guests, held = db.read(lambda c: stock.of_hosts(c, list(there)))
    assert fleet.hosts_from(there.values(), vectors, guests) == db.read(fleet.hosts)
    assert guests == db.read(claims.guests)
    everything = db.read(stock.held)
    assert (held.seated, held.pinned) == (everything.seated, everything.pinned)
    assert {host: sorted(sizes) for host, sizes in held.sizes.items()} == {
        host: sorted(sizes) for host, sizes in everything.sizes.items()
    }
    assert {instance for instance, *_ in held.seated[one]} == {f"{1:032x}", "4" * 32}
    assert len(held.sizes[one]) == 2, "a claim without its group is held all the same"


def test_where_nothing_changed_no_host_is_named(db: Database) -> None:
    db.fill(2)
    before = db.read(changed_hosts.moment)
    now, rows = db.read(lambda c: changed_hosts.changes(c, before))
    assert now.hosts == 2
    assert before.is_before(now)
    if db.store.sqlite:
        assert rows == {}
