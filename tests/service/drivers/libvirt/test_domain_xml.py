"""Domain XML: what goes in as text comes out as the same text, and nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.catalog import Image
from service.drivers.base import HostRejected, MachineIdentity, NetworkInterface
from service.drivers.libvirt.domain_xml import (
    Boot,
    Disk,
    Platform,
    check_spec,
    check_text,
    machine_xml,
    probe_xml,
    tombstone_xml,
)
from service.drivers.libvirt.tags import Kind, check_identity, read_domain
from tests.service.drivers.libvirt.machines import bridged, identity, specification

QEMU = Platform("qemu", "x86_64")
ALLOWED = st.characters(exclude_categories=["Cs"]).filter(
    lambda c: c in "\t\n\r" or (ord(c) >= 0x20 and ord(c) not in (0xFFFE, 0xFFFF))
)


def parsed(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)


@given(st.text(ALLOWED, max_size=200))
@example("carriage\rreturn\r\nnewline\ttab")
@example("<a b='c'>&amp;]]></a>")
def test_any_allowed_text_survives_the_way_through_xml(text: str) -> None:
    spec = specification(image=Image("x", kernel_path="/k", kernel_arguments=text))
    check_spec(spec)
    root = parsed(machine_xml(spec, QEMU, Boot("/k", "/i", text)))
    assert (root.findtext("os/cmdline") or "") == text


@given(st.text(max_size=50))
def test_a_name_never_becomes_markup(name: str) -> None:
    spec = specification(display_name=name)
    try:
        check_spec(spec)
    except HostRejected:
        return
    plain = parsed(machine_xml(specification(display_name="plain"), QEMU, Boot()))
    root = parsed(machine_xml(spec, QEMU, Boot()))
    assert [e.tag for e in root.iter()] == [e.tag for e in plain.iter()]
    assert "\n" not in (root.findtext("title") or "")


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\x1f", "\ufffe", "\uffff", "\ud800"])
def test_characters_that_xml_forbids_are_refused(character: str) -> None:
    with pytest.raises(HostRejected) as refusal:
        check_text(f"a{character}b", "the name")
    assert refusal.value.code == "bad_request"
    for spec in (
        specification(display_name=character),
        specification(image=Image("x", kernel_arguments=character)),
    ):
        with pytest.raises(HostRejected):
            check_spec(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"vcpus": 0},
        {"vcpus": 100_000},
        {"memory_bytes": -1},
        {"memory_bytes": 1 << 60},
        {"root_disk_bytes": -1},
        {"documents": {"../x": "y"}},
        {"documents": {"a,file=/etc/shadow": "y"}},
        {"documents": {"env": "\ud83d alone"}},
        {"documents": {"document-env": "y"}},
    ],
)
def test_what_no_host_could_do_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HostRejected):
        check_spec(specification(**changes))


@pytest.mark.parametrize("instance", ["", "a b", "../x", "x" * 65, "ü", "a.b"])
def test_an_identity_that_could_not_stand_in_a_name_is_refused(instance: str) -> None:
    with pytest.raises(HostRejected):
        check_identity(MachineIdentity("c", "g", instance, 1))


def test_a_domain_names_the_volumes_of_documents_and_holds_no_text_of_them() -> None:
    spec = specification(documents={"env": "a,file=/etc/shadow", "hosts": "b"})
    xml = machine_xml(spec, QEMU, Boot(documents={"env": "/p/env", "hosts": "/p/hosts"}))
    entries = parsed(xml).findall("sysinfo/entry")
    assert [(e.get("name"), e.get("file"), e.text) for e in entries] == [
        ("opt/org.corral/env.base64", "/p/env", None),
        ("opt/org.corral/hosts.base64", "/p/hosts", None),
    ]
    assert "shadow" not in xml
    assert "shadow" not in repr(spec)


def test_a_document_has_no_limit_of_the_drivers_own() -> None:
    check_spec(specification(documents={"rendezvous": "x" * (8 << 20)}))


def test_documents_of_a_cloud_init_image_are_not_in_the_domain() -> None:
    spec = specification(image=Image("x", delivery="nocloud"))
    assert parsed(machine_xml(spec, QEMU, Boot())).find("sysinfo") is None


def test_every_disk_has_an_explicit_format() -> None:
    boot = Boot(disks=(Disk("/p/root", "qcow2"), Disk("/p/seed", "raw", read_only=True)))
    disks = parsed(machine_xml(specification(), QEMU, boot)).findall("devices/disk")
    assert [d.find("driver").get("type") for d in disks] == ["qcow2", "raw"]  # type: ignore[union-attr]
    assert [d.find("target").get("dev") for d in disks] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert [d.find("readonly") is not None for d in disks] == [False, True]


def test_a_machine_says_whose_it_is() -> None:
    spec = specification(memory_bytes=(64 << 20) + 1, vcpus=3)
    record = read_domain(machine_xml(spec, QEMU, Boot()))
    assert record.tag is not None
    assert (record.tag.identity, record.tag.spec_hash, record.tag.kind) == (spec.identity, "hash", Kind.MACHINE)
    assert record.tag.progress_channel == "org.corral.progress"
    assert record.memory == (64 << 20) + 1024  # rounded up to what libvirt counts in
    assert record.vcpus == 3


def test_a_machine_has_an_agents_channel_where_it_is_asked_for_and_a_mark_in_its_consoles_log() -> None:
    def channels(asked_for: str, console: int = 0) -> tuple[list[str | None], int]:
        xml = machine_xml(specification(asked_for=asked_for), QEMU, Boot(console_from=console))
        record = read_domain(xml)
        assert record.tag is not None
        targets = parsed(xml).findall("devices/channel[@type='unix']/target")
        return [target.get("name") for target in targets], record.tag.console_from

    assert channels("") == (["org.corral.progress"], 0)
    assert channels("serial", 4711) == (["org.corral.progress"], 4711)
    assert channels("agent") == (["org.corral.progress", "org.qemu.guest_agent.0"], 0)
    for asked_for in ("agent", "serial"):
        with pytest.raises(HostRejected, match=f"no readiness by {asked_for}") as refusal:
            machine_xml(specification(asked_for=asked_for), Platform("test", "x86_64"), Boot())
        assert refusal.value.code == "unsupported"


def test_a_tombstone_has_the_uuid_and_another_name() -> None:
    record = read_domain(tombstone_xml(identity(), "qemu"))
    assert record.name != identity().machine_name
    assert parsed(tombstone_xml(identity(), "qemu")).findtext("uuid") == identity().machine_uuid
    assert record.tag is not None
    assert record.tag.kind is Kind.TOMBSTONE


def test_a_probe_guest_is_nobodys_machine() -> None:
    record = read_domain(probe_xml("corral-probe-x", identity(), QEMU, "/p/probe"))
    assert record.machine_of(identity().cluster) is None
    assert parsed(probe_xml("x", identity(), QEMU, "/p")).findtext("on_reboot") == "destroy"


@pytest.mark.parametrize("virt_type", ["kvm", "qemu"])
def test_software_emulation_has_its_own_settings(virt_type: str) -> None:
    root = parsed(machine_xml(specification(), Platform(virt_type, "x86_64"), Boot()))
    assert root.get("type") == virt_type
    assert (root.find("features/tcg") is not None) == (virt_type == "qemu")


def test_interfaces_of_each_kind() -> None:
    interfaces = (
        bridged(1),
        NetworkInterface("network", "default", "52:54:00:00:00:02"),
        NetworkInterface("user", "", ""),
        NetworkInterface("none", "", ""),
    )
    found = parsed(machine_xml(specification(interfaces=interfaces), QEMU, Boot())).findall("devices/interface")
    assert [i.get("type") for i in found] == ["bridge", "network", "user"]
    assert found[0].find("source").get("bridge") == "br0"  # type: ignore[union-attr]
    with pytest.raises(HostRejected):
        machine_xml(specification(interfaces=(replace(bridged(1), kind="vhost"),)), QEMU, Boot())
