"""What the configuration file says comes into the rows at a start, and holds for every replica."""

from __future__ import annotations

from fractions import Fraction

from sqlalchemy import Connection

from service.domain.fleet import MEMORY, VCPU, Overcommit
from service.store import configured, events, fleet, settings
from tests.support.builders import host, zone
from tests.support.database import GIB, Database, set_size

TWICE = Overcommit({VCPU: Fraction(2)}, {MEMORY: GIB})


def start(connection: Connection, overcommit: Overcommit) -> Overcommit:
    """A replica starts with this in its file; returns what held before."""
    return configured.write(
        connection,
        zones=[zone()],
        hosts=[host(1), host(2, overcommit=Overcommit({VCPU: Fraction(3)}))],
        images=[],
        model_services=[],
        overcommit=overcommit,
        now=1,
    )


def usable(connection: Connection) -> list[tuple[int, int]]:
    """vCPUs and GiB that each host gives out."""
    return [(h.usable[VCPU], h.usable[MEMORY] // GIB) for h in fleet.hosts(connection).values() if h.usable]


def test_the_newest_start_sets_the_fleets_overcommit_and_every_host_gives_out_by_it_at_once(db: Database) -> None:
    assert db.write(lambda c: start(c, Overcommit())) == Overcommit()
    for number in (1, 2):
        db.write(set_size, f"{number:032x}", vcpu=8, memory=4 * GIB)
    assert db.read(usable) == [(8, 4), (24, 4)]
    assert db.write(lambda c: start(c, TWICE)) == Overcommit()
    assert db.read(settings.overcommit) == TWICE
    assert db.read(usable) == [(16, 3), (24, 3)], "what the host itself overrides stays"


def test_a_probe_counts_by_the_fleets_overcommit_whoever_started_last(db: Database) -> None:
    db.write(lambda c: start(c, TWICE))
    db.write(lambda c: set_size(c, f"{1:032x}", vcpu=10, memory=2 * GIB))
    assert db.read(usable) == [(20, 1)]


def test_a_start_with_the_same_file_tells_nobody_of_a_change(db: Database) -> None:
    db.write(lambda c: start(c, TWICE))
    before = db.read(events.head)
    assert db.write(lambda c: start(c, TWICE)) == TWICE
    assert db.read(events.head) == before
