"""ClaimHost and the calls of the quarantine (list, remove, adopt) by gRPC and by the command, on the whole service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from corral.v1.group_pb2 import NodeSpec
from sqlalchemy import Connection, delete

from service.domain.ownership import OwnerMark
from service.drivers.base import MachineIdentity, MachineState
from service.drivers.simulated import SimulatedDriver
from service.drivers.simulated.host import SimulatedMachine
from service.http.web import documents
from service.reconcile import sweep
from service.store import claims, fleet, groups, schema
from tests.service.rpc.lab import refused, soon
from tests.service.rpc.test_fleet import UNKNOWN
from tests.support import ROOT
from tests.support.builders import ENTRY
from tests.support.whole import Whole, whole

pytestmark = pytest.mark.asyncio

MODEL = deploy_pb2.DeployDistributedModelServiceRequest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(sweep, "GRACE_SECONDS", 0.0)


def a_driver(lab: Whole) -> SimulatedDriver:
    driver = next(iter(lab.service.reconciler.monitors.values())).driver
    assert isinstance(driver, SimulatedDriver)
    return driver


async def command(lab: Whole, *arguments: str) -> tuple[int, str]:
    """The exit code and the standard output of the command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "--server", str(lab.service.rpc.address), *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def host(lab: Whole, uuid: str) -> fleet_pb2.Host:
    answer: fleet_pb2.GetHostResponse = await lab.fleet.GetHost(fleet_pb2.GetHostRequest(uuid=uuid))
    return answer.inventory


