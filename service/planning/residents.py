"""Who lives on a host, as the planner sees them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from placement.model import Host, Member
from service.domain.fleet import Host as FleetHost
from service.planning import cells

GROUP_LABEL = "corral.group"
APART_LABEL = "corral.apart."
"""With a group's uuid after it: borne by members of groups that are to be apart from that group."""
Pinned = Mapping[str, tuple[int, ...]]
"""Instance -> the NUMA cells of its host that it is pinned to, of those that are."""
Holds = tuple[tuple[int, int], ...]
"""As `Member.holds`."""


def residents(
    host: FleetHost,
    seats: Sequence[tuple[str, str, bool]],
    apart: Mapping[str, frozenset[str]],
    pinned: Pinned,
    holds: Mapping[str, Holds],
    was: Host | None = None,
) -> Iterator[Member]:
    """One for each of `seats` (instance, group, exclusive). `apart`: group -> those that it is to be apart from; `was`:
    the host as it was seen before, whose members that are the same are not made again."""
    before = {member.id: member for member in was.members} if was is not None else {}
    for instance, group, exclusive in seats:
        labels, held = _labels(group, apart), holds.get(instance, ())
        here = cells.positions(host, pinned[instance]) if instance in pinned else ()
        old = before.get(instance)
        if old is not None and (old.labels, old.exclusive, old.cells, old.holds) == (labels, exclusive, here, held):
            yield old
        else:
            yield Member(id=instance, labels=labels, exclusive=exclusive, cells=here, holds=held)


def _labels(group: str, apart: Mapping[str, frozenset[str]]) -> dict[str, str]:
    return {GROUP_LABEL: group, **{APART_LABEL + other: "yes" for other in sorted(apart.get(group, ()))}}
