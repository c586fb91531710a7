"""A drain between two real libvirtds moves a member of a group as it runs: the guest is not booted again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2, placement_pb2

from tests.integration.test_service_on_hypervisors import configuration, domains, rows, serving, small
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.support.process import CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


def with_routes(lab: Lab, image: GuestImage) -> str:
    """The hosts are reached by their sockets; for live moves they reach each other by TCP."""
    text = configuration(lab, image)
    for hypervisor in lab:
        route = f'options = {{ migration_transport = "tcp", migration_address = "{hypervisor.address}" }}\n'
        socket = f'socket = "{hypervisor.directory}/run/libvirt/libvirt-sock"\n'
        assert text.count(socket) == 1
        text = text.replace(socket, socket + route)
    return text


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    with serving(tmp_path, with_routes(lab, guest_image), lab) as process:
        yield process


def executing(lab: Lab, name: str) -> list[str]:
    """The hypervisors on which the domain executes, as each of them says."""
    found = []
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        try:
            if connection.lookupByName(name).state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                found.append(hypervisor.name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        finally:
            connection.close()
    return found


def cells(lab: Lab, name: str) -> list[str]:
    """The sets of NUMA cells that the domain's memory must be of, on each hypervisor that has it running."""
    found = []
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING):
            if domain.name() == name:
                found.append(domain.numaParameters(0)["numa_nodeset"])
        connection.close()
    return found


def joined(lab: Lab, group: group_pb2.InstanceGroup) -> int:
    """How many workers have joined the leader; it keeps that in its memory alone, and a boot forgets it."""
    answer = lab.get_json(group.instances[0].addresses[0])
    assert answer["instance"] == group.instances[0].uuid
    return int(answer["joined"])


def joined_soon(lab: Lab, group: group_pb2.InstanceGroup, count: int) -> int:
    """As `joined`, once it has become `count`; what it is after a while where it does not."""
    deadline = time.monotonic() + 120
    while (found := joined(lab, group)) != count and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def corral_group(corral: CorralProcess, uuid: str) -> group_pb2.InstanceGroup:
    return corral.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid)).inventory


def test_a_drained_members_guest_runs_on_at_the_other_hypervisor(corral: CorralProcess, lab: Lab) -> None:
    fleet = corral.fleet
    policy = group_pb2.PlacementPolicy(numa=placement_pb2.NUMA_POLICY_REQUIRED)
    group = corral.follow(corral.deploy("movers", small(2), placement_policy=policy))
    leader = group.instances[0]
    assert joined_soon(lab, group, 1) == 1
    machine = f"corral-{leader.uuid}-1"
    assert executing(lab, machine) == [leader.host_name]
    address = leader.addresses[0]
    mark = lab.get_json(address, path=f"/cgi-bin/join?group={group.uuid}&epoch=1&rank=7")
    assert mark["accepted"]
    assert joined_soon(lab, group, 2) == 2, "something that only the memory of this boot knows"

    moves, statuses, final = [], set(), None
    for step in fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=leader.host_uuid), timeout=120):
        kind = step.WhichOneof("change")
        if kind == "move":
            moves.append(step.move)
        elif kind == "instance":
            statuses.add(step.instance.status)
        else:
            final = step.final
    assert final is not None
    assert (final.state, final.instance_count) == ("Maintenance", 0)
    assert moves
    assert all(move.live for move in moves)
    assert statuses == {"Running"}
    after = corral_group(corral, group.uuid)
    moved = after.instances[0]
    assert (moved.attempt, moved.status, after.status) == (1, "Running", "Running")
    assert (moved.vm_instance_uuid, moved.addresses) == (leader.vm_instance_uuid, leader.addresses)
    assert cells(lab, machine) == [str(number) for number in moved.numa_cells] != [], "it is confined to a cell there"
    assert moved.host_name != leader.host_name
    assert executing(lab, machine) == [moved.host_name]
    assert joined_soon(lab, group, 2) == 2, "the guest was not booted again"
    assert lab.get_json(address)["machine_uuid"].replace("-", "") == leader.vm_instance_uuid.replace("-", "")
    assert set(domains(lab)) == {f"corral-{m.uuid}-1" for m in group.instances}
    corral.delete(group.uuid)
    assert domains(lab) == {}
    assert (rows(corral, "claims"), rows(corral, "addresses")) == (0, 0)
