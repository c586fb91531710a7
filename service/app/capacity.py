"""What hosts have, what of it may be claimed, and what is claimed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from service.app.host_images import HostImages
from service.domain.cells import Cell, by_cell, kept, resource_of, without_cells
from service.domain.devices import Device, DeviceState
from service.domain.fencing import Fence, Verdict
from service.domain.fleet import GPU, Host, Overcommit
from service.domain.tenants import ProjectClaims
from service.store.loads import HostLoad


@dataclass(frozen=True, slots=True)
class HostView:
    """A host, what it carries, the policy that holds for it (the fleet's, with the zone's over it, and its own over
    both), whose claims it has, and its devices. `fence`: the last one by its BMC; `verdict`: what is thought of it
    while it is silent and may be fenced by itself. `held`: what of it machines in quarantine hold. `used`: what its
    guests take just now, as far as it was measured, which makes no other view. `images`: None where they were not
    read."""

    host: Host
    load: HostLoad
    overcommit: Overcommit
    projects: tuple[ProjectClaims, ...] = ()
    devices: tuple[Device, ...] = ()
    fence: Fence | None = None
    verdict: Verdict | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict, compare=False)
    images: HostImages | None = None


@dataclass(frozen=True, slots=True)
class ResourceAmounts:
    """One resource of a host or of many. `ratio`: how much may be claimed for each unit that is not reserved.
    `used`: what guests take of it just now; of many hosts over those that were measured, None where none was.

    `allocatable` = floor((total - reserved) * ratio); `available` = allocatable - claimed - foreign, at least 0.
    """

    resource: str
    total: int
    reserved: int
    ratio: Fraction
    allocatable: int
    claimed: int
    foreign: int
    available: int
    used: float | None = None


@dataclass(frozen=True, slots=True)
class FleetCapacity:
    """Sums over all hosts that take new members, and how many hosts do and do not."""

    amounts: tuple[ResourceAmounts, ...]
    hosts: int
    unavailable_hosts: int


def quarantined(view: HostView) -> dict[str, int]:
    """What of each resource nobody gets until an operator has looked at it: what machines in quarantine hold, and
    devices that nobody has and that are out of service. It counts as foreign."""
    keyed = {f"{GPU}{one.model}" for one in view.devices}
    found = {name: amount for name, amount in without_cells(view.held).items() if name not in keyed}
    for one in view.devices:
        if one.state in (DeviceState.QUARANTINED, DeviceState.BLOCKED) and not one.instance_uuid:
            found[f"{GPU}{one.model}"] = found.get(f"{GPU}{one.model}", 0) + 1
    return found


def carries(load: HostLoad) -> str:
    """What a host carries, in words."""
    parts = [f"{load.members} members"] if load.members or not load.stale_claims else []
    if load.stale_claims:
        parts.append(f"claims of {load.stale_claims} members that were placed elsewhere")
    return f"carrying {' and '.join(parts)}"


def amounts(view: HostView) -> tuple[ResourceAmounts, ...]:
    """Each resource of a host, by name."""
    found = _amounts(view.host, view.overcommit, view.overcommit.reserved, view.host.booked)
    return tuple(replace(one, used=view.used[one.resource]) if one.resource in view.used else one for one in found)


def cell_amounts(view: HostView) -> tuple[tuple[int, tuple[ResourceAmounts, ...]], ...]:
    """(number, each resource by name) of every NUMA cell of a host. Of what the host keeps a cell has its share."""
    every = {resource_of(cell.number, n): amount for cell in view.host.cells for n, amount in cell.total.items()}
    shares = by_cell(kept(every, view.overcommit.reserved))
    return tuple(
        (cell.number, _amounts(cell, view.overcommit, shares.get(cell.number, {}))) for cell in view.host.cells
    )


def _amounts(
    of: Host | Cell, overcommit: Overcommit, reserved: Mapping[str, int], booked: Mapping[str, int] | None = None
) -> tuple[ResourceAmounts, ...]:
    found, kept_back = [], booked or {}
    for name in sorted({*of.total, *of.used, *of.foreign}):
        allocatable = of.allocatable.get(name, 0)
        claimed, foreign = of.used.get(name, 0), of.foreign.get(name, 0)
        found.append(
            ResourceAmounts(
                name,
                of.total.get(name, 0),
                reserved.get(name, 0),
                overcommit.ratios.get(name, Fraction(1)),
                allocatable,
                claimed,
                foreign,
                max(0, allocatable - claimed - foreign - kept_back.get(name, 0)),
            )
        )
    return tuple(found)


def summed(views: Sequence[HostView]) -> tuple[ResourceAmounts, ...]:
    """Each resource over many hosts; the ratio is the mean, weighted by what is not reserved."""
    sums: dict[str, ResourceAmounts] = {}
    weighted: dict[str, Fraction] = {}
    for view in views:
        for one in amounts(view):
            weighted[one.resource] = weighted.get(one.resource, Fraction(0)) + one.ratio * (one.total - one.reserved)
            known = sums.get(one.resource)
            sums[one.resource] = one if known is None else _plus(known, one)
    return tuple(
        replace(one, ratio=weighted[name] / (one.total - one.reserved) if one.total > one.reserved else Fraction(1))
        for name, one in sorted(sums.items())
    )


def _plus(left: ResourceAmounts, right: ResourceAmounts) -> ResourceAmounts:
    return replace(
        left,
        total=left.total + right.total,
        reserved=left.reserved + right.reserved,
        allocatable=left.allocatable + right.allocatable,
        claimed=left.claimed + right.claimed,
        foreign=left.foreign + right.foreign,
        available=left.available + right.available,
        used=left.used if right.used is None else (left.used or 0.0) + right.used,
    )
