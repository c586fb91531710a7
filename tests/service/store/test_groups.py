"""A group comes back from the database as it was put in, and pages show each group once, in order."""

from __future__ import annotations

import string
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from placement.model import Explanation
from service.domain.groups import (
    Failure,
    Group,
    GroupPhase,
    GroupStatus,
    Instance,
    InstanceStatus,
    PlacementRecord,
    Seat,
)
from service.domain.specs import (
    CreationStrategy,
    FailurePolicy,
    GpuRequest,
    GroupSpec,
    NodeSpec,
    PlacementPolicy,
    PlacementStrategy,
)
from service.errors import AlreadyExists, NotFound
from service.store import group_pages, groups, schema
from tests.support.builders import ZONE, group
from tests.support.database import Database, together

# What validation lets through: no control characters, and nothing that XML or PostgreSQL cannot hold.
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=40)
hexes = st.text("0123456789abcdef", min_size=32, max_size=32)
times = st.integers(0, 2**53)
names = st.text(string.ascii_lowercase, min_size=1, max_size=8)

nodes = st.builds(
    NodeSpec,
    name=words,
    model_service_uuid=hexes,
    zone_uuid=hexes,
    cpu_num=st.integers(1, 4096),
    memory_size=st.integers(1, 2**50),
    timeout_ms=times,
    environment_variables=st.dictionaries(names, words, max_size=3),
    startup_parameters=words,
    gpus=st.lists(st.builds(GpuRequest, model=names, count=st.integers(1, 16)), max_size=2).map(tuple),
    labels=st.dictionaries(names, words, max_size=2),
)
specs = st.builds(
    GroupSpec,
    name=words,
    nodes=st.lists(nodes, min_size=1, max_size=4).map(
        lambda found: tuple(replace(n, node_rank=i, is_initial_node=i == 0) for i, n in enumerate(found))
    ),
    creation_strategy=st.sampled_from(CreationStrategy),
    description=words,
    system_tags=st.lists(words, max_size=3).map(tuple),
    failure_policy=st.sampled_from(FailurePolicy),
    failure_budget=st.integers(0, 100),
    placement=st.builds(
        PlacementPolicy,
        strategy=st.sampled_from(PlacementStrategy),
        exclusive_hosts=st.booleans(),
        anti_affinity_groups=st.lists(hexes, max_size=2).map(tuple),
    ),
    deadline_ms=times,
)
failures = st.none() | st.builds(
    Failure, code=names, message=words, explanation=st.none() | st.just(Explanation("nothing fits", ()))
)
records = st.none() | st.builds(
    PlacementRecord,
    assignments=st.lists(
        st.builds(
            Seat,
            instance_uuid=hexes,
            rank=st.integers(0, 9),
            name=words,
            host_uuid=hexes,
            host_name=words,
            zone_uuid=hexes,
            resources=st.dictionaries(names, st.integers(1, 2**60), max_size=3),
        ),
        max_size=2,
    ).map(tuple),
    strategy=st.sampled_from(PlacementStrategy),
    objective=st.floats(-1e9, 1e9),
    lower_bound=st.floats(-1e9, 1e9),
    upper_bound=st.floats(-1e9, 1e9),
    proof=names,
    stage=names,
)


@st.composite
def members(draw: st.DrawFn, group_uuid: str, spec: NodeSpec) -> Instance:
    """One member in any state."""
    return Instance(
        uuid=draw(hexes),
        group_uuid=group_uuid,
        spec=spec,
        status=draw(st.sampled_from(InstanceStatus)),
        reason=draw(words),
        host_uuid=draw(st.just("") | hexes),
        host_name=draw(words),
        attempt=draw(st.integers(1, 1000)),
        restarts=draw(st.integers(0, 1000)),
        address=draw(st.sampled_from(["", "10.9.0.10", "2001:db8::1"])),
        unknown_since=draw(times),
        deadline_at=draw(times),
        boot_timeout_ms=draw(times),
        was_resumed=draw(st.booleans()),
        stop_asked=draw(st.booleans()),
        created_at=draw(times),
        updated_at=draw(times),
    )


@st.composite
def stored_groups(draw: st.DrawFn) -> Group:
    """A group in any state, with members that belong to it."""
    spec, uuid = draw(specs), draw(hexes)
    found = tuple(draw(members(uuid, node)) for node in spec.nodes)
    return Group(
        uuid=uuid,
        spec=spec,
        phase=draw(st.sampled_from(GroupPhase)),
        status=draw(st.sampled_from(GroupStatus)),
        reason=draw(words),
        failure=draw(failures),
        placement=draw(records),
        project=draw(words),
        principal=draw(words),
        instances=found,
        start_epoch=draw(st.integers(0, 1000)),
        go=draw(st.booleans()),
        served=draw(st.booleans()),
        failures=draw(st.integers(0, 100)),
        excluded_hosts=tuple(draw(st.lists(hexes, max_size=3))),
        sequence=draw(times),
        version=draw(times),
        revision=draw(times),
        deadline_at=draw(times),
        created_at=draw(times),
        updated_at=draw(times),
    )


