"""What a probe tells of NUMA cells is kept beside the host's own amounts, and counted by the same policy."""

from __future__ import annotations

from fractions import Fraction

from sqlalchemy import Connection

from service.domain.fleet import MEMORY, VCPU, Overcommit
from service.store import changed_hosts, fleet
from tests.support.database import Database

GIB = 1 << 30
TOLD = {VCPU: 8, MEMORY: 64 * GIB}
CELLS = {"cell.0.vcpu": 4, "cell.0.memory": 48 * GIB, "cell.1.vcpu": 4, "cell.1.memory": 16 * GIB}


def probed(connection: Connection, uuid: str, total: dict[str, int], foreign: dict[str, int]) -> None:
    fleet.set_facts(connection, uuid, boot_id="1", virt_type="simulated", total=total, foreign=foreign)


def test_a_host_has_the_cells_that_it_last_told(db: Database) -> None:
    (uuid,) = db.fill(1)
    before = db.read(changed_hosts.moment)
    db.write(probed, uuid, TOLD | CELLS, {MEMORY: 5 * GIB, "cell.1.memory": 3 * GIB})
    host = db.read(fleet.host, uuid)
    assert db.read(changed_hosts.since, before) == {uuid}
    assert (host.total, host.foreign[MEMORY]) == (TOLD, 5 * GIB), "none of them stands among the host's own"
    assert [(c.number, c.total[MEMORY], c.free(MEMORY)) for c in host.cells] == [
        (0, 48 * GIB, 48 * GIB), (1, 16 * GIB, 13 * GIB),
    ]  # fmt: skip
    db.write(probed, uuid, TOLD, {})
    assert db.read(fleet.host, uuid).cells == ()


def test_of_what_a_host_keeps_each_cell_keeps_its_share(db: Database) -> None:
    (uuid,) = db.fill(1)
    db.write(probed, uuid, TOLD | CELLS, {})
    policy = Overcommit({VCPU: Fraction(3, 2)}, {MEMORY: 4 * GIB})
    db.write(lambda c: fleet.set_overcommit(c, policy, 1))
    host = db.read(fleet.host, uuid)
    assert [c.allocatable[MEMORY] for c in host.cells] == [45 * GIB, 15 * GIB]
    assert [c.allocatable[VCPU] for c in host.cells] == [6, 6]
    assert host.allocatable[MEMORY] == 60 * GIB
