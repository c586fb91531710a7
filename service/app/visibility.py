"""What a caller may see of groups, and of what other groups its request may speak."""

from __future__ import annotations

from service.app.identity import ADMIN
from service.domain.groups import Group, GroupPhase
from service.domain.specs import PlacementPolicy
from service.domain.tenants import Caller
from service.errors import NotFound
from service.store import groups
from service.store.connection import Connection


def project_of(caller: Caller) -> str | None:
    """The tenant whose groups the caller sees; None: all of them."""
    return None if caller.role == "admin" else caller.project


def sees_causes(caller: Caller) -> bool:
    """Whether the caller is told what a host itself said of a failure: it may name files and bridges of the host,
    which are for those who see hosts."""
    return caller.role == ADMIN


def visible(caller: Caller, group: Group) -> Group:
    """The group, or NotFound where it is deleted or another tenant's: the two cannot be told apart."""
    if group.phase is GroupPhase.DELETED or project_of(caller) not in (None, group.project):
        raise NotFound("instance group", group.uuid)
    return group


def require_visible(connection: Connection, caller: Caller, policy: PlacementPolicy) -> None:
    """The policy may name groups that the caller sees, and no others. Raises NotFound, naming the field.

    To be near to another tenant's group would tell on which hosts that runs; to be apart from it would keep it off
    hosts. Both are refused as for a uuid that no group has. A deleted group may be named: everybody is apart from it.
    """
    near = [(f"affinity_group_uuids[{n}]", uuid) for n, uuid in enumerate(policy.affinity_groups)]
    near += [
        (f"preferred_affinity_groups[{n}].group_uuid", one.group_uuid)
        for n, one in enumerate(policy.preferred_affinity)
    ]
    for field, uuid in near:
        try:
            visible(caller, groups.load(connection, uuid))
        except NotFound as error:
            raise NotFound("instance group", uuid, f"placement_policy.{field}") from error
    apart = [(f"anti_affinity_group_uuids[{n}]", uuid) for n, uuid in enumerate(policy.anti_affinity_groups)]
    apart += [
        (f"preferred_anti_affinity_groups[{n}].group_uuid", one.group_uuid)
        for n, one in enumerate(policy.preferred_anti_affinity)
    ]
    project = project_of(caller)
    others = [uuid for _, uuid in apart]
    own = {g.uuid for g in groups.load_many(connection, others) if project in (None, g.project)}
    for field, uuid in apart:
        if uuid not in own:
            raise NotFound("instance group", uuid, f"placement_policy.{field}")
