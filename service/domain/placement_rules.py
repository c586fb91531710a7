"""Which rules of a placement policy can never hold together, or never for this group: told by field. Pure.

What depends on the fleet the planner says. Refused here is what no fleet could keep, and what would have no effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from placement.reasons import Family
from service.domain.cells import NumaPolicy
from service.domain.specs import HostLabel, NodeSpec, PlacementPolicy
from service.errors import FieldViolation

PATH = "placement_policy"
RESERVED = "corral."
"""What the keys of labels begin with that the planner is given beside those of a host's operator."""


def violations(policy: PlacementPolicy, nodes: Sequence[NodeSpec], own_uuid: str = "") -> Iterator[FieldViolation]:
    """What is wrong with a policy for a group of these nodes. `own_uuid`: the group's, where its caller chose it."""
    yield from _bounds(policy, nodes)
    yield from _labels(policy)
    yield from _groups(policy, own_uuid)


def fields_of(policy: PlacementPolicy) -> Mapping[Family, tuple[str, ...]]:
    """Family of constraints -> the policy's fields that are hard rules of it, as an explanation names them."""
    said: Mapping[Family, Mapping[str, object]] = {
        Family.ANTI_AFFINITY: {
            "max_per_host": policy.max_per_host,
            "max_per_rack": policy.max_per_rack,
            "max_per_zone": policy.max_per_zone,
            "survive": policy.survive,
            "anti_affinity_group_uuids": policy.anti_affinity_groups,
        },
        Family.AFFINITY: {
            "same_rack": policy.same_rack,
            "max_racks": policy.max_racks,
            "same_zone": policy.same_zone,
            "affinity_group_uuids": policy.affinity_groups,
        },
        Family.SPREAD: {
            "min_hosts": policy.min_hosts,
            "min_racks": policy.min_racks,
            "min_zones": policy.min_zones,
        },
        Family.SPARE_HOSTS: {"spare_hosts": policy.spare_hosts},
        Family.LABELS: {"required_host_labels": policy.required_host_labels},
        Family.EXCLUSIVE: {"exclusive_hosts": policy.exclusive_hosts},
        Family.NUMA: {"numa": policy.numa is NumaPolicy.REQUIRED},
    }
    found = {family: tuple(f"{PATH}.{n}" for n, value in fields.items() if value) for family, fields in said.items()}
    return {family: fields for family, fields in found.items() if fields}


def _bounds(policy: PlacementPolicy, nodes: Sequence[NodeSpec]) -> Iterator[FieldViolation]:
    size = len(nodes)
    for scope, least in (("hosts", policy.min_hosts), ("racks", policy.min_racks), ("zones", policy.min_zones)):
        if least > size:
            yield FieldViolation(f"{PATH}.min_{scope}", f"is {least}, and the group has {size} members")
    if policy.same_rack and policy.min_racks > 1:
        yield FieldViolation(f"{PATH}.min_racks", "cannot hold together with same_rack")
    if policy.same_zone and policy.min_zones > 1:
        yield FieldViolation(f"{PATH}.min_zones", "cannot hold together with same_zone")
    if 0 < policy.max_racks < policy.min_racks:
        yield FieldViolation(f"{PATH}.max_racks", f"is {policy.max_racks}, and min_racks is {policy.min_racks}")
    if policy.same_rack and policy.max_racks > 1:
        yield FieldViolation(f"{PATH}.max_racks", "has no effect: same_rack says that it is one")
    if policy.max_racks and 0 < policy.max_racks * policy.max_per_rack < size:
        room = policy.max_racks * policy.max_per_rack
        yield FieldViolation(f"{PATH}.max_racks", f"leaves {room} places by max_per_rack, and there are {size} members")
    yield from _survives(policy, size)
    for scope, most, together in (
        ("rack", policy.max_per_rack, policy.same_rack),
        ("zone", policy.max_per_zone, policy.same_zone),
    ):
        if together and 0 < most < size:
            message = f"is {most}, and same_{scope} puts all {size} members together"
            yield FieldViolation(f"{PATH}.max_per_{scope}", message)
    yield from _zones(policy, nodes)


