"""Claims of NUMA cells have the guard that all claims have, and end with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from service.domain.fleet import MEMORY, VCPU
from service.domain.groups import Seat
from service.store import claims, fleet, stock, usage
from service.store.claims import ClaimLost
from tests.support.database import Database, member, together

GIB = 1 << 30
GROUP = "c" * 32
CELLS = {"cell.0.vcpu": 4, "cell.0.memory": 32 * GIB, "cell.1.vcpu": 4, "cell.1.memory": 32 * GIB}
TOLD = {VCPU: 8, MEMORY: 64 * GIB, **CELLS}


def probed(connection: Connection, uuid: str, beside: int = 0) -> None:
    fleet.set_facts(
        connection, uuid, boot_id="1", virt_type="simulated", total=TOLD, foreign={}, beside={MEMORY: beside}
    )


def pinned(number: int, host_uuid: str, cell: int, vcpu: int = 1) -> Seat:
    return replace(member(number, host_uuid, vcpu=vcpu), cells=(cell,))


def vcpus(db: Database, uuid: str) -> list[int]:
    return [cell.used[VCPU] for cell in db.read(fleet.host, uuid).cells]


def test_a_cell_is_given_out_once_however_much_its_host_has_left(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(probed, a)
    db.write(lambda c: claims.take(c, GROUP, [pinned(1, a, 0, 3), member(2, a, vcpu=1)]))
    assert (vcpus(db, a), db.used()) == ([3, 0], {a: 4})
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [pinned(3, a, 0, 2)]))
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [pinned(3, a, 7)]))
    db.write(lambda c: claims.take(c, GROUP, [pinned(3, a, 1, 4)]))
    _, sizes, held = db.read(stock.held)
    assert held == {a: {f"{1:032x}": (0,), f"{3:032x}": (1,)}}
    assert {name for size in sizes[a] for name, _ in size} == {VCPU, MEMORY}
    assert db.read(lambda c: usage.on_hosts(c, [a])) == {}
    db.write(lambda c: claims.leave(c, [(f"{1:032x}", 1, a)]))
    assert (vcpus(db, a), db.used()) == ([0, 4], {a: 5})
    db.write(lambda c: claims.release(c, [(f"{3:032x}", 1)]))
    assert (vcpus(db, a), db.used()) == ([0, 0], {a: 1})


def test_two_that_want_the_last_of_a_cell_at_once(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(probed, a)
    seats = [pinned(number, a, 1, 3) for number in range(4)]
    results = together([lambda seat=seat: db.write(claims.take, GROUP, [seat]) for seat in seats])  # type: ignore[misc]
    assert sorted(isinstance(result, ClaimLost) for result in results) == [False, True, True, True]
    assert vcpus(db, a) == [0, 3]


def test_what_a_hypervisor_takes_beside_a_guest_is_of_the_guests_cell(db: Database) -> None:
    (a,) = db.fill(1)
    db.write(probed, a, 16 * GIB)
    db.write(lambda c: claims.take(c, GROUP, [pinned(1, a, 0)]))
    first, second = db.read(fleet.host, a).cells
    assert (first.free(MEMORY), second.free(MEMORY)) == (15 * GIB, 32 * GIB)
    with pytest.raises(ClaimLost):
        db.write(lambda c: claims.take(c, GROUP, [pinned(2, a, 0)]))
