"""A search that ends without an answer is no refusal, and one that finds no room is not repeated without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import update

from placement.model import Decision, Policy, Request, Snapshot, Status
from service.domain.fleet import HostState
from service.domain.groups import GroupStatus, InstanceStatus
from service.domain.specs import DeployRequest
from service.errors import DeployFailed, Undecided, Unsatisfiable
from service.lifecycle.facts import Fenced
from service.lifecycle.transitions import SEARCH_GOES_ON
from service.planning.planner import InlinePlanner, Planned
from service.reconcile import placing
from service.store import fleet, groups, schema
from service.store.connection import Connection
from service.transactions.changes import apply
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio


@dataclass
class Hesitant(InlinePlanner):
    """Has no answer for so many questions. `budgets`: seconds that each question was given; `seeds`: its tie-break."""

    unanswered: int
    budgets: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    async def place(
        self, snapshot: Snapshot, request: Request, policy: Policy, *, budget_seconds: float, **more: Any
    ) -> Planned:
        self.budgets.append(budget_seconds)
        self.seeds.append(policy.seed)
        if len(self.budgets) <= self.unanswered:
            return Planned(Decision(Status.UNKNOWN, stopped=True), 1.0)
        return await super().place(snapshot, request, policy, budget_seconds=budget_seconds, **more)


def hesitant(plane: ControlPlane, unanswered: int) -> Hesitant:
    """Let the plane's reconciliation and use cases ask a planner like that from now on."""
    planner = Hesitant(unanswered)
    plane.reconciler._context.planner = plane.groups._planner = planner
    return planner


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


async def test_a_deploy_is_searched_for_again_with_more_time_and_other_ties_until_it_is_decided() -> None:
    async with control_plane() as plane:
        planner = hesitant(plane, 3)
        told = await plane.deploy(DeployRequest(spec(2)))
        assert told[-1].group is not None
        assert told[-1].group.status is GroupStatus.RUNNING
        reasons = [e.group.reason for e in told if e.group is not None]
        assert reasons.count(SEARCH_GOES_ON) == 1, "it is told once"
        assert told[-1].group.reason == ""
        seconds = plane.reconciler._context.plan_seconds
        assert planner.budgets == [seconds, 2 * seconds, 4 * seconds, 8 * seconds]
        assert len(set(planner.seeds)) == 4


async def test_a_deadline_ends_the_search_and_nobody_says_that_there_is_no_room() -> None:
    async with control_plane() as plane:
        hesitant(plane, 1_000_000)
        started = await plane.groups.deploy(CALLER, DeployRequest(spec(2, deadline_ms=600_000)))
        uuid = started.group.uuid

        def it_has_come(connection: Connection) -> None:
            row, past = schema.groups.c, groups.load(connection, uuid).created_at
            changed = update(schema.groups).where(row.uuid == uuid).values(deadline_at=past, version=row.version + 1)
            connection.execute(changed)

        async def follow() -> None:
            async for event in plane.groups.follow(uuid, started.after_revision):
                if event.group is not None and event.group.reason == SEARCH_GOES_ON:
                    await plane.store.write(it_has_come)
                    plane.reconciler.poke(uuid)

        with pytest.raises(DeployFailed, match="at its deadline: no placement was found or ruled out"):
            await follow()


async def test_without_a_deadline_the_search_has_its_patience_and_ends_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "UNDECIDED_PATIENCE_MS", 500)
    async with control_plane() as plane:
        planner = hesitant(plane, 1_000)
        with pytest.raises(Undecided):
            await plane.deploy(DeployRequest(spec(2)))
        assert len(planner.budgets) > 1


async def test_a_search_that_has_no_time_at_all_is_undecided_with_the_real_planner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "UNDECIDED_PATIENCE_MS", 100)
    async with control_plane(hosts=[host(n) for n in (1, 2, 3)], size={"cpu": "8"}) as plane:
        plane.reconciler._context.plan_seconds = 0.0
        with pytest.raises(Undecided):
            await plane.deploy(DeployRequest(spec(2)))


async def test_a_plan_without_an_answer_is_undecided() -> None:
    async with control_plane() as plane:
        hesitant(plane, 1)
        with pytest.raises(Undecided):
            await plane.groups.plan(CALLER, DeployRequest(spec(2)))
        assert len((await plane.groups.plan(CALLER, DeployRequest(spec(2)))).assignments) == 2


async def test_a_group_that_serves_and_waits_for_room_asks_for_it_with_growing_pauses() -> None:
    """Nothing else happens meanwhile: whoever asks without a pause plans some hundred times a second."""
    async with control_plane(hosts=[host(1), host(2)], size={"cpu": "8"}) as plane:
        wide = replace(spec(2).placement, max_per_host=1)
        group = (await plane.deploy(DeployRequest(spec(2, placement=wide))))[-1].group
        assert group is not None
        gone = group.instances[1].host_uuid
        planner = hesitant(plane, 0)
        plane.drivers[gone].host.machines.clear()

        def off(connection: Any) -> None:
            fleet.set_state(connection, fleet.host(connection, gone), HostState.DISABLED, 1)
            apply(connection, group.uuid, [Fenced(gone)], 1)
            groups.due(connection, group.uuid, 0)

        await plane.store.write(off)
        plane.reconciler.poke(group.uuid)
        await eventually(lambda: len(planner.budgets) >= 2)
        before = len(planner.budgets)
        await asyncio.sleep(1.0)  # the time that is counted in
        assert len(planner.budgets) - before <= 4
        waiting = await plane.groups.get(CALLER, group.uuid)
        assert "finds no host" in waiting.reason
        assert InstanceStatus.PENDING in {m.status for m in waiting.instances}


async def test_a_search_that_finds_no_room_says_so_at_once() -> None:
    async with control_plane(size={"cpu": "8"}) as plane:
        planner = hesitant(plane, 0)
        with pytest.raises(Unsatisfiable):
            await plane.deploy(DeployRequest(spec(40)))
        assert len(planner.budgets) == 1