async def test_a_stranger_is_listed_counted_and_ended_by_order_alone(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path) as lab:
        driver = a_driver(lab)
        cluster = lab.service.custody.installation.cluster
        stranger = MachineIdentity(cluster, "a" * 32, "b" * 32, 1)
        held = {"vcpu": 3, "memory": 7}
        driver.host.machines[stranger.machine_uuid] = SimulatedMachine(stranger, MachineState.RUNNING, resources=held)

        async def listed() -> list[fleet_pb2.Quarantined]:
            return list((await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())).inventories)

        async def is_held() -> bool:
            return len(await listed()) == 1

        await soon(is_held)
        (one,) = await listed()
        assert (one.host_uuid, one.key, one.holding, one.group_uuid, one.instance_uuid, one.attempt, one.state) == (
            driver.host_id, stranger.machine_uuid, "machine", "a" * 32, "b" * 32, 1, "running",
        )  # fmt: skip
        assert (dict(one.resources), one.removal_ordered) == (held, False)
        assert "knows no such instance" in one.reason
        assert one.create_date.seconds > 0

        async def counted() -> bool:
            return {c.resource: c.foreign for c in (await host(lab, driver.host_id)).capacities}.get("vcpu") == 3

        await soon(counted)
        picture = await lab.service.store.read(
            lambda connection: lab.service.fleet.views(connection, tuple(fleet.hosts(connection).values()))
        )
        apart = {view.host.uuid: documents.host(view, causes=True)["quarantined"] for view in picture}
        assert {uuid: of for uuid, of in apart.items() if of} == {driver.host_id: held}
        other = next(u for u in lab.service.reconciler.monitors if u != driver.host_id)
        on_other = await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest(host_uuid=other))
        assert not on_other.inventories
        code, told = await command(lab, "hosts", "quarantine", "--json")
        assert (code, json.loads(told)["key"]) == (0, stranger.machine_uuid)

        looked = fleet_pb2.RemoveQuarantinedRequest(host_uuid=driver.host_id, key=one.key, validate_only=True)
        assert (await lab.fleet.RemoveQuarantined(looked)).inventory.removal_ordered
        assert not (await listed())[0].removal_ordered
        code, told = await command(lab, "hosts", "remove-quarantined", driver.host.name, one.key)
        assert (code, "is going to be removed" in told) == (0, True)

        async def gone() -> bool:
            return stranger.machine_uuid not in driver.host.machines and not await listed()

        await soon(gone)
        request = fleet_pb2.RemoveQuarantinedRequest(host_uuid=driver.host_id, key=one.key)
        await refused(lab.fleet.RemoveQuarantined(request), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        lost = fleet_pb2.ListQuarantineRequest(host_uuid=UNKNOWN)
        await refused(lab.fleet.ListQuarantine(lost), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_host_with_anothers_mark_is_left_alone_until_it_is_claimed(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path) as lab:
        driver = a_driver(lab)
        ours = await host(lab, driver.host_id)
        assert (ours.status, bool(ours.hypervisor_uuid)) == ("Connected", True)
        again = fleet_pb2.ClaimHostRequest(uuid=driver.host_id)
        await refused(lab.fleet.ClaimHost(again), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        await refused(
            lab.fleet.ClaimHost(fleet_pb2.ClaimHostRequest(uuid=UNKNOWN)), grpc.StatusCode.NOT_FOUND, "NOT_FOUND"
        )

        driver.host.mark = OwnerMark("d" * 32, driver.host_id, 5)
        lab.service.reconciler.monitors[driver.host_id].suspect()

        async def has(status: str) -> bool:
            return (await host(lab, driver.host_id)).status == status

        await soon(lambda: has("Foreign"))
        assert "mark of another database" in (await host(lab, driver.host_id)).reason
        listed = await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest(statuses=["Foreign"]))
        assert [h.uuid for h in listed.inventories] == [driver.host_id]
        stale = fleet_pb2.ClaimHostRequest(uuid=driver.host_id, etag="stale")
        await refused(lab.fleet.ClaimHost(stale), grpc.StatusCode.ABORTED, "CONFLICT")
        code, told = await command(lab, "hosts")
        assert (code, "Foreign" in told) == (0, True)
        assert (await command(lab, "hosts", "claim", "no-such-host"))[0] == 4
        assert (await command(lab, "hosts", "claim", driver.host.name))[0] == 0
        await soon(lambda: has("Connected"))
        assert driver.host.mark is not None
        assert driver.host.mark.database == lab.service.custody.installation.database
        # The word held once: another mark is another question.
        driver.host.mark = replace(driver.host.mark, database="e" * 32)
        lab.service.reconciler.monitors[driver.host_id].suspect()
        await soon(lambda: has("Foreign"))


async def test_a_quarantined_group_is_adopted_as_it_runs(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        one = NodeSpec(uuid=ENTRY, cpu_num=1, memory_size=1 << 30)
        request = MODEL(name="lost", model_services=[one, one], service_creation_strategy="parallel")
        async for message in lab.deploy.DeployDistributedModelService(request):
            last = message.event
        was = last.final
        assert was.status == "Running"
        monitors = lab.service.reconciler.monitors.values()
        hosts = [driver.host for m in monitors if isinstance(driver := m.driver, SimulatedDriver)]
        before = {uuid: machine.resumed_at for host in hosts for uuid, machine in host.machines.items()}
        await lab.service.store.write(lambda c: forget(c, was.uuid))

        async def held() -> bool:
            found = await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())
            return {q.group_uuid for q in found.inventories} == {was.uuid} and len(found.inventories) == 2

        await soon(held)
        looked = fleet_pb2.AdoptQuarantinedRequest(group_uuid=was.uuid, validate_only=True)
        assert (await lab.fleet.AdoptQuarantined(looked)).inventory.status == "Running"
        assert await held()
        code, told = await command(lab, "hosts", "adopt", was.uuid)
        assert (code, "Running" in told) == (0, True)
        found = await lab.deploy.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=was.uuid))
        assert [(m.uuid, m.attempt, m.host_name, list(m.addresses), m.status) for m in found.inventory.instances] == [
            (m.uuid, m.attempt, m.host_name, list(m.addresses), m.status) for m in was.instances
        ]
        assert not (await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())).inventories
        assert {u: m.resumed_at for host in hosts for u, m in host.machines.items()} == before
        again = fleet_pb2.AdoptQuarantinedRequest(group_uuid=was.uuid)
        await refused(lab.fleet.AdoptQuarantined(again), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")


def forget(connection: Connection, group_uuid: str) -> None:
    """As if the group had been accepted after the copy was taken that this database is."""
    group = groups.load(connection, group_uuid)
    claims.release(connection, [(m.uuid, m.attempt) for m in group.instances])
    connection.execute(delete(schema.instances).where(schema.instances.c.group_uuid == group_uuid))
    connection.execute(delete(schema.events).where(schema.events.c.group_uuid == group_uuid))
    connection.execute(delete(schema.groups).where(schema.groups.c.uuid == group_uuid))
