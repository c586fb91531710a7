"""What a caller may see of groups, and of what other groups its request may speak."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, PlacementPolicy
from service.domain.tenants import Caller
from service.errors import NotFound
from service.store import groups
from service.store.connection import Connection


def project_of(caller: Caller) -> str | None:
    """The tenant whose groups the caller sees; None: all of them."""
    return None if caller.role == "admin" else caller.project


def visible(caller: Caller, group: Group) -> Group:
    """The group, or NotFound where it is deleted or another tenant's: the two cannot be told apart."""
    if group.phase is GroupPhase.DELETED or project_of(caller) not in (None, group.project):
        raise NotFound("instance group", group.uuid)
    return group


def permitted(connection: Connection, caller: Caller, policy: PlacementPolicy) -> PlacementPolicy:
    """The policy as far as it speaks of groups that the caller may see.

    Near to another tenant's group would tell on which hosts it runs; apart from it would keep it off hosts. The first
    is NotFound, the second has no effect, both as for a uuid that no group has. Raises NotFound, naming the field.
    """
    for position, uuid in enumerate(policy.affinity_groups):
        try:
            visible(caller, groups.load(connection, uuid))
        except NotFound as error:
            field = f"placement_policy.affinity_group_uuids[{position}]"
            raise NotFound("instance group", uuid, field) from error
    project = project_of(caller)
    named = groups.load_many(connection, policy.anti_affinity_groups)
    foreign = {group.uuid for group in named if project not in (None, group.project)}
    apart = tuple(uuid for uuid in policy.anti_affinity_groups if uuid not in foreign)
    return replace(policy, anti_affinity_groups=apart)
