"""The main job on real libvirtds and real QEMU guests: one call, a plan, machines, a stream, nothing left behind."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import libvirt
import pytest
from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.support.process import CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
SMALL = 96 << 20  # bytes
DOCUMENTED = """{"modelServices":[{"isInitialNode":false,"uuid":"f1e135835fee363c9f57ed8232023886",
"zoneUuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpuNum":8,"name":"model-service","type":"VirtualMachine",
"memorySize":17179869184,"timeout":0}],"serviceCreationStrategy":"parallel","name":"distributed-model-service"}"""


def configuration(lab: Lab, image: GuestImage, *, broken_bridge_on: int | None = None) -> str:
    hosts = "".join(
        f'[[hosts]]\nname = "hv{number}"\nzone = "zone-1"\ndriver = "libvirt"\n'
        f'socket = "{hypervisor.directory}/run/libvirt/libvirt-sock"\n'
        + ('bridge = "nothere"\n' if broken_bridge_on == number else "")
        + '[hosts.capacity]\nvcpu = 4\nmemory = "20GiB"\n'
        for number, hypervisor in enumerate(lab, start=1)
    )
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "10.77.0.0/16"
gateway = "10.77.0.1"
pool = "10.77.1.10-10.77.1.99"
{hosts}
[[images]]
name = "default-guest"
manifest = "{image.manifest}"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "default-guest"
stop_grace_ms = 3000
"""


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    with serving(tmp_path, configuration(lab, guest_image), lab) as process:
        yield process


@contextmanager
def serving(directory: Path, text: str, lab: Lab) -> Iterator[CorralProcess]:
    """The service with this configuration; afterwards no hypervisor has a domain."""
    process = CorralProcess(directory, text)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        for hypervisor in lab:
            sweep(hypervisor.uri)


def sweep(uri: str) -> None:
    connection = libvirt.open(uri)
    for domain in connection.listAllDomains():
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefine()
    connection.close()


def domains(lab: Lab) -> dict[str, int]:
    """Domain name -> state over all hypervisors, read without the service."""
    found: dict[str, int] = {}
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        for domain in connection.listAllDomains():
            if domain.name().startswith("corral-tomb") or domain.name() == "corral-owner":
                continue  # inert marks: of an attempt that is over, which the sweep takes away, and of the host's owner
            assert domain.name() not in found, "one machine on two hosts"
            found[domain.name()] = domain.state()[0]
        connection.close()
    return found


def machine_volumes(lab: Lab) -> list[str]:
    names: list[str] = []
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        for pool in connection.listAllStoragePools():
            names += [v for v in pool.listVolumes() if not v.startswith("corral-base.")]
        connection.close()
    return names


def rows(corral: CorralProcess, table: str) -> int:
    with sqlite3.connect(corral.database) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def small(count: int) -> list[group_pb2.NodeSpec]:
    return [group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=SMALL) for _ in range(count)]


def test_the_documented_request_runs_and_answers_and_its_deletion_leaves_nothing(
    corral: CorralProcess, lab: Lab
) -> None:
    from google.protobuf import json_format

    request = json_format.Parse(DOCUMENTED, deploy_pb2.DeployDistributedModelServiceRequest())
    group = corral.follow(corral.groups.DeployDistributedModelService(request, timeout=240))
    assert (group.name, group.status) == ("distributed-model-service", "Running")
    (member,) = group.instances
    assert (member.cpu_num, member.memory_size, member.is_initial_node) == (8, 17179869184, True)
    health = lab.get_json(member.addresses[0])
    assert health["status"] == "ok"
    assert health["instance"] == member.uuid
    assert health["machine_uuid"].replace("-", "") == member.vm_instance_uuid.replace("-", "")
    assert corral.delete(group.uuid).status == "Deleted"
    assert domains(lab) == {}
    assert machine_volumes(lab) == []
    assert (rows(corral, "claims"), rows(corral, "addresses")) == (0, 0)


