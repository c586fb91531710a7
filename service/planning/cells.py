"""NUMA cells between the fleet's rows and the planner. Pure.

The planner counts a host's cells from 0; the rows have the hypervisor's own numbers. It takes no more than so many: of
a host with more it is told those with the most memory left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from placement.fleet import MAX_CELLS
from placement.model import Assignment
from placement.model import Cell as PlannersCell
from service.domain.cells import PINNED, Cell, NumaPolicy
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Instance
from service.domain.specs import MachineType, NodeSpec


def told(host: Host) -> tuple[Cell, ...]:
    """The host's cells that the planner is told of, in the order in which it counts them; none of a host that is given
    out as a whole."""
    there = [cell for cell in host.cells if any(cell.total.values()) and not host.bare_metal]
    if len(there) > MAX_CELLS:
        there = sorted(there, key=lambda cell: (-cell.free(MEMORY), cell.number))[:MAX_CELLS]
    return tuple(sorted(there, key=lambda cell: cell.number))


def seen(host: Host) -> tuple[PlannersCell, ...]:
    """The cells as the planner sees them."""
    return tuple(
        PlannersCell(
            capacity={name: cell.allocatable.get(name, 0) for name in PINNED},
            used={name: cell.used.get(name, 0) + cell.foreign.get(name, 0) for name in PINNED},
        )
        for cell in told(host)
    )


def positions(host: Host, numbers: Iterable[int]) -> tuple[int, ...]:
    """What the planner calls these cells; those that it is not told of are left out."""
    known = [cell.number for cell in told(host)]
    return tuple(known.index(number) for number in numbers if number in known)


def asked(policy: NumaPolicy, node: NodeSpec) -> int:
    """How many cells the planner is to pin the member to; 0: none. Whole machines come with all of theirs.

    As many as it asks for itself. Else one whose devices are to be of its own cell is pinned to one, whatever is said
    of the group's members.
    """
    if node.type is not MachineType.VIRTUAL_MACHINE:
        return 0
    required = wanted(policy, node) is NumaPolicy.REQUIRED or any(gpu.numa is NumaPolicy.REQUIRED for gpu in node.gpus)
    return node.numa_cells or int(required)


def wanted(policy: NumaPolicy, node: NodeSpec) -> NumaPolicy:
    """What holds for a member, and for its devices where they say nothing else: one that asks for cells must have
    them, and what it says itself stands over what is said of the group's members."""
    if node.numa_cells:
        return NumaPolicy.REQUIRED
    return policy if node.numa is None else node.numa


def given(
    landing: Sequence[Instance], assignments: Iterable[Assignment], hosts: Mapping[str, Host], policy: NumaPolicy
) -> dict[str, tuple[int, ...]]:
    """The cells that each landing member is pinned to, by uuid; members that float are left out.

    Where it is only preferred the planner has looked at the cells of those alone that must have some: the largest of
    the others are first, and each gets the cell that it leaves the least memory in.
    """
    where = {a.node: a for a in assignments}
    found = {
        m.uuid: tuple(told(hosts[where[m.uuid].host])[position].number for position in where[m.uuid].cells)
        for m in landing
        if where[m.uuid].cells
    }
    prefer = {m.uuid for m in landing if wanted(policy, m.spec) is NumaPolicy.PREFERRED}
    if not prefer:
        return found
    free: dict[str, dict[int, dict[str, int]]] = {}
    for member in sorted(landing, key=lambda m: (m.uuid not in found, -m.spec.memory_size, m.rank)):
        host = hosts[where[member.uuid].host]
        cells = free.setdefault(host.uuid, {c.number: {name: c.free(name) for name in PINNED} for c in told(host)})
        takes = _takes(member.spec, host)
        if member.uuid in found:
            mine = found[member.uuid]
            for number in mine:
                cells[number] = {name: left - -(-takes[name] // len(mine)) for name, left in cells[number].items()}
            continue
        if member.uuid not in prefer:
            continue
        fitting = [n for n, left in cells.items() if all(left[name] >= takes[name] for name in PINNED)]
        if fitting:
            number = min(fitting, key=lambda n: (cells[n][MEMORY], n))
            cells[number] = {name: left - takes[name] for name, left in cells[number].items()}
            found[member.uuid] = (number,)
    return found


def _takes(node: NodeSpec, host: Host) -> dict[str, int]:
    """What one cell gives to a member, with what its hypervisor takes beside."""
    return {
        VCPU: node.cpu_num + host.beside.get(VCPU, 0),
        MEMORY: node.memory_size + host.beside.get(MEMORY, 0),
    }