def _survives(policy: PlacementPolicy, size: int) -> Iterator[FieldViolation]:
    survive = policy.survive
    if survive is None:
        return
    if survive.members >= size:
        message = f"is {survive.members}: with any rack at least one of the group's {size} members is lost"
        yield FieldViolation(f"{PATH}.survive.members", message)
    elif policy.same_rack:
        yield FieldViolation(f"{PATH}.survive", "cannot hold together with same_rack")
    elif 0 < policy.max_racks * survive.most_in_a_rack(size) < size:
        yield FieldViolation(f"{PATH}.survive", f"cannot hold together with {policy.max_racks} racks at most")


def _zones(policy: PlacementPolicy, nodes: Sequence[NodeSpec]) -> Iterator[FieldViolation]:
    asked = Counter(node.zone_uuid for node in nodes)
    free = asked.pop("", 0)
    if policy.same_zone and len(asked) > 1:
        yield FieldViolation(f"{PATH}.same_zone", f"the nodes name {len(asked)} different zones")
    if len(asked) + free < policy.min_zones <= len(nodes):
        yield FieldViolation(
            f"{PATH}.min_zones", f"is {policy.min_zones}, and the nodes can be in {len(asked) + free} zones at most"
        )
    if policy.max_per_zone and asked and max(asked.values()) > policy.max_per_zone:
        yield FieldViolation(
            f"{PATH}.max_per_zone", f"is {policy.max_per_zone}, and {max(asked.values())} nodes name one zone"
        )


def _labels(policy: PlacementPolicy) -> Iterator[FieldViolation]:
    allowed: dict[str, frozenset[str]] = {}
    for position, label in enumerate(policy.required_host_labels):
        path = f"{PATH}.required_host_labels[{position}].key"
        yield from _key(label, path)
        if label.key in allowed:
            yield FieldViolation(path, "is in the list already; one entry names all values that will do")
        allowed[label.key] = frozenset(label.values)
    for position, label in enumerate(policy.preferred_host_labels):
        path = f"{PATH}.preferred_host_labels[{position}]"
        yield from _key(label, f"{path}.key")
        if label.key in allowed and not allowed[label.key] & set(label.values):
            yield FieldViolation(
                f"{path}.values", f"can never be: required_host_labels names other values of {label.key}"
            )


def _key(label: HostLabel, path: str) -> Iterator[FieldViolation]:
    if label.key.startswith(RESERVED):
        yield FieldViolation(path, f"begins with {RESERVED}, which no host's label does")


def _groups(policy: PlacementPolicy, own_uuid: str) -> Iterator[FieldViolation]:
    near: Mapping[str, Sequence[str]] = {
        "affinity_group_uuids": policy.affinity_groups,
        "preferred_affinity_groups": [one.group_uuid for one in policy.preferred_affinity],
    }
    apart: Mapping[str, Sequence[str]] = {
        "anti_affinity_group_uuids": policy.anti_affinity_groups,
        "preferred_anti_affinity_groups": [one.group_uuid for one in policy.preferred_anti_affinity],
    }
    wanted = {uuid for uuids in near.values() for uuid in uuids}
    for name, uuids in {**near, **apart}.items():
        seen: set[str] = set()
        for position, uuid in enumerate(uuids):
            path = f"{PATH}.{name}[{position}]" + (".group_uuid" if name.startswith("preferred") else "")
            if uuid in seen:
                yield FieldViolation(path, "is in the list already")
            elif uuid == own_uuid:
                yield FieldViolation(path, "is the group itself")
            elif name in apart and uuid in wanted:
                yield FieldViolation(path, "is among the groups to be near to")
            elif name.startswith("preferred") and uuid in (*policy.affinity_groups, *policy.anti_affinity_groups):
                yield FieldViolation(path, "is a rule already, and need not be wished for")
            seen.add(uuid)
    if policy.exclusive_hosts and wanted:
        name = next(name for name, uuids in near.items() if uuids)
        yield FieldViolation(f"{PATH}.{name}", "cannot hold together with exclusive_hosts: these groups have the hosts")
