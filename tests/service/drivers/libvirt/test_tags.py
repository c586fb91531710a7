"""Whose a domain or a volume is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.drivers.base import MachineIdentity
from service.drivers.libvirt.tags import (
    NAMESPACE,
    Kind,
    Tag,
    is_machine_volume,
    read_domain,
    tag_element,
    volume_name,
)

WORD = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
CLUSTER = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    lambda text: not any(ord(c) in (0xFFFE, 0xFFFF) for c in text)
)
IDENTITY = st.builds(MachineIdentity, CLUSTER, WORD, WORD, st.integers(0, 10**9 - 1))


def domain(tag: ElementTree.Element | None, machine_uuid: str) -> str:
    root = ElementTree.Element("domain")
    ElementTree.SubElement(root, "uuid").text = machine_uuid
    metadata = ElementTree.SubElement(root, "metadata")
    if tag is not None:
        metadata.append(tag)
    return ElementTree.tostring(root, encoding="unicode")


RECORD = st.dictionaries(st.text(), st.text()).map(lambda told: json.dumps(told) if told else "")


@given(IDENTITY, st.sampled_from(Kind), RECORD)
def test_what_was_written_is_read(identity: MachineIdentity, kind: Kind, record: str) -> None:
    tag = Tag(identity, "hash", kind, "channel", 7, record)
    assert read_domain(domain(tag_element(tag), identity.machine_uuid)).tag == tag


@given(IDENTITY, IDENTITY)
def test_a_volume_belongs_to_its_own_cluster_alone(mine: MachineIdentity, other: MachineIdentity) -> None:
    assert is_machine_volume(volume_name(mine, "root"), mine.cluster)
    assert is_machine_volume(volume_name(mine, "root"), other.cluster) == (mine.cluster == other.cluster)


@given(IDENTITY, IDENTITY)
def test_two_machines_never_share_a_volume_name(mine: MachineIdentity, other: MachineIdentity) -> None:
    key = (mine.cluster, mine.instance, mine.attempt) == (other.cluster, other.instance, other.attempt)
    assert (volume_name(mine, "root") == volume_name(other, "root")) == key


def test_a_copy_of_a_machine_is_not_ours() -> None:
    # virt-clone copies the metadata and gives the copy another uuid.
    identity = MachineIdentity("c", "g", "i", 1)
    copied = domain(tag_element(Tag(identity, "", Kind.MACHINE)), "7b0d1b7e-0000-4000-8000-000000000000")
    assert read_domain(copied).tag is None


@pytest.mark.parametrize("missing", ["kind", "cluster", "group", "instance", "attempt", "spec-hash"])
def test_an_incomplete_tag_is_not_ours(missing: str) -> None:
    identity = MachineIdentity("c", "g", "i", 1)
    element = tag_element(Tag(identity, "", Kind.MACHINE))
    del element.attrib[missing]
    assert read_domain(domain(element, identity.machine_uuid)).tag is None


@pytest.mark.parametrize(("attribute", "value"), [("attempt", "one"), ("kind", "pet")])
def test_a_tag_without_sense_is_not_ours(attribute: str, value: str) -> None:
    identity = MachineIdentity("c", "g", "i", 1)
    element = tag_element(Tag(identity, "", Kind.MACHINE))
    element.set(attribute, value)
    assert read_domain(domain(element, identity.machine_uuid)).tag is None


def test_another_programs_metadata_is_not_ours() -> None:
    assert read_domain(domain(ElementTree.Element("{urn:other}machine"), "x")).tag is None
    assert read_domain(domain(ElementTree.Element(f"{{{NAMESPACE}}}other"), "x")).tag is None


@pytest.mark.parametrize(
    ("xml", "memory", "vcpus"),
    [
        ("<domain><memory unit='KiB'>1024</memory><vcpu>2</vcpu></domain>", 1 << 20, 2),
        (
            "<domain><maxMemory unit='GiB'>8</maxMemory><memory>1</memory><vcpu current='1'>4</vcpu></domain>",
            1 << 10,
            1,
        ),
        ("<domain/>", 0, 0),
    ],
)
def test_a_domain_holds_what_it_has_and_not_what_it_could_be_given(xml: str, memory: int, vcpus: int) -> None:
    record = read_domain(xml)
    assert (record.memory, record.vcpus) == (memory, vcpus)


def test_a_machine_of_a_version_without_generations_and_records_is_ours() -> None:
    # As libvirt gave it back, made by the last version before machines had them.
    identity = MachineIdentity("corral", "a" * 32, "b" * 32, 3)
    xml = (
        f"<domain type='qemu'><name>{identity.machine_name}</name><uuid>{identity.machine_uuid}</uuid><metadata>"
        '<corral:machine xmlns:corral="urn:corral:machine:1" kind="machine" cluster="corral" '
        f'group="{identity.group}" instance="{identity.instance}" attempt="3" spec-hash="5e1f" '
        'progress-channel="org.corral.progress"/></metadata></domain>'
    )
    assert read_domain(xml).tag == Tag(identity, "5e1f", Kind.MACHINE, "org.corral.progress", 0, "")