def _distinct(found: Group) -> bool:
    return len({m.uuid for m in found.instances}) == len(found.instances)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=stored_groups().filter(_distinct), after=stored_groups())
def test_what_is_saved_is_what_is_loaded(db: Database, before: Group, after: Group) -> None:
    members = [m.uuid for m in before.instances]
    known = select(schema.instances.c.uuid).where(schema.instances.c.uuid.in_(members))
    taken = db.read(lambda c: bool(c.execute(known).all()))
    if taken or db.read(lambda c: groups.load_many(c, [before.uuid])):
        return  # the examples of one test share a database
    db.write(lambda c: groups.create(c, before, due_at=0))
    assert db.read(lambda c: groups.load(c, before.uuid)) == before
    told = {m.rank: m for m in after.instances}
    changed = replace(
        after,
        uuid=before.uuid,
        spec=before.spec,
        project=before.project,
        principal=before.principal,
        created_at=before.created_at,
        instances=tuple(
            replace(told[m.rank], uuid=m.uuid, group_uuid=before.uuid, spec=m.spec) if m.rank in told else m
            for m in before.instances
        ),
    )
    db.write(lambda c: groups.save(c, before, changed))
    assert db.read(lambda c: groups.load(c, before.uuid)) == changed
    assert db.read(lambda c: groups.load_many(c, [before.uuid, "0" * 31 + "x"])) == (changed,)


def test_a_group_that_is_not_there_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound):
        db.read(lambda c: groups.load(c, "e" * 32))


def _put(db: Database, number: int, **changes: object) -> Group:
    made = group(1, uuid=f"{number:032x}", **changes)
    made = replace(
        made, instances=tuple(replace(m, uuid=f"{number:031x}c", zone_uuid=m.spec.zone_uuid) for m in made.instances)
    )
    db.write(lambda c: groups.create(c, made, due_at=0))
    return made


def test_pages_show_every_group_once_by_creation(db: Database) -> None:
    made = [_put(db, number, created_at=(number * 7) % 5) for number in range(12)]
    expected = [g.uuid for g in sorted(made, key=lambda g: (g.created_at, g.uuid))]
    shown: list[str] = []
    after: tuple[int, str] | None = None
    while found := db.read(partial(group_pages.page, project=None, after=after, limit=5)):
        shown += [g.uuid for g in found]
        after = found[-1].created_at, found[-1].uuid
    assert shown == expected


def test_pages_filter_by_what_was_asked_for(db: Database) -> None:
    one = _put(db, 1, project="a", user_tags=("blue", 'with "quotes" and 100%'), created_at=1)
    two = _put(db, 2, project="b", name="blue", status=GroupStatus.RUNNING, created_at=2)
    _put(db, 3, phase=GroupPhase.DELETED, created_at=3)

    def shown(project: str | None = None, **filters: object) -> list[str]:
        found = db.read(lambda c: group_pages.page(c, project=project, after=None, limit=10, **filters))  # type: ignore[arg-type]
        return [g.uuid for g in found]

    assert shown() == [one.uuid, two.uuid]
    assert shown(project="b") == [two.uuid]
    assert shown(name="blue") == [two.uuid]
    assert shown(statuses=("Running", "Stopped")) == [two.uuid]
    assert shown(tag="blue") == [one.uuid]  # the other one only has it for a name
    assert shown(tag='with "quotes" and 100%') == [one.uuid]
    assert shown(tag="_lue") == []
    assert shown(zone_uuid=ZONE) == [one.uuid, two.uuid]
    assert shown(zone_uuid="0" * 32) == []


def test_a_filter_that_hides_most_still_fills_its_page(db: Database) -> None:
    for number in range(9):
        _put(db, number, description="rare", created_at=number)
    last = _put(db, 9, user_tags=("rare",), created_at=9)
    found = db.read(lambda c: group_pages.page(c, project=None, after=None, limit=2, tag="rare"))
    assert [g.uuid for g in found] == [last.uuid]


def test_the_uuid_of_a_deleted_group_becomes_anothers_once_and_that_of_a_living_one_never(db: Database) -> None:
    first = group(2, placement=PlacementPolicy(anti_affinity_groups=("b" * 32,)))
    db.write(lambda c: groups.create(c, first, due_at=0))
    with pytest.raises(AlreadyExists):
        db.write(lambda c: groups.forget_deleted(c, first.uuid))
    over = replace(first, phase=GroupPhase.DELETED, status=GroupStatus.DELETED)
    db.write(lambda c: groups.save(c, first, over))
    members = tuple(replace(m, uuid=f"{n:032x}") for n, m in enumerate(group(1).instances, 100))
    second = replace(group(1), instances=members, version=7)

    def again(connection: Connection) -> None:
        groups.forget_deleted(connection, first.uuid)
        groups.create(connection, second, due_at=0)

    outcomes = together([partial(db.write, again) for _ in range(4)])
    assert sorted(type(one).__name__ for one in outcomes) == ["AlreadyExists"] * 3 + ["NoneType"]
    assert db.read(lambda c: groups.load(c, first.uuid)) == second
    assert db.read(groups.keeping_apart) == {}
