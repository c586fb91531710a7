"""Why a group could not be placed, in sentences: the planner's own counts and its checked cures."""

from __future__ import annotations

from collections.abc import Mapping

from corral.v1 import placement_pb2

_REASONS: Mapping[str, str] = {
    "unschedulable": "disabled, under maintenance or not answering",
    "excluded": "excluded for this group",
    "zone": "in another zone",
    "label": "without the wanted labels",
    "held": "an exclusive group's alone",
    "not_empty": "not empty of other groups' members",
    "affinity": "away from what the group must be near to",
    "anti_affinity": "too near to what the group must keep away from",
    "numa": "no socket with enough room",
    "resource_total": "too small even when empty",
    "resource_free": "too little free now",
    "device": "without as many devices free in one place",
}


def explain(failure: placement_pb2.PlacementFailure) -> list[str]:
    """Lines for people: what ruled the hosts out, what came nearest, what would help."""
    lines: list[str] = []
    for funnel in failure.funnels:
        lines += _funnel(funnel)
    miss = failure.nearest_miss
    if miss.missing:
        where = f"host {miss.host_name or miss.host_uuid}" if miss.host_uuid else "the nearest host"
        lines.append(f"  {where} lacks {amounts_text(miss.missing)}" + (f" for {miss.field}" if miss.field else ""))
    if failure.missing:
        lines.append(f"  all candidates together lack {amounts_text(failure.missing)}")
    if failure.HasField("placeable"):
        lines.append(f"  {failure.placeable} of the {failure.requested} members can be placed together")
    elif failure.HasField("placeable_bound"):
        lines.append(f"  at most {failure.placeable_bound} of the {failure.requested} members can be placed together")
    if failure.conflicts:
        lines.append(f"  these cannot hold together: {', '.join(failure.conflicts)}")
    if failure.permanent:
        lines.append("  it does not fit even on the empty fleet: waiting is of no use")
    lines += [f"  it would fit: {_cure(cure, failure.requested)}" for cure in failure.cures]
    return lines


def _funnel(funnel: placement_pb2.HostFunnel) -> list[str]:
    who = funnel.field or "each member"
    lines = [f"  {who} ({funnel.members} member(s)): {funnel.candidates} of {funnel.hosts} host(s) could hold one"]
    for part in funnel.ruled_out:
        what = _REASONS.get(part.reason, part.reason)
        lines.append(f"    {part.hosts} ruled out: {what}" + (f" ({part.resource})" if part.resource else ""))
    return lines


def _cure(cure: placement_pb2.Cure, requested: int) -> str:
    match cure.kind:
        case "relax":
            return f"without the {cure.family} rules"
        case "add_hosts":
            return f"with {cure.count} more host(s) like {cure.host_name or cure.host_uuid or 'the largest'}"
        case "free":
            return f"with {amounts_text(cure.amounts)} free on host {cure.host_name or cure.host_uuid or 'in question'}"
        case "shrink":
            return f"with {cure.count} instead of {requested} members"
        case "wait":
            return "once others are gone"
    return cure.kind


def amounts_text(amounts: Mapping[str, int]) -> str:
    """A vector of resources for people: `4 vcpu, 1.5 GiB memory`."""
    return ", ".join(amount_text(name, amount) for name, amount in sorted(amounts.items(), reverse=True))


def amount_text(resource: str, amount: int) -> str:
    """An amount of one resource; memory and disk are bytes, everything else is counted."""
    return f"{size_text(amount)} {resource}" if resource in ("memory", "disk") else f"{amount} {resource}"


def size_text(amount: int) -> str:
    """Bytes for people, to two places: `16 GiB`, `1.5 GiB`, `512 MiB`."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if amount >= 1 << shift:
            return f"{round(amount / (1 << shift), 2):g} {unit}"
    return f"{amount} B"
