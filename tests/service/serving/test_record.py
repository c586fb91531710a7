"""A machine's record: enough to write its rows again, no value that is secret, no size that grows with the group."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from service.domain.groups import Group
from service.domain.recovery import MachineRecord, numbers, ranges
from service.domain.specs import HostLabel, PlacementPolicy, PreferredGroup
from service.serving.record import MOST_BYTES, machine_record
from service.store.codec import decode
from tests.support.builders import ZONE, entry, group

CANARY = "canary-5f0e"


def told(one: Group, rank: int = 0) -> MachineRecord:
    return decode(MachineRecord, machine_record(one, one.instances[rank], entry(version=3), 2))


def test_group_member_and_entry_come_back_as_they_were() -> None:
    one = group(3, project="p", principal="who", created_at=77, description="it's <fine> \u0001 & é", user_tags=("a",))
    member = replace(one.instances[1], zone_uuid=ZONE, address="10.9.0.11", mac="52:54:00:00:00:01", attempt=4)
    one = replace(one, instances=(one.instances[0], member, one.instances[2]))
    record = told(one, 1)
    assert record.group == Group(
        uuid=one.uuid, spec=replace(one.spec, nodes=()), project="p", principal="who", created_at=77
    )
    assert record.member == member
    assert record.entry == entry(version=3)
    assert (record.epoch, record.ranks) == (2, "0-2")


def test_roles_and_the_policy_are_kept_so_that_what_comes_back_is_placed_and_started_as_before() -> None:
    policy = PlacementPolicy(
        min_racks=2,
        spare_hosts=1,
        required_host_labels=(HostLabel("disk", ("ssd",)),),
        preferred_anti_affinity=(PreferredGroup("b" * 32, 3),),
    )
    one = group(2, placement=policy)
    member = replace(one.instances[1], spec=replace(one.instances[1].spec, role="decode", start_order=2))
    record = told(replace(one, instances=(one.instances[0], member)), 1)
    assert record.group.spec.placement == policy
    assert (record.member.spec.role, record.member.spec.start_order) == ("decode", 2)


def test_values_of_variables_and_parameters_are_left_out_and_names_and_references_stay() -> None:
    one = group(1)
    variables = {"TOKEN": CANARY, "BY_NAME": "secret://token"}
    spec = replace(one.instances[0].spec, environment_variables=variables, startup_parameters=f"--key {CANARY}")
    one = replace(one, instances=(replace(one.instances[0], spec=spec),))
    text = machine_record(one, one.instances[0], entry(environment={"ALSO": CANARY}), 1)
    assert CANARY not in text
    record = decode(MachineRecord, text)
    assert (record.environment, record.entry_environment, record.has_parameters) == (("TOKEN",), ("ALSO",), True)
    assert record.member.spec.environment_variables == {"BY_NAME": "secret://token"}


def test_a_record_does_not_grow_with_the_group() -> None:
    small, large = group(2), group(1024)
    sizes = [len(machine_record(g, g.instances[1], entry(), 1)) for g in (small, large)]
    assert sizes[1] <= sizes[0] + 8
    assert sizes[1] < 1500


def test_a_long_record_leaves_out_what_is_only_for_people() -> None:
    one = group(1, description="d" * MOST_BYTES, user_tags=("t" * 100,))
    text = machine_record(one, one.instances[0], entry(), 1)
    assert len(text) < 2000
    assert decode(MachineRecord, text).group.spec.name == one.spec.name


@pytest.mark.parametrize("of", [(), (0,), (0, 1, 2), (0, 2, 3, 7)])
def test_ranks_are_told_as_ranges(of: tuple[int, ...]) -> None:
    assert numbers(ranges(of)) == frozenset(of)


def test_a_record_is_one_line_of_ascii() -> None:
    one = group(1, description="é\n\u0001")
    text = machine_record(one, one.instances[0], entry(), 1)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["version"] == 1
