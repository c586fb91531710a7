"""NUMA cells between rows and planner: what it is told, and what members are given where it was not asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from placement.engine import place
from placement.model import Policy, Status
from service.domain.cells import Cell, NumaPolicy
from service.domain.fleet import MEMORY, VCPU, Host, HostStatus
from service.domain.groups import Group, PlacementRecord
from service.domain.specs import PlacementPolicy
from service.planning import cells, translate
from tests.support.builders import group, host

GIB = 1 << 30


def with_cells(number: int, *memory: int, numbers: tuple[int, ...] = (), **changes: Any) -> Host:
    """A host of 8 vCPUs a cell, each with so many GiB."""
    amounts = [{VCPU: 8, MEMORY: gib * GIB} for gib in memory]
    whole = {VCPU: 8 * len(memory), MEMORY: sum(memory) * GIB}
    found = tuple(Cell(n, a, a) for n, a in zip(numbers or range(len(memory)), amounts, strict=True))
    values = {"status": HostStatus.CONNECTED, "total": whole, "allocatable": whole, "cells": found, **changes}
    return host(number, **values)


def gang(size: int, numa: NumaPolicy, gib: int) -> Group:
    made = group(size, placement=PlacementPolicy(numa=numa))
    members = (replace(m, spec=replace(m.spec, memory_size=gib * GIB)) for m in made.instances)
    return replace(made, instances=tuple(members))


def record(asked: Group, *hosts: Host) -> PlacementRecord | None:
    """Where the planner puts it."""
    fleet = {h.uuid: h for h in hosts}
    decision = place(translate.snapshot(fleet, {}), translate.request(asked, None, fleet), Policy())
    return translate.record(asked, decision, fleet, 1.0, 1) if decision.status is Status.PLACED else None


def test_cells_have_the_hypervisors_own_numbers_on_both_sides() -> None:
    found = record(gang(2, NumaPolicy.REQUIRED, 10), with_cells(1, 12, 12, numbers=(0, 8)))
    assert found is not None
    assert sorted(seat.cells for seat in found.assignments) == [(0,), (8,)]
    assert found.assignments[0].claimed.keys() > {VCPU, MEMORY}
    assert record(gang(1, NumaPolicy.REQUIRED, 13), with_cells(1, 12, 12)) is None
    assert record(gang(1, NumaPolicy.REQUIRED, 1), with_cells(1)) is None


def test_of_more_cells_than_the_planner_takes_it_is_told_those_with_room() -> None:
    many = with_cells(1, *([2] * 9), 40)
    told = cells.told(many)
    assert len(told) == 8
    assert told[-1].number == 9, "in the order of their numbers, the roomiest among them"
    found = record(gang(1, NumaPolicy.REQUIRED, 30), many)
    assert found is not None
    assert found.assignments[0].cells == (9,)


def test_where_it_is_preferred_a_member_floats_only_if_no_cell_of_its_host_has_room() -> None:
    found = record(gang(3, NumaPolicy.PREFERRED, 10), with_cells(1, 12, 18))
    assert found is not None
    assert sorted(seat.cells for seat in found.assignments) == [(), (0,), (1,)]
    alone = record(gang(1, NumaPolicy.PREFERRED, 10), with_cells(1, 12, 18, beside={MEMORY: 3 * GIB}))
    assert alone is not None
    assert alone.assignments[0].cells == (1,), "what its hypervisor takes beside is of the cell too"
    floating = record(gang(2, NumaPolicy.NONE, 10), with_cells(1, 12, 18))
    assert floating is not None
    assert [seat.cells for seat in floating.assignments] == [(), ()]


def test_a_member_that_leaves_gives_its_cell_back_in_the_plan() -> None:
    taken = with_cells(1, 12, 12)
    fleet = {taken.uuid: taken}
    seats = {taken.uuid: [("f" * 32, "e" * 32, False)]}
    seen = translate.snapshot(fleet, seats, pinned={taken.uuid: {"f" * 32: (1,)}}).hosts[0]
    assert (len(seen.cells), seen.members[0].cells) == (2, (1,))
