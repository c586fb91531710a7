"""What each guest takes of a host beside what it claims: nobody is given it, from the first plan on."""

from __future__ import annotations

from functools import partial

import pytest

from service.domain.fleet import MEMORY, VCPU
from service.store import claims, fleet
from service.store.claims import ClaimLost
from service.store.connection import Connection
from tests.support.builders import seat
from tests.support.database import Database, together

GIB, MIB = 1 << 30, 1 << 20
GROUP = "a" * 32


def probed(connection: Connection, host: str, *, beside: int = 96 * MIB, guests: int = 0, foreign: int = 0) -> None:
    fleet.set_facts(
        connection, host, boot_id="b", virt_type="qemu", total={VCPU: 64, MEMORY: 4 * GIB}, foreign={MEMORY: foreign},
        beside={MEMORY: beside}, guests=guests,
    )  # fmt: skip


def take(connection: Connection, host: str, number: int, memory: int) -> None:
    claims.take(connection, GROUP, [seat(f"{number:032x}", host, {VCPU: 1, MEMORY: memory})])


def test_a_host_is_full_before_its_guests_and_what_they_take_beside_are_more_than_it_has(db: Database) -> None:
    (host,) = db.fill(1)
    db.write(probed, host)
    for number in range(3):
        db.write(take, host, number, GIB)
    assert db.read(fleet.host, host).foreign[MEMORY] == 3 * 96 * MIB
    with pytest.raises(ClaimLost):  # without what QEMU takes it would just fit
        db.write(take, host, 3, GIB)
    db.write(take, host, 3, GIB - 4 * 96 * MIB)
    assert db.read(claims.guests) == {(host, MEMORY): 4, (host, VCPU): 4}


def test_what_is_measured_later_counts_for_those_that_were_there_before(db: Database) -> None:
    (host,) = db.fill(1)
    db.write(probed, host, beside=0)
    db.write(take, host, 0, GIB)
    assert db.read(fleet.host, host).foreign[MEMORY] == 0
    db.write(probed, host, beside=256 * MIB, guests=1, foreign=GIB)
    seen = db.read(fleet.host, host)
    assert (seen.foreign[MEMORY], seen.beside) == (GIB + 256 * MIB, {MEMORY: 256 * MIB})
    assert db.read(fleet.hosts)[host] == seen


def test_a_guest_without_a_claim_counts_as_well(db: Database) -> None:
    (host,) = db.fill(1)
    db.write(take, host, 0, GIB)
    db.write(probed, host, guests=3)
    assert db.read(fleet.host, host).foreign[MEMORY] == 3 * 96 * MIB


def test_a_gang_is_held_to_what_all_its_members_take(db: Database) -> None:
    (host,) = db.fill(1)
    db.write(probed, host)
    gang = [seat(f"{n:032x}", host, {VCPU: 1, MEMORY: GIB}) for n in range(4)]
    with pytest.raises(ClaimLost):
        db.write(claims.take, GROUP, gang)
    db.write(claims.take, GROUP, gang[:3])


def test_of_those_that_come_at_once_each_sees_what_the_others_take_beside(db: Database) -> None:
    (host,) = db.fill(1)
    db.write(probed, host, beside=GIB)
    results = together([partial(db.write, take, host, number, GIB) for number in range(4)])
    assert [type(r) for r in results if r is not None] == [ClaimLost, ClaimLost]
    assert db.read(fleet.host, host).used[MEMORY] == 2 * GIB
