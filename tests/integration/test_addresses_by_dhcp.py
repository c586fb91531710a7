"""A zone that plans no addresses: guests ask the network's DHCP server, and their members have what they got."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from corral.v1 import group_pb2

from tests.integration.test_service_on_hypervisors import configuration, machine_volumes, serving, small
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.lab.requirements import program
from tests.support.process import CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(900)]

PLANNED = 'subnet = "10.77.0.0/16"\ngateway = "10.77.0.1"\npool = "10.77.1.10-10.77.1.99"\n'
FIRST, LAST = IPv4Address("10.77.5.10"), IPv4Address("10.77.5.20")


@pytest.fixture
def leases(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """Where a DHCP server in the lab's network keeps what it has given out."""
    kept = tmp_path / "leases"
    options = ("--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=lab0")
    given = (f"--dhcp-range={FIRST},{LAST},255.255.0.0,2m", f"--dhcp-leasefile={kept}", "--dhcp-option=3,10.77.0.1")
    pid = f"--pid-file={tmp_path / 'pid'}"
    server = subprocess.Popen(
        lab.command(program("dnsmasq"), *options, pid, *given), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: (tmp_path / "pid").exists() or server.poll() is not None, 30, "the DHCP server is there")
        assert server.poll() is None, server.stderr.read().decode() if server.stderr else ""
        yield kept
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    text = configuration(lab, guest_image)
    assert PLANNED in text
    with serving(tmp_path, text.replace(PLANNED, ""), lab) as process:
        yield process


def test_members_have_the_addresses_that_a_dhcp_server_gave_them(corral: CorralProcess, lab: Lab, leases: Path) -> None:
    alone = group_pb2.PlacementPolicy(max_per_host=1)
    groups = [corral.follow(corral.deploy(f"alone-{n}", small(1), placement_policy=alone)) for n in range(2)]
    for group in groups:
        assert group.status == "Running"
        (member,) = group.instances
        (address,) = member.addresses
        assert FIRST <= IPv4Address(address) <= LAST
        assert any(line.split()[2] == address for line in leases.read_text().splitlines())
        health = lab.get_json(address)
        assert (health["status"], health["instance"]) == ("ok", member.uuid)
        assert address in member.url
    assert len({group.instances[0].addresses[0] for group in groups}) == 2
    for group in groups:
        corral.delete(group.uuid)
    assert machine_volumes(lab) == []
