"""Which devices of a host its members get that take some of any model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.domain.fleet import GPU
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Instance
from service.domain.specs import GpuRequest


def devices_given(
    landing: Sequence[Instance], places: Mapping[str, str], hosts: Mapping[str, FleetHost]
) -> dict[str, tuple[GpuRequest, ...]]:
    """Which devices the members get that take some of any model, by uuid; `places`: member's uuid -> host's.

    After what others name, and of one model where that has enough: of those the one with the fewest left.
    """
    free: dict[str, dict[str, int]] = {}
    for member in landing:
        host = hosts[places[member.uuid]]
        if host.uuid not in free:
            free[host.uuid] = {
                name: max(0, amount - host.used.get(name, 0) - host.foreign.get(name, 0))
                for name, amount in sorted(host.allocatable.items())
                if name.startswith(GPU)
            }
        for gpu in member.spec.gpus:
            if gpu.model:
                free[host.uuid][f"{GPU}{gpu.model}"] -= gpu.count
    given: dict[str, tuple[GpuRequest, ...]] = {}
    for member in landing:
        wanted = sum(gpu.count for gpu in member.spec.gpus if not gpu.model)
        if wanted:
            taken = _taken(free[places[member.uuid]], wanted)
            given[member.uuid] = tuple(GpuRequest(name.removeprefix(GPU), n) for name, n in sorted(taken.items()))
    return given


def _taken(free: dict[str, int], wanted: int) -> dict[str, int]:
    """So many devices out of `free` (resource -> left), which is lowered by them."""
    enough = [name for name in free if free[name] >= wanted]
    names = [min(enough, key=lambda n: free[n])] if enough else sorted(free, key=lambda n: -free[n])
    taken: dict[str, int] = {}
    for name in names:
        if (amount := min(wanted - sum(taken.values()), free[name])) > 0:
            taken[name] = amount
            free[name] -= amount
    return taken
