"""A database and running guests of the last version without ownership come up under this one, on a real libvirtd.

`before_ownership/` is what that version (schema 0005) wrote on a lab like this one, where it had a group of two: its
database without events, and its domains as libvirt kept them. Their guests run here before the service starts.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import libvirt
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from tests.integration.test_service_on_hypervisors import configuration, sweep
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.support.process import CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

BEFORE = Path(__file__).parent / "before_ownership"
GROUP = "78c45c15b10c42e086923c5b08928003"
POOL = Path("/var/lib/libvirt/corral")


def base_files(directory: Path, image: GuestImage) -> dict[str, str]:
    """The image's files in the pool of a hypervisor, named as that version named them; what its domains say of them."""
    places = {}
    pool = directory / POOL.relative_to("/")
    pool.mkdir(mode=0o711, parents=True, exist_ok=True)
    for word, source in (("@KERNEL@", image.kernel), ("@INITRD@", image.initramfs)):
        name = f"corral-base.{hashlib.sha256(source.read_bytes()).hexdigest()}.0123abcd"
        shutil.copyfile(source, pool / name)
        (pool / f"{name}.ready").touch()
        places[word] = str(POOL / name)
    return places


@pytest.fixture
def domains(lab: Lab, guest_image: GuestImage) -> Iterator[dict[str, int]]:
    """The guests, running: name -> libvirt's number, which a start gives anew."""
    hypervisor = next(iter(lab))
    places = base_files(hypervisor.directory, guest_image)
    running = {}
    with closing(libvirt.open(hypervisor.uri)) as connection:
        for file in sorted(BEFORE.glob("*.xml")):
            text = file.read_text()
            for word, place in places.items():
                text = text.replace(word, place)
            domain = connection.defineXML(text)
            domain.create()
            running[domain.name()] = domain.ID()
    try:
        yield running
    finally:
        for each in lab:
            sweep(each.uri)
        for place in places.values():
            for name in (place, f"{place}.ready"):
                (hypervisor.directory / Path(name).relative_to("/")).unlink()


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    """The service on that version's database; not started."""
    process = CorralProcess(tmp_path, configuration(lab, guest_image))
    text = (BEFORE / "corral.sql").read_text()
    text = text.replace("@LAB@", str(next(iter(lab)).directory.parent))
    text = text.replace("@IMAGE@", str(guest_image.kernel.parent))
    with closing(sqlite3.connect(process.database)) as connection:
        connection.executescript(text)
    try:
        yield process
    finally:
        process.kill()


def numbers(lab: Lab) -> dict[str, int]:
    """Name -> libvirt's number of every domain that runs."""
    found: dict[str, int] = {}
    for hypervisor in lab:
        with closing(libvirt.open(hypervisor.uri)) as connection:
            found |= {domain.name(): domain.ID() for domain in connection.listAllDomains() if domain.isActive()}
    return found


def rows(corral: CorralProcess, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(corral.database)) as connection:
        return connection.execute(query).fetchall()


def test_running_guests_of_an_earlier_version_are_known_marked_and_go_on(
    domains: dict[str, int], corral: CorralProcess, lab: Lab
) -> None:
    assert len(domains) == 2
    corral.start()
    wait_until(lambda: all(h.status == "Connected" for h in hosts(corral)), 60, "the hypervisors to be this service's")
    group = corral.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=GROUP)).inventory
    assert [group.status, *(member.status for member in group.instances)] == ["Running"] * 3
    assert {member.attempt for member in group.instances} == {1}
    assert numbers(lab) == domains, "nothing was started, stopped or made again"
    assert all(host.hypervisor_uuid for host in hosts(corral))
    assert rows(corral, "SELECT count(*) FROM quarantine") == [(0,)]
    assert rows(corral, "SELECT count(*) FROM retired") == [(0,)]
    ((database, cluster),) = rows(corral, "SELECT database, cluster FROM installation")
    assert cluster == "corral", "what machines of that version bear"
    for hypervisor in lab:
        with closing(libvirt.open(hypervisor.uri)) as connection:
            assert str(database) in connection.lookupByName("corral-owner").XMLDesc()
    # It has the group as it has its own: what is deleted goes, on record.
    assert corral.delete(GROUP).status == "Deleted"
    assert not numbers(lab)
    assert rows(corral, "SELECT count(*) FROM retired") == [(2,)]


def hosts(corral: CorralProcess) -> list[fleet_pb2.Host]:
    return list(corral.fleet.ListHosts(fleet_pb2.ListHostsRequest()).inventories)
