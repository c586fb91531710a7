"""Capacity is claimed for whole gangs, never beyond what a host has, and given back exactly once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service.domain.fleet import VCPU, HostStatus
from service.domain.network import Network
from service.errors import InvariantViolation, NoCapacity
from service.store import addresses, claims, fleet
from service.store.claims import ClaimLost
from tests.support.builders import ZONE, zone
from tests.support.database import Database, close_host, member, set_size, together

GROUP = "c" * 32


def test_a_gang_is_claimed_on_all_its_hosts(db: Database) -> None:
    a, b = db.fill(2)
    db.write(lambda c: claims.take(c, GROUP, [member(1, a, vcpu=3), member(2, b, vcpu=8)]))
    assert db.used() == {a: 3, b: 8}
    assert db.read(lambda c: claims.host_of(c, f"{2:032x}", 1)) == b


def test_a_gang_that_fits_in_part_claims_nothing(db: Database) -> None:
    a, b = db.fill(2)
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [member(1, a), member(2, b, vcpu=9)]))
    assert db.used() == {a: 0, b: 0}
    assert db.read(lambda c: claims.on_host(c, a)) == frozenset()


def test_members_of_one_gang_on_one_host_count_together(db: Database) -> None:
    (a,) = db.fill(1)
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [member(n, a, vcpu=3) for n in range(3)]))
    db.write(lambda c: claims.take(c, GROUP, [member(n, a, vcpu=4) for n in range(2)]))
    assert db.used() == {a: 8}


def test_what_others_hold_on_a_host_is_not_given_out(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(lambda c: set_size(c, a, vcpu=8, foreign={VCPU: 5}))
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [member(1, a, vcpu=4)]))
    db.write(lambda c: claims.take(c, GROUP, [member(1, a, vcpu=3)]))


def test_a_closed_or_silent_host_takes_no_claim(db: Database) -> None:
    a, b = db.fill(2)
    db.write(lambda c: close_host(c, a))
    db.write(lambda c: fleet.set_status(c, b, HostStatus.DISCONNECTED, "silent"))
    for uuid in (a, b):
        with pytest.raises(ClaimLost):
            db.write(claims.take, GROUP, [member(1, uuid)])


def test_a_host_with_claims_is_not_forgotten_whatever_the_program_has_seen(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(lambda c: claims.take(c, GROUP, [member(1, a)]))
    with pytest.raises(IntegrityError):
        db.write(lambda c: fleet.delete_host(c, fleet.host(c, a), 0))
    assert db.used() != {a: 0}


def test_an_unknown_resource_is_never_claimed(db: Database) -> None:
    (a,) = db.fill(1)
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [replace(member(1, a), resources={"gpu.h200": 1})]))


def test_releasing_gives_back_what_was_claimed_and_only_once(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(lambda c: claims.take(c, GROUP, [member(1, a, vcpu=3), member(2, a, vcpu=2)]))
    for _ in range(2):
        db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
        assert db.used() == {a: 2}


def test_releasing_an_attempt_leaves_the_next_one_alone(db: Database) -> None:
    a, b = db.fill(2)
    db.write(lambda c: claims.take(c, GROUP, [member(1, a)]))
    db.write(lambda c: claims.take(c, GROUP, [member(1, b, attempt=2)]))
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert db.used() == {a: 0, b: 1}


def test_the_largest_gang_is_released_in_one_go(db: Database) -> None:
    (a,) = db.fill(1, vcpu=2048, memory=1 << 50)
    db.write(lambda c: claims.take(c, GROUP, [member(n, a) for n in range(1024)]))
    assert db.used() == {a: 1024}
    db.write(lambda c: claims.release(c, [(f"{n:032x}", 1) for n in range(1024)]))
    assert db.used() == {a: 0}


def test_a_sum_that_does_not_hold_stops_the_transaction(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(lambda c: claims.take(c, GROUP, [member(1, a)]))
    db.write(lambda c: c.execute(text("UPDATE host_resources SET used = 5 WHERE resource = 'vcpu'")))
    with pytest.raises(InvariantViolation):
        db.write(lambda c: claims.take(c, GROUP, [member(2, a)]))
    assert db.read(lambda c: claims.host_of(c, f"{2:032x}", 1)) is None


def test_the_last_slot_has_exactly_one_winner(db: Database) -> None:
    (a,) = db.fill(1, vcpu=1)
    for race in range(20):
        jobs = [partial(_claim, db, number=race * 100 + n, host=a) for n in range(8)]
        outcomes = together(jobs)
        won = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(won) == 1, outcomes
        assert sum(isinstance(outcome, ClaimLost) for outcome in outcomes) == 7, outcomes
        assert db.used() == {a: 1}
        db.write(claims.release, [(won[0], 1)])


def test_gangs_that_want_each_others_hosts_never_deadlock(db: Database) -> None:
    hosts = db.fill(4, vcpu=1000, memory=1 << 50)

    def turn(worker: int) -> int:
        for step in range(15):
            number = worker * 1000 + step * 10
            order = hosts if worker % 2 else hosts[::-1]
            gang = [member(number + n, host) for n, host in enumerate(order)]
            db.write(claims.take, GROUP, gang)
            db.write(claims.release, [(m.instance_uuid, 1) for m in gang])
        return worker

    assert together([partial(turn, worker) for worker in range(6)]) == list(range(6))
    assert set(db.used().values()) == {0}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(1, 6), st.booleans()), min_size=1, max_size=25
    )
)
def test_any_sequence_of_claims_and_releases_keeps_the_sums(
    db: Database, steps: list[tuple[int, int, int, bool]]
) -> None:
    hosts = db.fill(2, vcpu=8)
    held: dict[int, tuple[str, int]] = {}
    for number, index, vcpu, releases in steps:
        if releases:
            db.write(claims.release, [(f"{number:032x}", 1)])
            held.pop(number, None)
        elif number not in held:
            uuid = hosts[index]
            fits = vcpu <= 8 - sum(amount for host, amount in held.values() if host == uuid)
            try:
                db.write(claims.take, GROUP, [member(number, uuid, vcpu=vcpu)])
                assert fits
                held[number] = uuid, vcpu
            except ClaimLost:
                assert not fits
        assert db.used() == {uuid: sum(a for h, a in held.values() if h == uuid) for uuid in hosts}
    db.write(lambda c: claims.release(c, [(f"{n:032x}", 1) for n in held]))


def test_addresses_are_different_and_come_back(db: Database) -> None:
    (a,) = db.fill(1)
    network = Network("network", "corral", "10.9.0.0/24", "10.9.0.1", "10.9.0.10", "10.9.0.12")
    wanted = [(f"{n:032x}", 1) for n in range(3)]
    given_out = db.write(lambda c: addresses.take_addresses(c, ZONE, network, wanted))
    assert sorted(given_out.values()) == ["10.9.0.10", "10.9.0.11", "10.9.0.12"]
    with pytest.raises(NoCapacity):
        db.write(lambda c: addresses.take_addresses(c, ZONE, network, [("f" * 32, 1)]))
    db.write(lambda c: claims.take(c, GROUP, [member(1, a)]))
    db.write(lambda c: addresses.let_go(c, [f"{1:032x}"]))
    with pytest.raises(NoCapacity):
        db.write(lambda c: addresses.take_addresses(c, ZONE, network, [("f" * 32, 1)]))
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    db.write(lambda c: addresses.let_go(c, [f"{1:032x}"]))
    again = db.write(lambda c: addresses.take_addresses(c, ZONE, network, [("f" * 32, 1)]))
    assert again == {"f" * 32: given_out[f"{1:032x}"]}, "who is no member and has no claim has no address either"


def test_an_address_is_the_members_whichever_attempt_it_is_at(db: Database) -> None:
    network = zone().network
    held = [(f"{n:032x}", 1) for n in range(3)]
    first = db.write(lambda c: addresses.take_addresses(c, ZONE, network, held))
    again = db.write(lambda c: addresses.take_addresses(c, ZONE, network, [("f" * 32, 1), (f"{1:032x}", 2)]))
    assert again[f"{1:032x}"] == first[f"{1:032x}"]
    assert again["f" * 32] not in first.values()


def test_an_address_of_another_zone_stays_until_the_attempt_that_has_it_is_seen_gone(db: Database) -> None:
    """An address that is given out again after a failed destroy makes two machines answer under it."""
    (a,) = db.fill(1)
    instance, other = f"{1:032x}", "e" * 32
    db.write(lambda c: claims.take(c, GROUP, [member(1, a)]))
    first = db.write(lambda c: addresses.take_addresses(c, ZONE, zone().network, [(instance, 1)]))
    db.write(lambda c: addresses.take_addresses(c, other, zone().network, [(instance, 2)]))
    db.write(lambda c: addresses.let_go(c, [instance]))
    taken = db.write(lambda c: addresses.take_addresses(c, ZONE, zone().network, [("f" * 32, 1)]))
    assert taken["f" * 32] != first[instance]
    db.write(lambda c: claims.release(c, [(instance, 1)]))
    db.write(lambda c: addresses.let_go(c, [instance]))
    taken = db.write(lambda c: addresses.take_addresses(c, ZONE, zone().network, [("d" * 32, 1)]))
    assert taken["d" * 32] == first[instance]


def test_one_free_address_has_one_winner(db: Database) -> None:
    network = Network("network", "corral", "10.9.0.0/24", "10.9.0.1", "10.9.0.10", "10.9.0.10")
    jobs = [partial(db.write, partial(_take_address, network=network, instance=f"{n:032x}")) for n in range(6)]
    outcomes = together(jobs)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1, outcomes
    assert all(not isinstance(o, Exception) or isinstance(o, ClaimLost | NoCapacity) for o in outcomes), outcomes


def _take_address(connection: object, network: Network, instance: str) -> object:
    return addresses.take_addresses(connection, ZONE, network, [(instance, 1)])  # type: ignore[arg-type]


def _claim(db: Database, number: int, host: str) -> str:
    one = member(number, host)
    db.write(lambda c: claims.take(c, GROUP, [one]))
    return one.instance_uuid
