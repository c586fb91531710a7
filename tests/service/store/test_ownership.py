"""Rows of ownership on both databases: the installation, hypervisors, retired attempts, the quarantine."""

from __future__ import annotations

import pytest

from service.domain.fleet import HostStatus
from service.domain.ownership import Fate, Holding, Quarantined, fate
from service.errors import AlreadyExists, NotFound
from service.store import fleet, ownership, retired
from service.store.engine import Store
from service.store.migrations import upgrade
from service.store.ownership import AnotherCluster, establish
from tests.support.builders import host, zone
from tests.support.database import Database

DAY = 24 * 3600 * 1000
H1, H2 = f"{1:032x}", f"{2:032x}"


def two_hosts(db: Database) -> None:
    db.write(lambda c: fleet.put_zone(c, zone()))
    for number in (1, 2):
        db.write(lambda c, n=number: fleet.put_host(c, host(n)))  # type: ignore[misc]


def test_a_database_knows_itself_from_its_first_start_on(db: Database) -> None:
    first = establish(db.store.engine, "", 5)
    assert (len(first.database), len(first.cluster)) == (32, 32)
    assert establish(db.store.engine, "", 6) == first
    assert establish(db.store.engine, first.cluster, 6) == first
    with pytest.raises(AnotherCluster, match=first.cluster):
        establish(db.store.engine, "elsewhere", 6)


def test_two_databases_are_never_alike_and_the_old_default_names_none(db: Database) -> None:
    other = Store("sqlite://")
    upgrade(other.engine)
    try:
        with pytest.raises(AnotherCluster, match="tells nobody"):
            establish(other.engine, "corral", 0)
        assert establish(other.engine, "", 0).database != establish(db.store.engine, "", 0).database
    finally:
        other.close()


def test_a_generation_is_lifted_over_what_hosts_have_seen_and_never_back(db: Database) -> None:
    establish(db.store.engine, "", 0)
    before = db.read(ownership.generation)
    db.write(lambda c: ownership.lift(c, before + 10))
    assert db.read(ownership.generation) == before + 11
    db.write(lambda c: ownership.lift(c, before + 3))
    assert db.read(ownership.generation) == before + 11


def test_a_hypervisor_is_one_host(db: Database) -> None:
    two_hosts(db)
    db.write(lambda c: ownership.set_hypervisor(c, H1, "hv"))
    with pytest.raises(AlreadyExists):
        db.write(lambda c: ownership.set_hypervisor(c, H2, "hv"))
    record = db.read(lambda c: ownership.host_record(c, H2, "hv"))
    assert record is not None
    assert (record.hypervisor, record.twin) == ("", "host-1")
    db.write(lambda c: ownership.order_claim(c, H1, 0))
    assert db.read(lambda c: fleet.host(c, H1)).claim_ordered
    db.write(lambda c: ownership.set_hypervisor(c, H1, "hv-new"))
    after = db.read(lambda c: fleet.host(c, H1))
    assert (after.hypervisor, after.claim_ordered) == ("hv-new", False)
    with pytest.raises(NotFound):
        db.write(lambda c: ownership.order_claim(c, "f" * 32, 0))


def test_a_record_of_what_was_let_go_holds_for_its_host_until_it_was_seen_gone_for_long(db: Database) -> None:
    two_hosts(db)
    nobody: frozenset[tuple[str, int]] = frozenset()
    db.write(lambda c: retired.retire(c, [("i", 1, H1), ("j", 2, H1)], "g", "why", 100))
    db.write(lambda c: retired.retire(c, [("i", 1, H1)], "g", "again", 200))  # told twice is told once

    def what(where: str, instance: str, attempt: int) -> Fate:
        return fate(db.read(lambda c: retired.records(c, where, nobody, [instance])), instance, attempt, "")[0]

    assert (what(H1, "i", 1), what(H2, "i", 1), what(H1, "i", 2)) == (Fate.REMOVE, Fate.QUARANTINE, Fate.QUARANTINE)
    db.write(lambda c: retired.seen_gone(c, H1, frozenset({("j", 2)})))
    assert db.read(lambda c: retired.has_unseen(c, H1))
    db.write(lambda c: retired.forget_retired(c, 100))  # not old enough
    assert what(H1, "i", 1) is Fate.REMOVE
    db.write(lambda c: retired.forget_retired(c, 100 + 30 * DAY))
    assert (what(H1, "i", 1), what(H1, "j", 2)) == (Fate.QUARANTINE, Fate.REMOVE)  # j was never seen gone
    db.write(lambda c: retired.take_back(c, [("j", 2, H1)]))
    assert what(H1, "j", 2) is Fate.QUARANTINE


