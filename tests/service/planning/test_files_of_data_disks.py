"""The files of members' data disks count as their images do: where they are, and that they are kept."""

from __future__ import annotations

from dataclasses import replace

from placement.constraints import Prefer
from service.domain.catalog import disk_image
from service.domain.fleet import Host, HostStatus
from service.domain.groups import Group
from service.domain.specs import DataDisk
from service.planning import images, translate
from tests.support.builders import entry, group, host

WEIGHTS = "ab" * 32
WITH = replace(host(1), status=HostStatus.CONNECTED, images=(WEIGHTS,))
WITHOUT = replace(host(2), status=HostStatus.CONNECTED)


def wishes(asked: Group, *hosts: Host) -> dict[str, frozenset[str]]:
    """What is wished of a host -> the members for which it is."""
    catalogue = {one.spec.model_service_uuid: entry() for one in asked.instances}
    found = images.preferring(translate.request(asked), asked, {h.uuid: h for h in hosts}, catalogue)
    return {one.key: one.select.nodes for one in found.constraints if isinstance(one, Prefer)}


def test_a_host_that_has_the_file_of_a_data_disk_is_preferred_by_the_members_that_have_such_a_disk() -> None:
    disk = DataDisk(0, "c" * 32, disk_image("weights", "/images/weights", "raw", WEIGHTS))
    plain = group(2)
    (first, second) = plain.instances
    own = replace(first, spec=replace(first.spec, data_disks=(DataDisk(1 << 20), disk)))
    asked = replace(plain, instances=(own, second))
    assert wishes(plain, WITH, WITHOUT) == {}
    assert list(wishes(asked, WITH, WITHOUT).values()) == [frozenset({first.uuid})]
    assert wishes(asked, WITH, replace(WITH, uuid=WITHOUT.uuid)) == {}, "wherever it goes it is there"
