"""Where a group would be placed if it was deployed now, beside the room that is kept for somebody before it in line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from placement.model import Policy, Snapshot, Status
from service.app.failures import error_of
from service.domain.catalog import ModelService
from service.domain.fleet import Host
from service.domain.groups import Group
from service.errors import NoCapacity
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