def test_the_quarantine_follows_what_is_found_and_keeps_orders(db: Database) -> None:
    two_hosts(db)
    one = Quarantined("", "k1", Holding.MACHINE, "g", "i", 1, resources={"vcpu": 2})
    two = Quarantined("", "k2", Holding.VOLUME, "", "j", 1)
    assert db.write(lambda c: ownership.hold(c, H1, [one, two], 7))
    assert not db.write(lambda c: ownership.hold(c, H1, [one, two], 8))
    assert [(q.host, q.key, q.since) for q in db.read(lambda c: ownership.quarantine(c, H1))] == [
        (H1, "k1", 7), (H1, "k2", 7)
    ]  # fmt: skip
    assert db.write(lambda c: ownership.order_removal(c, H1, "k1")).removal
    db.write(lambda c: ownership.hold(c, H1, [one], 9))
    (left,) = db.read(lambda c: ownership.quarantine(c, H1))
    assert (left.key, left.removal, left.since) == ("k1", True, 7)
    assert db.read(ownership.counts) == {(H1, Holding.MACHINE): 1}
    with pytest.raises(NotFound):
        db.write(lambda c: ownership.order_removal(c, H2, "k1"))


def test_pages_of_the_quarantine_go_by_host_and_key(db: Database) -> None:
    two_hosts(db)
    for where in (H1, H2):
        found = [Quarantined("", f"k{n}", Holding.VOLUME, "", "j", n) for n in range(3)]
        db.write(lambda c, w=where, f=found: ownership.hold(c, w, f, 1))  # type: ignore[misc]
    seen: list[tuple[str, str]] = []
    after: tuple[str, str] | None = None
    while part := db.read(lambda c, a=after: ownership.page(c, "", a, 2)):  # type: ignore[misc]
        seen += [(q.host, q.key) for q in part]
        after = seen[-1]
    assert seen == [(h, f"k{n}") for h in (H1, H2) for n in range(3)]
    assert [q.host for q in db.read(lambda c: ownership.page(c, H2, None, 9))] == [H2] * 3


def test_what_is_held_stays_so_whatever_is_recorded_afterwards(db: Database) -> None:
    two_hosts(db)
    nobody: frozenset[tuple[str, int]] = frozenset()
    db.write(lambda c: ownership.hold(c, H1, [Quarantined("", "k", Holding.MACHINE, "g", "i", 1)], 7))
    db.write(lambda c: retired.retire(c, [("i", 1, H1)], "g", "later", 8))

    def what(key: str) -> Fate:
        return fate(db.read(lambda c: retired.records(c, H1, nobody, ["i"])), "i", 1, key)[0]

    assert (what("k"), what("another")) == (Fate.QUARANTINE, Fate.REMOVE)
    assert db.read(lambda c: ownership.held_of(c, "g")) == {"i": H1}
    assert db.read(lambda c: ownership.held_of(c, "other")) == {}
    db.write(lambda c: ownership.order_removal(c, H1, "k"))
    assert what("k") is Fate.REMOVE


def test_hosts_that_may_have_seen_more_are_named_until_they_are_known_or_off(db: Database) -> None:
    two_hosts(db)
    assert db.read(ownership.ahead) == ()
    db.write(lambda c: ownership.all_known(c, (), [H1, H2]))
    assert db.read(ownership.ahead) == ("host-1", "host-2")
    db.write(lambda c: ownership.all_known(c, [H1], ()))
    assert db.read(ownership.ahead) == ("host-2",)
    db.write(lambda c: ownership.off(c, H2))
    assert db.read(ownership.ahead) == ()
    assert db.read(ownership.ahead_or_flagged) == ({}, frozenset())
    db.write(lambda c: fleet.set_status(c, H2, HostStatus.AHEAD, "why"))
    assert db.read(ownership.ahead_or_flagged) == ({H2: "why"}, frozenset())
    db.write(lambda c: ownership.set_ahead(c, H1))
    assert db.read(ownership.ahead_or_flagged) == ({H2: "why"}, frozenset({H1}))
