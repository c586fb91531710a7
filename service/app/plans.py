"""Where a group would be placed if it was deployed now, beside the room that is kept for somebody before it in line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from placement.model import Policy, Snapshot, Status
from service.app.alternatives import NOT_NOW, all_of, passed_over
from service.app.failures import error_of
from service.domain.catalog import ModelService
from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.shapes import PassedOver, variants
from service.errors import CorralError, NoCapacity
from service.planning import backfill, images, translate
from service.planning.backfill import Kept
from service.planning.planner import Planned, Planner


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet of one moment, as the planner sees it and as its rows are; and the catalogue."""

    snapshot: Snapshot
    hosts: Mapping[str, Host]
    catalogue: Mapping[str, ModelService]


async def decided(
    planner: Planner,
    group: Group,
    kept: Kept | None,
    known: Fleet,
    budget_seconds: float,
    answer_by: float,
) -> Planned:
    """A placement. `kept`: what it leaves to somebody else; `answer_by`: as the planner takes it.

    Raises NoCapacity, Unsatisfiable, Undecided; NoCapacity too where it only fits into the room that is kept.
    """

    fleet_now, hosts = known.snapshot, known.hosts

    async def place(snapshot: Snapshot, closed: frozenset[str]) -> Planned:
        asked = images.preferring(translate.request(group, snapshot, hosts), group, hosts, known.catalogue)
        asked = replace(asked, excluded_hosts=asked.excluded_hosts | closed)
        return await planner.place(
            snapshot, asked, Policy(), budget_seconds=budget_seconds, answer_by=answer_by, project=group.project
        )

    narrowed, closed = backfill.open_to(group, kept, fleet_now, hosts)
    planned = await place(narrowed, closed)
    if planned.decision.status is not Status.PLACED and narrowed is not fleet_now:
        planned = await place(fleet_now, frozenset())
        if planned.decision.status is Status.PLACED:
            raise NoCapacity(backfill.KEPT, None)
    if planned.decision.status is not Status.PLACED:
        raise error_of(translate.failure(planned.decision, group, fleet_now, hosts), group.uuid)
    return planned


async def best(
    planner: Planner,
    group: Group,
    kept: Kept | None,
    known: Fleet,
    budget_seconds: float,
    answer_by: float,
) -> tuple[Group, Planned]:
    """The first of the group's gangs that fits, and where; what it was asked before says why those do not.

    Raises as `decided` does of the first one, with what is told of each.
    """
    first: CorralError | None = None
    why: list[PassedOver] = []
    for variant in list(variants(group)) or [group]:
        try:
            planned = await decided(planner, variant, kept, known, budget_seconds, answer_by)
        except NOT_NOW as error:
            first = first or error
            why.append(passed_over(error))
            continue
        shapes = replace(variant.shapes, passed_over=tuple(why)) if variant.shapes is not None else None
        return replace(variant, shapes=shapes), planned
    assert first is not None
    raise first if len(why) == 1 else all_of(first, why)