def test_a_gang_starts_in_order_over_both_hosts_and_its_workers_join(corral: CorralProcess, lab: Lab) -> None:
    policy = group_pb2.PlacementPolicy(max_per_host=2)
    booted: list[int] = []
    final = None
    for message in corral.deploy("gang", small(3), "sequential", placement_policy=policy):
        change = message.event
        if change.WhichOneof("change") == "instance" and change.instance.status in ("Booting", "Running"):
            booted.append(change.instance.node_rank)
        if change.WhichOneof("change") == "final":
            final = change.final
    assert final is not None
    assert booted == sorted(booted)
    assert len({m.host_name for m in final.instances}) == 2
    leader = final.instances[0].addresses[0]  # it publishes who joined a moment after it has accepted them
    wait_until(lambda: lab.get_json(leader)["joined"] == 2, 60, "both workers to be counted")
    stopped = corral.follow(
        corral.groups.StopInstanceGroup(deploy_pb2.StopInstanceGroupRequest(uuid=final.uuid), timeout=120)
    )
    assert stopped.status == "Stopped"
    assert set(domains(lab).values()) == {libvirt.VIR_DOMAIN_SHUTOFF}
    again = corral.follow(
        corral.groups.StartInstanceGroup(deploy_pb2.StartInstanceGroupRequest(uuid=final.uuid), timeout=240)
    )
    assert again.status == "Running"
    assert [m.vm_instance_uuid for m in again.instances] == [m.vm_instance_uuid for m in final.instances]
    corral.delete(final.uuid)
    assert domains(lab) == {}


def test_a_service_killed_in_the_middle_goes_on_with_the_same_machines(corral: CorralProcess, lab: Lab) -> None:
    stream = corral.deploy("survivor", small(2))
    uuid, seen = "", ""
    for message in stream:
        uuid = message.event.group_uuid
        if message.event.WhichOneof("change") == "instance":
            seen = message.event.instance.status
        if seen == "Created":
            break
    corral.kill()
    corral.start()
    watch = corral.groups.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid), timeout=240)
    status = ""
    for told in watch:
        change = told.event
        kind = change.WhichOneof("change")
        if kind in ("group", "final", "accepted"):
            status = getattr(change, kind).status
        if status == "Running":
            break
    group = corral.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid)).inventory
    assert group.status == "Running"
    assert [m.attempt for m in group.instances] == [1, 1]
    assert sorted(domains(lab)) == sorted(f"corral-{m.uuid}-1" for m in group.instances)
    corral.delete(uuid)
    assert domains(lab) == {}


def planned(corral: CorralProcess, nodes: list[group_pb2.NodeSpec]) -> set[str] | None:
    """The names of the hosts that a plan uses; None where there is no capacity."""
    request = deploy_pb2.PlanDistributedModelServiceRequest(
        name="beside", model_services=nodes, service_creation_strategy="parallel"
    )
    try:
        plan = corral.groups.PlanDistributedModelService(request).placement
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return None
    return {a.host_name for a in plan.assignments}


def test_other_peoples_domains_are_counted_as_used_and_never_touched(corral: CorralProcess, lab: Lab) -> None:
    connection = libvirt.open(lab[0].uri)
    foreign = connection.defineXML(
        "<domain type='qemu'><name>somebody-elses</name><memory unit='GiB'>12</memory><vcpu>3</vcpu>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    foreign.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        wanted = [group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=10 << 30)]

        def seen() -> bool:
            return planned(corral, wanted * 2) is None and planned(corral, wanted) == {"hv2"}

        wait_until(seen, 120, "the probe to see it: before, both hosts have room")
        assert domains(lab)["somebody-elses"] == libvirt.VIR_DOMAIN_PAUSED
    finally:
        foreign.destroy()
        foreign.undefine()
        connection.close()


def test_a_host_that_can_not_create_is_shunned_and_the_gang_comes_up_elsewhere(
    lab: Lab, guest_image: GuestImage, tmp_path: Path
) -> None:
    with serving(tmp_path, configuration(lab, guest_image, broken_bridge_on=1), lab) as corral:
        policy = group_pb2.PlacementPolicy(strategy=placement_pb2.PLACEMENT_STRATEGY_SPREAD)
        group = corral.follow(corral.deploy("elsewhere", small(2), placement_policy=policy))
        assert group.status == "Running"
        assert {m.host_name for m in group.instances} == {"hv2"}
        assert sorted(m.attempt for m in group.instances) == [1, 2]
        corral.delete(group.uuid)
        assert domains(lab) == {}
        assert machine_volumes(lab) == []


def test_the_log_is_json_and_a_stop_is_orderly(corral: CorralProcess) -> None:
    corral.stop()
    lines = [json.loads(line) for line in corral.log.read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"
