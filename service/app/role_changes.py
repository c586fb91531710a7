"""A change by role as members that join and members that leave. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.domain import roles
from service.domain.groups import Group, Instance
from service.domain.specs import NodeSpec
from service.errors import FieldViolation, InvalidArgument, NotFound

_NODES, _UPDATES = "model_services[", "role_updates["


@dataclass(frozen=True, slots=True)
class RoleChange:
    """`counts`: how many members each of these roles shall have. `updates`: one node a role, by which all members of
    the role are replaced; `count` 0: by as many as there are."""

    counts: Mapping[str, int] = field(default_factory=dict)
    updates: Sequence[NodeSpec] = ()

    def __bool__(self) -> bool:
        return bool(self.counts or self.updates)


def joining_and_leaving(group: Group, change: RoleChange) -> tuple[Sequence[NodeSpec], Sequence[str]]:
    """(nodes that join, uuids of members that leave). Raises InvalidArgument, naming the field."""
    return _updated(group, change.updates) if change.updates else _counted(group, change.counts)


def named_as_asked(error: InvalidArgument | NotFound) -> InvalidArgument | NotFound:
    """What is wrong with a node of an update, by the field that its caller wrote."""
    if isinstance(error, NotFound):
        return NotFound(error.resource_type, error.resource_name, error.field.replace(_NODES, _UPDATES, 1))
    return InvalidArgument(
        [FieldViolation(v.field.replace(_NODES, _UPDATES, 1), v.description) for v in error.violations]
    )


def _counted(group: Group, counts: Mapping[str, int]) -> tuple[Sequence[NodeSpec], Sequence[str]]:
    for role in counts:
        _members(group, role, "role_counts")
    try:
        added, removed = roles.change(group.instances, counts)
    except ValueError as error:
        raise InvalidArgument.of(f"role_counts[{error.args[0]}]", "the initial node cannot be removed") from error
    if not added and not removed:
        raise InvalidArgument.of("role_counts", "every role has so many members already")
    return added, removed


def _updated(group: Group, updates: Sequence[NodeSpec]) -> tuple[Sequence[NodeSpec], Sequence[str]]:
    added: list[NodeSpec] = []
    removed: list[str] = []
    for position, node in enumerate(updates):
        path = f"role_updates[{position}]"
        old = _members(group, node.role, f"{path}.role")
        if any(m.rank == 0 for m in old):
            raise InvalidArgument.of(f"{path}.role", "the initial node has it, which cannot be replaced")
        order = old[0].spec.start_order if node.start_order == roles.UNSET else node.start_order
        added.append(replace(node, count=node.count or len(old), start_order=order))
        removed += [m.uuid for m in old]
    return added, removed


def _members(group: Group, role: str, path: str) -> Sequence[Instance]:
    found = [m for m in group.instances if m.spec.role == role and not m.leaving]
    if not found:
        there = ", ".join(sorted({m.spec.role for m in group.instances if m.spec.role})) or "none"
        raise InvalidArgument.of(path, f"the group has no role {role}; it has: {there}")
    return found
