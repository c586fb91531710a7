"""What libvirt and QEMU do when things go wrong, as the design takes it for granted. Raw libvirt, no driver."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from tests.lab.hypervisor import Hypervisor
from tests.lab.namespaces import wait_until

pytestmark = pytest.mark.qemu

METADATA = "<metadata><x:mark xmlns:x='urn:test'>kept</x:mark></metadata>"

_KILLED_CLIENT = """
import sys, time, libvirt
connection = libvirt.open(sys.argv[1])
domain = connection.lookupByName(sys.argv[2])
domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
time.sleep(600)
"""


def xml_of(name: str, machine_uuid: str, memory_mib: int = 32) -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{machine_uuid}</uuid>{METADATA}"
        f"<memory unit='MiB'>{memory_mib}</memory><os><type>hvm</type></os><features><acpi/></features>"
        "<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )


@pytest.fixture
def connection(hosts: list[Hypervisor]) -> Iterator[Any]:
    made = libvirt.open(hosts[0].uri)
    yield made
    made.close()


@pytest.fixture
def machine_uuid() -> str:
    return str(uuid.uuid4())


def code_of(call: Any, *arguments: Any) -> int:
    with pytest.raises(libvirt.libvirtError) as refusal:
        call(*arguments)
    return int(refusal.value.get_error_code())


def test_a_client_killed_in_mid_create_does_not_stop_the_create(
    hosts: list[Hypervisor], connection: Any, machine_uuid: str
) -> None:
    domain = connection.defineXML(xml_of("orphaned-create", machine_uuid))
    with subprocess.Popen([sys.executable, "-c", _KILLED_CLIENT, hosts[0].uri, "orphaned-create"]) as client:
        try:
            # QEMU has just been started, which is early in a create: libvirtd has yet to talk to it.
            wait_until(lambda: "orphaned-create" in hosts[0].guests(), 60, "the create to begin")
        finally:
            client.kill()
    wait_until(lambda: domain.state()[1] == libvirt.VIR_DOMAIN_PAUSED_USER, 60, "the domain that nobody waited for")
    assert "orphaned-create" in hosts[0].guests()


def test_defining_the_same_name_and_uuid_again_overwrites_silently_even_while_it_runs(
    connection: Any, machine_uuid: str
) -> None:
    domain = connection.defineXML(xml_of("same", machine_uuid, 32))
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    again = connection.defineXML(xml_of("same", machine_uuid, 64))
    assert again.isActive()
    assert "65536" in again.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)


def test_the_same_uuid_under_another_name_is_refused(connection: Any, machine_uuid: str) -> None:
    connection.defineXML(xml_of("first", machine_uuid))
    assert code_of(connection.defineXML, xml_of("second", machine_uuid)) == libvirt.VIR_ERR_OPERATION_FAILED


def test_creating_what_runs_is_told_apart(connection: Any, machine_uuid: str) -> None:
    domain = connection.defineXML(xml_of("twice", machine_uuid))
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    assert code_of(domain.createWithFlags, libvirt.VIR_DOMAIN_START_PAUSED) == libvirt.VIR_ERR_OPERATION_INVALID


def test_undefining_what_runs_leaves_it_running_and_transient(
    hosts: list[Hypervisor], connection: Any, machine_uuid: str
) -> None:
    domain = connection.defineXML(xml_of("undefined", machine_uuid))
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    domain.undefine()
    assert domain.isActive()
    assert not domain.isPersistent()
    assert "undefined" in hosts[0].guests()


def test_guests_survive_libvirtd_and_are_adopted_with_their_metadata(
    hosts: list[Hypervisor], connection: Any, machine_uuid: str
) -> None:
    domain = connection.defineXML(xml_of("survivor", machine_uuid))
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    before = hosts[0].guests()
    hosts[0].kill_daemon()
    assert hosts[0].guests() == before
    hosts[0].start_daemon()
    again = libvirt.open(hosts[0].uri)
    adopted = again.lookupByUUIDString(machine_uuid)
    assert adopted.isActive()
    assert "kept" in adopted.XMLDesc()
    again.close()


@pytest.mark.parametrize(
    ("interface", "code"),
    [
        ("<interface type='bridge'><source bridge='no-such-br'/></interface>", libvirt.VIR_ERR_SYSTEM_ERROR),
        ("<interface type='network'><source network='no-such'/></interface>", libvirt.VIR_ERR_NO_NETWORK),
    ],
)
def test_what_is_missing_is_told_by_number(connection: Any, machine_uuid: str, interface: str, code: int) -> None:
    xml = xml_of("incomplete", machine_uuid).replace("</devices>", f"{interface}</devices>")
    domain = connection.defineXML(xml)
    assert code_of(domain.createWithFlags, libvirt.VIR_DOMAIN_START_PAUSED) == code


def test_a_plain_text_in_fw_cfg_reaches_the_option_parser(connection: Any, machine_uuid: str) -> None:
    # Why documents go in base64: this text has just added an option of its own to QEMU's command line.
    entry = "<sysinfo type='fwcfg'><entry name='opt/test/x'>a,file=/etc/hostname</entry></sysinfo>"
    domain = connection.defineXML(xml_of("injected", machine_uuid).replace("<os>", f"{entry}<os>"))
    with pytest.raises(libvirt.libvirtError, match="file"):
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
