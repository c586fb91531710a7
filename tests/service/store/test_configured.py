"""What the configuration file says comes into the rows at a start, and holds for every replica."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from sqlalchemy import Connection, text

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


def given_out(connection: Connection) -> list[tuple[int, int]]:
    """vCPUs and GiB that each host gives out."""
    vectors = [h.allocatable for h in fleet.hosts(connection).values()]
    return [(v[VCPU], v[MEMORY] // GIB) for v in vectors if v]


def test_the_newest_start_sets_the_fleets_overcommit_and_every_host_gives_out_by_it_at_once(db: Database) -> None:
    assert db.write(lambda c: start(c, Overcommit())) == Overcommit()
    for number in (1, 2):
        db.write(set_size, f"{number:032x}", vcpu=8, memory=4 * GIB)
    assert db.read(given_out) == [(8, 4), (24, 4)]
    assert db.write(lambda c: start(c, TWICE)) == Overcommit()
    assert db.read(settings.overcommit) == TWICE
    assert db.read(given_out) == [(16, 3), (24, 3)], "what the host itself overrides stays"


def test_a_probe_counts_by_the_fleets_overcommit_whoever_started_last(db: Database) -> None:
    db.write(lambda c: start(c, TWICE))
    db.write(lambda c: set_size(c, f"{1:032x}", vcpu=10, memory=2 * GIB))
    assert db.read(given_out) == [(20, 1)]


def test_a_start_with_the_same_file_tells_nobody_of_a_change(db: Database) -> None:
    db.write(lambda c: start(c, TWICE))
    before = db.read(events.head)
    assert db.write(lambda c: start(c, TWICE)) == TWICE
    assert db.read(events.head) == before


def test_an_upgrade_that_gives_a_type_new_fields_is_no_word_of_the_file(db: Database) -> None:
    """What was changed at run time stays, though this version writes the same definition in another text."""
    db.write(lambda c: start(c, TWICE))
    changed = replace(db.read(lambda c: fleet.host(c, host(1).uuid)), rack="r9")
    db.write(lambda c: fleet.put_host(c, changed))
    for column in ("configured", "document"):  # as a version wrote them that had one field less and one named otherwise
        older = f"replace(replace({column}, ',\"hypervisor\":\"\"', ''), '\"allocatable\"', '\"usable\"')"
        db.write(lambda c, s=f"UPDATE hosts SET {column} = {older}": c.execute(text(s)))  # type: ignore[misc]
    assert "hypervisor" not in str(db.read(lambda c: c.execute(text("SELECT configured FROM hosts")).all()))
    db.write(lambda c: start(c, TWICE))
    assert db.read(lambda c: fleet.host(c, host(1).uuid)).rack == "r9"
