"""From a stored member to what its host is asked to create: sizes, network and the rendezvous documents. Pure.

Contract `rendezvous/v1` (one JSON document and the same facts as an env file): every member knows the whole group
before it boots, so no name service and no discovery are needed. Values of secrets stand in the documents alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import ip_network

from service.domain.catalog import Image, ModelService
from service.domain.environment import Secrets
from service.domain.fleet import Host, Zone
from service.domain.groups import Group, Instance
from service.domain.isolation import isolation_of
from service.domain.ownership import Installation
from service.drivers.base import MachineIdentity, MachineSpec, NetworkInterface
from service.planning import confinement
from service.planning.translate import demand
from service.serving import engine, supervisor
from service.serving.record import machine_record
from service.serving.rendezvous import rendezvous, template, texts


def identity_of(cluster: str, member: Instance) -> MachineIdentity:
    """Who the member's present machine is."""
    return MachineIdentity(cluster, member.group_uuid, member.uuid, member.attempt)


def machine_spec(
    installation: Installation,
    group: Group,
    member: Instance,
    *,
    host: Host,
    zones: Mapping[str, Zone],
    catalogue: Mapping[str, ModelService],
    secrets: Secrets,
) -> MachineSpec:
    """What `member`'s host is asked to create.

    Raises KeyError for a zone or catalogue entry that is gone, SecretUnavailable.
    """
    entry = template(member, catalogue)
    interfaces = _interfaces(member, zones[host.zone_uuid], host)
    pinned = member.target_cells if host.uuid == member.target_host_uuid else member.cells
    document = rendezvous(group, member, host, zones, catalogue, secrets)
    check = engine.host_check(member, entry)
    asked_for = check.kind.value if check is not None else ""
    return MachineSpec(
        identity=identity_of(installation.cluster, member),
        display_name=member.spec.name,
        host_name=document["node"]["host_name"],
        vcpus=member.spec.cpu_num,
        memory_bytes=member.spec.memory_size,
        root_disk_bytes=member.spec.root_disk_size,
        image=entry.image,
        interfaces=interfaces,
        documents={**texts(document, group, member), **_programs(entry.image)},
        spec_hash=_spec_hash(member, entry.image, interfaces, pinned, asked_for),
        cells=pinned,
        devices=member.devices,
        resources=demand(member.spec),
        generation=installation.generation(group.revision),
        record=machine_record(group, member, entry, document["group"]["epoch"]),
        isolation=isolation_of(group, zones[host.zone_uuid], zones) if member.address else None,
        asked_for=asked_for,
        relies_on=confinement.options(member.spec),
        data_disks=member.spec.data_disks,
    )


def _programs(image: Image) -> dict[str, str]:
    """What a guest of any make runs for Corral; the default guest, which reads the firmware, has its own."""
    return {supervisor.NAME: supervisor.SUPERVISOR} if image.delivery == "nocloud" else {}


def _interfaces(member: Instance, zone: Zone, host: Host) -> tuple[NetworkInterface, ...]:
    network = zone.network
    if network.kind == "none":
        return ()
    return (
        NetworkInterface(
            kind=network.kind,
            source=host.bridge or network.source,
            mac=member.mac,
            address=member.address,
            prefix_length=ip_network(network.subnet).prefixlen if network.subnet else 0,
            gateway=network.gateway,
        ),
    )


def _spec_hash(
    member: Instance, image: Image, interfaces: tuple[NetworkInterface, ...], pinned: tuple[int, ...], asked_for: str
) -> str:
    """Changes whenever the machine would have to be made differently; documents may change without it."""
    made_of = (member.spec, image.name, sorted(image.sha256.items()), interfaces)
    given = (*((pinned,) if pinned else ()), *((member.devices,) if member.devices else ()))
    given = (*given, *((asked_for,) if asked_for else ()))
    text = repr((*made_of, *given))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Unread:
    """For a specification that is only looked at: no secret is read."""

    def known(self, name: str, project: str | None) -> bool:
        """Whatever was admitted."""
        return True

    def value(self, name: str, project: str) -> str:
        """Nothing."""
        return ""
