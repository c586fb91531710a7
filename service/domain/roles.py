"""Roles within a group: which there are, in which order they start, and how many members a node asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain.groups import Instance, InstanceStatus
from service.domain.specs import NodeSpec
from service.errors import FieldViolation

UNSET = -1
"""A start order that a face leaves open."""

# A role is in the state of the member that has the furthest way to go.
_FURTHEST = (
    InstanceStatus.FAILING,
    InstanceStatus.REMOVING,
    InstanceStatus.EVICTING,
    InstanceStatus.STOPPING,
    InstanceStatus.STOPPED,
    InstanceStatus.PENDING,
    InstanceStatus.CLAIMED,
    InstanceStatus.CREATING,
    InstanceStatus.CREATED,
    InstanceStatus.BOOTING,
    InstanceStatus.RUNNING,
)


@dataclass(frozen=True, slots=True)
class RoleState:
    """Where the members of one role stand; those that leave are not counted."""

    role: str
    start_order: int
    members: int
    running: int
    status: InstanceStatus


def orders(nodes: Sequence[NodeSpec]) -> Mapping[str, int]:
    """Role -> its start order, of the nodes that name one; 0 where none of its nodes says."""
    said = {node.role: node.start_order for node in reversed(nodes) if node.role and node.start_order != UNSET}
    return {node.role: said.get(node.role, 0) for node in nodes if node.role}


def violations(nodes: Sequence[NodeSpec], known: Mapping[str, int]) -> Iterator[FieldViolation]:
    """What is wrong with what nodes say of roles and counts, by their place in the request. `known`: of the group that
    they are to join."""
    settled = {**orders(nodes), **known}
    for position, node in enumerate(nodes):
        path = f"model_services[{position}]"
        if node.start_order not in (UNSET, 0) and not node.role:
            yield FieldViolation(f"{path}.start_order", "is a role's: name the role that the machine has")
        elif node.start_order not in (UNSET, settled.get(node.role, 0)):
            told = f"is {node.start_order}; role {node.role} has {settled[node.role]}"
            yield FieldViolation(f"{path}.start_order", told)
        if node.count > 1 and node.is_initial_node:
            yield FieldViolation(f"{path}.count", "must be 1 for the initial node")
        if node.count > 1 and node.node_rank >= 0:
            yield FieldViolation(f"{path}.count", "must be 1 where the node has a rank")


def expanded(nodes: Sequence[NodeSpec], known: Mapping[str, int]) -> tuple[NodeSpec, ...]:
    """One node for each member, with the start order of its role. Several of one name are numbered from 0."""
    settled = {**orders(nodes), **known}
    return tuple(
        replace(
            node,
            name=f"{node.name}-{number}" if node.name and node.count > 1 else node.name,
            start_order=settled.get(node.role, 0),
            count=1,
        )
        for node in nodes
        for number in range(node.count)
    )


def states(members: Sequence[Instance]) -> tuple[RoleState, ...]:
    """Each role's state, in the order in which roles start; nothing for a group without roles."""
    by_role: dict[str, list[Instance]] = {}
    for member in members:
        if not member.leaving:
            by_role.setdefault(member.spec.role, []).append(member)
    if set(by_role) <= {""}:
        return ()
    found = [_state(role, of_role) for role, of_role in by_role.items()]
    return tuple(sorted(found, key=lambda state: (state.start_order, state.role)))


def _state(role: str, members: Sequence[Instance]) -> RoleState:
    running = sum(m.status is InstanceStatus.RUNNING for m in members)
    furthest = min((m.status for m in members), key=lambda s: _FURTHEST.index(s) if s in _FURTHEST else 0)
    return RoleState(role, members[0].spec.start_order, len(members), running, furthest)


def change(members: Sequence[Instance], counts: Mapping[str, int]) -> tuple[list[NodeSpec], list[str]]:
    """(nodes to add, uuids of members to remove) for as many members of each role as `counts` says.

    New ones are as the role's first; those of the highest ranks leave. Raises KeyError for a role that there is not,
    ValueError where the initial node would have to leave.
    """
    added: list[NodeSpec] = []
    removed: list[str] = []
    for role, count in sorted(counts.items()):
        mine = sorted((m for m in members if m.spec.role == role and not m.leaving), key=lambda m: m.rank)
        if not mine:
            raise KeyError(role)
        workers = [m for m in mine if m.rank]
        if count < len(mine) - len(workers):
            raise ValueError(role)
        kind = replace(mine[0].spec, name="", node_rank=-1, is_initial_node=False, model_service_version=0)
        added += [kind] * (count - len(mine))
        removed += [m.uuid for m in workers[len(workers) - (len(mine) - count) :]] if count < len(mine) else []
    return added, removed
