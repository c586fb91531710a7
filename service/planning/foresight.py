"""By when a group fits, if those go that have said when they will. Pure.

It is proven for what is known: that nobody else comes before, and that they go when they have said. Whoever has stayed
beyond the time is not counted on any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from placement.model import Decision, Host, Snapshot, Status, left
from service.domain.fleet import GPU
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Group
from service.lifecycle.members import PLACED
from service.planning import translate

MOST_TIMES = 64
"""So many ends are looked at, the next ones."""


def times(ends: Mapping[str, int], now: int) -> Sequence[int]:
    """When somebody goes, the first first. `ends`: by groups; `now`: both ms."""
    return sorted({at for at in ends.values() if at > now})[:MOST_TIMES]


async def earliest(times: Sequence[int], fits: Callable[[int], Awaitable[Decision]]) -> tuple[int, Decision | None]:
    """The first of the times at which it `fits`, and where it goes then; (0, None) where it does at none, or none is
    proven.

    More room never makes it fit less, but for rules that want others near; a time that it is answered with has been
    tried, whatever is true of those before.
    """
    found = await fits(times[-1]) if times else None
    if found is None or found.status is not Status.PLACED:
        return 0, None
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        decision = await fits(times[middle])
        if decision.status is Status.PLACED:
            high, found = middle, decision
        else:
            low = middle + 1
    return times[low], found


def without(fleet_now: Snapshot, hosts: Mapping[str, FleetHost], groups: Sequence[Group]) -> Snapshot:
    """The fleet once these groups are gone."""
    gone: dict[str, Mapping[str, int]] = {}
    for group in groups:
        seated = frozenset(m.uuid for m in group.instances if m.status in PLACED)
        one = translate.neighbours(group, seated, fleet_now, hosts)
        gone |= {node.id: node.demand for node in one.nodes} if one is not None else {}
    changed = [
        _emptied(host, gone, bare_metal=hosts[host.id].bare_metal)
        for host in fleet_now.hosts
        if any(m.id in gone for m in host.members)
    ]
    return fleet_now.updated(changed)


def _emptied(host: Host, gone: Mapping[str, Mapping[str, int]], *, bare_metal: bool) -> Host:
    for member in host.members:
        if member.id in gone:
            demand = dict(gone[member.id])
            if translate.ANY_GPU in host.capacity:
                demand[translate.ANY_GPU] = sum(n for name, n in demand.items() if name.startswith(GPU))
            host = left(host, replace(member, demand={k: min(v, host.used.get(k, 0)) for k, v in demand.items()}))
    return replace(host, used={}) if bare_metal and not host.members else host
