"""What callers are promised of groups, on simulated hosts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select

from service.app.etags import etag_of
from service.app.groups import Ask, GroupFilter, Metadata
from service.domain.events import Event, EventKind
from service.domain.fleet import HostStatus
from service.domain.groups import GroupStatus, InstanceStatus
from service.domain.specs import CreationStrategy, DeployRequest
from service.domain.tenants import Caller, Quota
from service.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    RequestIdReused,
    Unsatisfiable,
)
from service.store import claims, clock, events, fleet, quotas, schema
from tests.support.builders import ENTRY, host, node, seat, spec
from tests.support.control_plane import CALLER, control_plane

pytestmark = pytest.mark.asyncio


async def test_a_deploy_streams_from_accepted_to_the_stored_inventory_and_sequences_have_no_gap() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(3)))
        assert [e.kind for e in told[:3]] == [EventKind.ACCEPTED, EventKind.PLANNED, EventKind.CLAIMED]
        assert [e.sequence for e in told] == list(range(1, len(told) + 1))
        assert [e.revision for e in told] == sorted({e.revision for e in told})
        assert told[-1].kind is EventKind.FINAL
        stored = await plane.groups.get(CALLER, told[0].group_uuid)
        assert told[-1].group == replace(stored, epoch=told[-1].group.epoch)  # type: ignore[union-attr]
        assert stored.status is GroupStatus.RUNNING
        assert {m.status for m in stored.instances} == {InstanceStatus.RUNNING}
        assert sorted((await plane.used()).values()) != [0, 0]


async def test_a_process_whose_clock_is_wrong_stamps_by_the_database_s() -> None:
    ahead = 3_600_000
    async with control_plane() as plane:
        await plane.store.write(lambda c: c.info.update({clock.CLOCK: lambda: clock.wall_clock() + ahead}))
        before = clock.wall_clock()
        group = (await plane.deploy(DeployRequest(spec(2))))[-1].group
        assert group is not None
        assert all(stamp >= before + ahead for stamp in (group.created_at, *(m.created_at for m in group.instances)))
        stopped = (await plane.operation(plane.groups.stop(CALLER, group.uuid)))[-1].group
        assert stopped is not None
        assert stopped.status is GroupStatus.STOPPED
        assert stopped.updated_at >= before + ahead


async def test_members_get_addresses_of_the_pool_before_they_boot_and_macs_made_of_them() -> None:
    async with control_plane() as plane:
        group = (await plane.deploy(DeployRequest(spec(2))))[-1].group
        assert group is not None
        assert [m.address for m in group.instances] == ["10.9.0.10", "10.9.0.11"]
        assert [m.mac for m in group.instances] == ["52:54:0a:09:00:0a", "52:54:0a:09:00:0b"]


async def test_sequential_lets_the_initial_node_be_ready_before_a_worker_boots() -> None:
    async with control_plane() as plane:
        request = DeployRequest(spec(3, creation_strategy=CreationStrategy.SEQUENTIAL))
        told = await plane.deploy(request)
        order = [
            (e.instance.rank, e.instance.status)
            for e in told
            if e.instance is not None and e.instance.status in (InstanceStatus.BOOTING, InstanceStatus.RUNNING)
        ]
        assert [rank for rank, _ in order] == sorted(rank for rank, _ in order)


async def test_delete_leaves_no_machine_claim_or_address() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        ended = await plane.delete(told[0].group_uuid)
        assert ended[-1].group is not None
        assert ended[-1].group.status is GroupStatus.DELETED
        assert ended[0].sequence == told[-1].sequence + 1
        assert plane.machines() == []
        assert set((await plane.used()).values()) == {0}
        with pytest.raises(NotFound):
            await plane.groups.get(CALLER, told[0].group_uuid)


async def test_delete_wins_over_a_deploy_in_progress() -> None:
    async with control_plane(size={"boot_ms": "60000"}) as plane:
        started = await plane.groups.deploy(CALLER, DeployRequest(spec(3)))
        await asyncio.sleep(0.05)
        ended = await plane.delete(started.group.uuid)
        assert ended[-1].group is not None
        assert ended[-1].group.status is GroupStatus.DELETED
        assert plane.machines() == []
        assert set((await plane.used()).values()) == {0}


async def test_a_gang_that_does_not_fit_fails_whole_says_why_and_holds_nothing() -> None:
    async with control_plane(size={"cpu": "4", "memory": "8GiB"}) as plane:
        with pytest.raises((NoCapacity, Unsatisfiable)) as refused:
            await plane.deploy(DeployRequest(spec(5)))
        assert refused.value.explanation is not None
        assert plane.machines() == []
        assert set((await plane.used()).values()) == {0}
        (group,) = (await plane.groups.list(CALLER, GroupFilter(), 0, "")).groups
        assert group.status is GroupStatus.FAILED
        assert group.failure is not None
        await plane.delete(group.uuid)
        assert (await plane.groups.list(CALLER, GroupFilter(), 0, "")).groups == ()


async def test_a_gang_that_fits_once_another_is_gone_is_a_matter_of_capacity() -> None:
    async with control_plane(size={"cpu": "4", "memory": "8GiB"}) as plane:
        first = await plane.deploy(DeployRequest(spec(3)))
        with pytest.raises(NoCapacity):
            await plane.groups.plan(CALLER, DeployRequest(spec(2)))
        await plane.delete(first[0].group_uuid)
        assert len((await plane.groups.plan(CALLER, DeployRequest(spec(2)))).assignments) == 2


async def test_plan_writes_nothing() -> None:
    async with control_plane() as plane:
        before = await plane.store.read(events.head)
        record = await plane.groups.plan(CALLER, DeployRequest(spec(2)))
        assert len(record.assignments) == 2
        assert record.lower_bound <= record.objective <= record.upper_bound
        assert await plane.store.read(events.head) == before
        assert set((await plane.used()).values()) == {0}


async def test_the_same_request_id_answers_with_the_same_group_and_another_body_is_refused() -> None:
    async with control_plane() as plane:
        request = DeployRequest(spec(1), request_id="r1")
        first, second = await asyncio.gather(plane.deploy(request), plane.deploy(request))
        assert first[0].group_uuid == second[0].group_uuid
        assert [e.revision for e in first] == [e.revision for e in second]
        with pytest.raises(RequestIdReused):
            await plane.groups.deploy(CALLER, DeployRequest(spec(2), request_id="r1"))
        assert len((await plane.groups.list(CALLER, GroupFilter(), 0, "")).groups) == 1


async def test_a_resource_uuid_becomes_the_groups_and_is_refused_a_second_time() -> None:
    async with control_plane() as plane:
        uuid = "c" * 32
        told = await plane.deploy(DeployRequest(spec(1), resource_uuid=uuid))
        assert told[0].group_uuid == uuid
        with pytest.raises(AlreadyExists):
            await plane.groups.deploy(CALLER, DeployRequest(spec(1), resource_uuid=uuid))


async def test_a_deleted_groups_uuid_can_be_used_again_by_other_members_and_its_counters_go_on() -> None:
    async with control_plane() as plane:
        uuid = "c" * 32
        first = (await plane.deploy(DeployRequest(spec(2), resource_uuid=uuid)))[-1].group
        started = await plane.groups.delete(CALLER, uuid)
        gone = [event async for event in plane.groups.follow(uuid, started.after_revision)][-1].group
        again = await plane.deploy(DeployRequest(spec(2), resource_uuid=uuid))
        second = again[-1].group
        assert first is not None
        assert gone is not None
        assert second is not None
        assert second.status is GroupStatus.RUNNING
        assert not {m.uuid for m in first.instances} & {m.uuid for m in second.instances}
        assert again[0].sequence == gone.sequence + 1
        assert (second.version > gone.version, second.epoch > gone.epoch) == (True, True)
        assert second.start_epoch > first.start_epoch
        assert [g.uuid for g in (await plane.groups.list(CALLER, GroupFilter(), 0, "")).groups] == [uuid]


@pytest.mark.parametrize(
    ("bad", "error", "field"),
    [
        (spec(0), InvalidArgument, "model_services"),
        (spec(2000), InvalidArgument, "model_services"),
        (spec(1, nodes=(node(model_service_uuid="0" * 32),)), NotFound, "model_services[0].uuid"),
        (spec(1, nodes=(node(), node(zone_uuid="0" * 32))), NotFound, "model_services[1].zone_uuid"),
        (spec(1, nodes=(node(cpu_num=100_000),)), InvalidArgument, "model_services[0].cpu_num"),
        (spec(1, nodes=(node(memory_size=1 << 50),)), InvalidArgument, "model_services[0].memory_size"),
        (
            spec(1, nodes=(node(is_initial_node=True), node(is_initial_node=True))),
            InvalidArgument,
            "model_services[1].is_initial_node",
        ),
        (spec(1, nodes=(node(0), node(0, is_initial_node=False))), InvalidArgument, "model_services[1].node_rank"),
        (spec(1, nodes=(node(0), node(5))), InvalidArgument, "model_services[1].node_rank"),
    ],
)
async def test_bad_requests_name_the_field_and_leave_nothing(bad: object, error: type[Exception], field: str) -> None:
    async with control_plane() as plane:
        before = await plane.store.read(events.head)
        with pytest.raises(error) as refused:
            await plane.groups.deploy(CALLER, DeployRequest(bad))  # type: ignore[arg-type]
        named = getattr(refused.value, "field", "") or refused.value.violations[0].field  # type: ignore[attr-defined]
        assert named == field
        assert (await plane.groups.list(CALLER, GroupFilter(), 0, "")).groups == ()
        assert await plane.store.read(events.head) == before


async def test_pages_follow_creation_and_belong_to_their_filter() -> None:
    async with control_plane() as plane:
        for number in range(5):
            await plane.groups.deploy(CALLER, DeployRequest(spec(1, name=f"g{number}")))
        seen, token = [], ""
        while True:
            page = await plane.groups.list(CALLER, GroupFilter(), 2, token)
            seen += [g.spec.name for g in page.groups]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"g{number}" for number in range(5)]
        first = await plane.groups.list(CALLER, GroupFilter(), 2, "")
        with pytest.raises(InvalidArgument):
            await plane.groups.list(CALLER, GroupFilter(name="g1"), 2, first.next_page_token)
        with pytest.raises(InvalidArgument):
            await plane.groups.list(CALLER, GroupFilter(), 2, "nonsense")
        named = await plane.groups.list(CALLER, GroupFilter(name="g3"), 0, "")
        assert [g.spec.name for g in named.groups] == ["g3"]


async def test_another_tenants_group_is_not_found() -> None:
    async with control_plane() as plane:
        mine = Caller("alice", "a", "operator")
        yours = Caller("bob", "b", "operator")
        started = await plane.groups.deploy(mine, DeployRequest(spec(1)))
        await plane.follow(started.group, started.after_revision)
        assert (await plane.groups.get(mine, started.group.uuid)).project == "a"
        for call in (plane.groups.get(yours, started.group.uuid), plane.groups.delete(yours, started.group.uuid)):
            with pytest.raises(NotFound):
                await call
        assert (await plane.groups.list(yours, GroupFilter(), 0, "")).groups == ()


async def test_an_old_etag_does_not_delete() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(1)))
        with pytest.raises(Conflict):
            await plane.groups.delete(CALLER, told[0].group_uuid, Ask(etag=etag_of(told[0].group)))  # type: ignore[arg-type]
        stored = await plane.groups.get(CALLER, told[0].group_uuid)
        await plane.groups.delete(CALLER, stored.uuid, Ask(etag=etag_of(stored)))


async def test_a_member_whose_machine_dies_is_placed_anew_and_the_group_runs_again() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        member = told[-1].group.instances[1]  # type: ignore[union-attr]
        driver = plane.drivers[member.host_uuid]
        (machine,) = [m for m in driver.host.machines.values() if m.identity.instance == member.uuid]
        driver.host.stop(machine.identity)
        driver._hint(machine.identity)
        again = await plane.follow(told[-1].group, told[-1].revision)  # type: ignore[arg-type]
        statuses = [e.group.status for e in again if e.group is not None]
        assert statuses[0] is GroupStatus.DEGRADED
        assert statuses[-1] is GroupStatus.RUNNING
        replaced = again[-1].group.instances[1]  # type: ignore[union-attr]
        assert (replaced.attempt, replaced.host_uuid != member.host_uuid) == (2, True)
        assert len(plane.machines()) == 2


async def test_the_sweep_removes_a_machine_that_no_member_wants_and_never_at_first_sight() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(1)))
        member = told[-1].group.instances[0]  # type: ignore[union-attr]
        home = plane.drivers[member.host_uuid].host
        (machine,) = home.machines.values()
        stray = replace(machine.identity, attempt=0)
        home.machines[stray.machine_uuid] = type(machine)(stray, machine.state)
        await plane.sweep.once()
        assert len(home.machines) == 2
        await plane.sweep.once()
        assert list(home.machines) == [machine.identity.machine_uuid]


async def test_a_claim_whose_attempt_is_over_ends_when_its_machine_is_absent() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(1)))
        group = told[-1].group
        assert group is not None
        host_uuid = group.instances[0].host_uuid
        stale = seat(group.instances[0].uuid, host_uuid, {"vcpu": 5}, attempt=9)
        await plane.store.write(lambda c: claims.take(c, group.uuid, [stale]))
        assert max((await plane.used()).values()) == 7
        await plane.sweep.once()
        assert max((await plane.used()).values()) == 2


async def test_a_default_of_the_catalogue_fills_what_the_request_leaves_open() -> None:
    async with control_plane() as plane:
        open_node = node(cpu_num=0, memory_size=0, model_service_uuid=ENTRY, zone_uuid="")
        group = (await plane.deploy(DeployRequest(spec(1, nodes=(open_node,)))))[-1].group
        assert group is not None
        (member,) = group.instances
        assert (member.spec.cpu_num, member.spec.memory_size, member.spec.name) == (1, 1 << 30, "group-0")
        assert member.zone_uuid


async def test_a_projects_quota_holds_over_gangs_that_come_at_the_same_time() -> None:
    async with control_plane() as plane:
        limits = [Quota("a", {"vcpu": 5}), Quota("b", {"memory": 1 << 40})]
        await plane.store.write(lambda c: quotas.put(c, limits))
        alice = Caller("alice", "a", "operator")

        async def attempt() -> Event:
            started = await plane.groups.deploy(alice, DeployRequest(spec(2)))
            return (await plane.follow(started.group, started.after_revision))[-1]

        ends = await asyncio.gather(*(attempt() for _ in range(4)), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, QuotaExceeded)]
        assert len(refused) == 3
        assert {(r.subject, r.resource, r.limit, r.requested) for r in refused} == {("project a", "vcpu", 5, 8)}
        assert sum((await plane.used()).values()) == 4
        with pytest.raises(QuotaExceeded):
            await plane.groups.plan(alice, DeployRequest(spec(1)))
        bob = Caller("bob", "b", "operator")
        started = await plane.groups.deploy(bob, DeployRequest(spec(3)))
        assert (await plane.follow(started.group, started.after_revision))[-1].kind is EventKind.FINAL


async def test_a_deploy_that_the_quota_refuses_leaves_nothing_and_its_uuid_is_free() -> None:
    async with control_plane() as plane:
        await plane.store.write(lambda c: quotas.put(c, [Quota("default", {"vcpu": 3})]))
        wanted = DeployRequest(spec(2), resource_uuid="c" * 32, request_id="once")
        with pytest.raises(QuotaExceeded):
            await plane.groups.deploy(CALLER, wanted)
        assert (await plane.groups.list(CALLER, GroupFilter(), 10, "")).groups == ()
        await plane.store.write(lambda c: quotas.put(c, [Quota("default", {"vcpu": 4})]))
        assert (await plane.deploy(wanted))[-1].kind is EventKind.FINAL


async def test_a_quota_below_what_is_used_does_not_stop_the_replacement_of_a_lost_member() -> None:
    async with control_plane() as plane:
        group = (await plane.deploy(DeployRequest(spec(2))))[-1].group
        assert group is not None
        await plane.store.write(lambda c: quotas.put(c, [Quota("default", {"vcpu": 1, "memory": 1})]))
        lost = group.instances[1]
        plane.drivers[lost.host_uuid].host.machines.clear()
        plane.reconciler._hint(lost.host_uuid, None)

        async def replaced() -> bool:
            now = await plane.groups.get(CALLER, group.uuid)
            return now.status is GroupStatus.RUNNING and sum(m.attempt for m in now.instances) > 2

        async with asyncio.timeout(60):
            while not await replaced():  # noqa: ASYNC110  # its stream has ended
                await asyncio.sleep(0.05)
        with pytest.raises(QuotaExceeded):
            await plane.groups.deploy(CALLER, DeployRequest(spec(1)))


async def test_every_change_leaves_a_row_of_who_made_it() -> None:
    async with control_plane() as plane:
        ann = Caller("ann", "a", "operator")
        started = await plane.groups.deploy(ann, DeployRequest(spec(1), request_id="r"))
        await plane.follow(started.group, started.after_revision)
        uuid = started.group.uuid
        await plane.groups.update(ann, uuid, Metadata(name="x"))
        await plane.operation(plane.groups.delete(ann, uuid))
        with pytest.raises(NotFound):
            await plane.groups.delete(ann, uuid)
        rows = await plane.store.read(lambda c: c.execute(select(schema.audit).order_by(schema.audit.c.id)).all())
        assert [(r.principal, r.method, r.subject, r.client_request_id) for r in rows] == [
            ("ann", "DeployDistributedModelService", uuid, "r"),
            ("ann", "UpdateInstanceGroup", uuid, ""),
            ("ann", "DeleteInstanceGroup", uuid, ""),
        ]


async def test_a_fleet_of_one_host_gets_a_member_back_on_the_host_where_it_failed() -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        told = await plane.deploy(DeployRequest(spec(1)))
        (driver,) = plane.drivers.values()
        (machine,) = plane.machines()
        driver.host.stop(machine.identity)
        driver._hint(machine.identity)
        again = await plane.follow(told[-1].group, told[-1].revision)  # type: ignore[arg-type]
        assert again[-1].group is not None
        assert again[-1].group.status is GroupStatus.RUNNING
        assert again[-1].group.instances[0].attempt == 2


async def test_a_fleet_whose_hosts_are_closed_lacks_capacity_for_now_and_not_for_ever() -> None:
    async with control_plane() as plane:
        for number in (1, 2):
            await plane.store.write(lambda c, n=number: fleet.set_status(c, f"{n:032x}", HostStatus.DISCONNECTED))  # type: ignore[misc]
        with pytest.raises(NoCapacity):
            await plane.groups.plan(CALLER, DeployRequest(spec(1)))
    async with control_plane() as plane:
        with pytest.raises(Unsatisfiable):
            await plane.groups.plan(CALLER, DeployRequest(spec(1, nodes=(node(cpu_num=4000),))))
