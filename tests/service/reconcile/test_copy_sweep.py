"""Copies of images on hosts are held to a budget, and nothing that a machine stands on ever goes.

The observer looks at the host alone: at what its domains and volumes stand on, and whether that is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.config.file import parse
from service.domain.catalog import Image
from service.domain.fleet import Zone, image_budget
from service.domain.specs import DataDisk, DeployRequest
from service.drivers.copies import ImageFile
from service.drivers.libvirt import backing
from service.drivers.libvirt.driver import LibvirtDriver
from service.planning.planner import InlinePlanner
from service.reconcile import copy_sweep
from service.reconcile.copy_sweep import CopySweep
from service.reconcile.monitor import HostMonitor
from service.reconcile.staging import Stagings
from service.store import catalog, copies, fleet
from service.store.connection import Connection
from service.store.copies import Copy
from service.wiring import Service
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import driver_of, made, specification
from tests.support.builders import entry, host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

HOST = f"{1:032x}"
SIZE = 7680
SWEEP = "a process/sweep"


@dataclass
class Kept:
    """A host with a pool, and who keeps its copies within a budget of two."""

    plane: ControlPlane
    host: FakeHost
    driver: LibvirtDriver
    monitor: HostMonitor
    sweep: CopySweep
    directory: Path

    def image(self, name: str) -> Image:
        path = self.directory / name
        path.write_bytes(name.encode() * (SIZE // len(name)))
        return Image(name, disk_path=str(path), disk_format="raw", sha256={"disk": sum_of(path)})

    async def bring(self, name: str) -> str:
        """The volume of an image of that name, brought by this installation."""
        image = self.image(name)
        file = ImageFile(name, "disk", image.disk_path, SIZE, image.sha256["disk"])
        stagings = Stagings(self.plane.store, self.plane.metrics, "a process")
        while await stagings.bring(self.monitor, (file,)) is not None:
            pass
        (row,) = [row for row in await self.rows() if row.sha256 == file.sha256]
        return row.volume

    async def rows(self) -> tuple[Copy, ...]:
        return await self.plane.store.read(lambda c: copies.on_host(c, HOST))

    async def passes(self, count: int) -> None:
        for _ in range(count):
            await self.sweep.once(self.monitor)

    def bases(self) -> set[str]:
        return {n for n in self.host.volumes if n.startswith("corral-base.") and not n.endswith(".ready")}

    def orphans(self) -> set[str]:
        """Paths that some domain or volume stands on, and that are not there."""
        paths = set()
        for domain in self.host.domains.values():
            root = ElementTree.fromstring(domain.xml)
            paths |= {source.get("file", "") for source in root.iter("source")} | {root.findtext("os/kernel", "")}
        for xml in self.host.volumes.values():
            paths.add(ElementTree.fromstring(xml).findtext("backingStore/path", ""))
        return {p for p in paths if p.startswith("/pool/corral-base.") and p.removeprefix("/pool/") not in self.bases()}


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@asynccontextmanager
async def kept(tmp_path: Path, budget: int = 2 * SIZE) -> AsyncIterator[Kept]:
    async with control_plane(hosts=(host(1),)) as plane:
        there = FakeHost(pool=True)
        driver = driver_of(there)
        monitor = HostMonitor(host(1), driver, plane.store, lambda _: None, plane.custody)
        sweep = CopySweep(plane.store, plane.metrics, "a process", budget)
        yield Kept(plane, there, driver, monitor, sweep, tmp_path)
        await driver.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is withdrawn may go in the next pass."""
    monkeypatch.setattr(copy_sweep, "WITHDRAWN_MS", -1)


@pytest.mark.usefixtures("at_once")
async def test_what_was_not_used_for_longest_goes_first_and_no_more_than_has_to(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        names = [await it.bring(name) for name in ("one", "two", "three", "four")]
        await it.plane.store.write(lambda c: copies.seen(c, HOST, gone=(), used=[names[0]]))
        await it.passes(1)
        assert it.bases() == set(names), "never at first sight"
        await it.passes(2)
        assert it.bases() == {names[0], names[3]}
        assert {row.volume for row in await it.rows()} == it.bases()
        await it.passes(3)
        assert it.bases() == {names[0], names[3]}
        registry = it.plane.metrics.registry
        labels = {"host": it.monitor.host.name}
        assert registry.get_sample_value("corral_host_image_copies_bytes", labels) == 2 * SIZE
        removed = {**labels, "why": "budget"}
        assert registry.get_sample_value("corral_image_copies_removed_total", removed) == 2


@pytest.mark.usefixtures("at_once")
async def test_what_its_host_was_never_told_to_withdraw_is_withdrawn_first_and_waits_anew(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=SIZE) as it:
        names = [await it.bring(name) for name in ("one", "two")]
        # Its process died, or the call was lost, between the record and the host.
        await it.plane.store.write(lambda c: copies.withdraw(c, HOST, names[0]))
        assert f"{names[0]}.ready" in it.host.volumes
        await it.passes(1)
        assert it.bases() == set(names), "until now machines may have been made of it"
        assert f"{names[0]}.ready" not in it.host.volumes
        await it.passes(1)
        assert it.bases() == {names[1]}


@pytest.mark.usefixtures("at_once")
async def test_without_a_budget_nothing_goes(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=0) as it:
        names = {await it.bring(name) for name in ("one", "two", "three")}
        await it.passes(5)
        assert it.bases() == names


async def stand_on(it: Kept, how: str, volume: str) -> None:
    """Something stands on the volume from now on."""
    path = f"/pool/{volume}"
    foreign = it.host.add_foreign("foreign", vcpus=1, memory_kib=1024, running=how != "a stopped foreign machine")
    if how == "a volume":
        it.host.volumes["overlay.qcow2"] = (
            f"<volume><name>overlay.qcow2</name><target/><backingStore><path>{path}</path></backingStore></volume>"
        )
    elif how == "a machine's kernel":
        foreign.xml = foreign.xml.replace("</domain>", f"<os><kernel>{path}</kernel></os></domain>")
    elif how == "a machine of ours":
        await made(it.driver, specification(7, image=it.image("one")))
    else:
        first = "<source file='/elsewhere/a'/>"
        chain = f"<backingStore>{first}<backingStore><source file='{path}'/></backingStore></backingStore>"
        disk = f"<devices><disk><driver type='qcow2'/><source file='/elsewhere/b'/>{chain}</disk></devices>"
        if how == "a stopped foreign machine":
            disk = f"<devices><disk><driver type='raw'/><source file='{path}'/></disk></devices>"
        foreign.xml = foreign.xml.replace("</domain>", f"{disk}</domain>")


STANDS = ("a volume", "a machine's kernel", "a machine of ours", "a chain behind a disk", "a stopped foreign machine")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", STANDS)
async def test_what_something_stands_on_stays(tmp_path: Path, how: str) -> None:
    async with kept(tmp_path, budget=1) as it:
        one, two = await it.bring("one"), await it.bring("two")
        await stand_on(it, how, one)
        await it.passes(5)
        assert it.bases() == {one}, f"{two} went, and nothing else"
        assert it.orphans() == set()


@pytest.mark.usefixtures("at_once")
async def test_a_sweep_that_did_not_look_at_what_machines_stand_on_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug of this room."""
    async with kept(tmp_path, budget=1) as it:
        await stand_on(it, "a chain behind a disk", await it.bring("one"))
        monkeypatch.setattr(backing, "stood_on", lambda _connection: frozenset())
        await it.passes(5)
        assert it.orphans() != set()


@pytest.mark.usefixtures("at_once")
async def test_what_nobody_has_on_record_stays_and_counts(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=1) as it:
        one = await it.bring("one")
        other = "corral-base." + "0" * 64 + ".00000000"
        for name in (other, f"{other}.ready"):
            it.host.volumes[name] = it.host.volumes[one].replace(one, name)
        await it.passes(5)
        assert it.bases() == {other}


async def test_a_machine_that_was_made_while_its_copy_was_leaving_keeps_it(tmp_path: Path) -> None:
    """Its create had looked before the copy was withdrawn."""
    async with kept(tmp_path, budget=1) as it:
        one = await it.bring("one")
        await it.passes(3)
        assert f"{one}.ready" not in it.host.volumes
        await stand_on(it, "a volume", one)
        await it.passes(3)
        assert f"{one}.ready" in it.host.volumes
        (row,) = await it.rows()
        assert (row.withdrawn_at, row.owner) == (0, "")


async def test_a_create_takes_a_copy_that_is_leaving_into_use_again_without_sending_it(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=1) as it:
        one = await it.bring("one")
        await it.passes(3)
        sent = dict(it.host.uploaded)
        assert await it.bring("one") == one
        assert f"{one}.ready" in it.host.volumes
        assert it.host.uploaded == sent


@pytest.mark.usefixtures("at_once")
async def test_what_a_member_of_the_host_is_made_of_stays(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=1) as it:
        one, two = await it.bring("one"), await it.bring("two")
        model = replace(entry(), image=it.image("one"))
        await it.plane.store.write(lambda c: catalog.put_model_service(c, model))
        await it.plane.groups.deploy(CALLER, DeployRequest(spec(1)))
        while not it.plane.machines():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await it.passes(5)
        assert it.bases() == {one}, two


@pytest.mark.usefixtures("at_once")
async def test_what_a_data_disk_of_a_member_of_the_host_is_made_of_stays(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=1) as it:
        one, two = await it.bring("one"), await it.bring("two")
        asked = spec(1)
        (node,) = asked.nodes
        disk = DataDisk(0, "c" * 32, it.image("one"))
        await it.plane.groups.deploy(CALLER, DeployRequest(replace(asked, nodes=(replace(node, data_disks=(disk,)),))))
        while not it.plane.machines():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await it.passes(5)
        assert it.bases() == {one}, two


@pytest.mark.usefixtures("at_once")
async def test_where_nobody_can_tell_what_machines_stand_on_nothing_goes(tmp_path: Path) -> None:
    async with kept(tmp_path, budget=1) as it:
        one = await it.bring("one")
        foreign = it.host.add_foreign("foreign", vcpus=1, memory_kib=1024, running=False)
        disk = "<devices><disk><driver type='qcow2'/><source file='/elsewhere/b'/></disk></devices>"
        foreign.xml = foreign.xml.replace("</domain>", f"{disk}</domain>")
        for _ in range(5):
            it.sweep.forget(HOST)
            await it.sweep.sweep(it.monitor, early=False)
        assert it.bases() == {one}


async def test_what_was_never_finished_goes_after_an_hour_and_never_while_it_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(tmp_path) as it:
        one = await it.bring("one")
        del it.host.volumes[f"{one}.ready"]
        (row,) = await it.rows()
        begun = replace(row, whole=False, done=500)

        def unfinished(connection: object, *, owned: int) -> None:
            copies._set(connection, row, {"whole": False, "done": 500, "owner": "x", "owned_until": owned})  # type: ignore[arg-type]

        await it.plane.store.write(lambda c: unfinished(c, owned=2**60))
        monkeypatch.setattr(copy_sweep, "UNFINISHED_MS", -1)
        await it.passes(5)
        assert it.bases() == {begun.volume}, "it is under way"
        await it.plane.store.write(lambda c: unfinished(c, owned=0))
        monkeypatch.setattr(copy_sweep, "UNFINISHED_MS", 3_600_000)
        await it.passes(5)
        assert it.bases() == {begun.volume}, "it may be gone on with"
        monkeypatch.setattr(copy_sweep, "UNFINISHED_MS", -1)
        await it.passes(1)
        assert it.bases() == set()
        assert await it.rows() == ()


async def test_a_hosts_own_budget_counts_before_the_fleets(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        address = replace(it.monitor.host.address, options={"image_budget_gib": "3"})
        it.monitor.host = replace(it.monitor.host, address=address)
        zone = Zone("z", "zone", image_copies_budget=5)
        assert image_budget(it.monitor.host, zone, 7) == 3 << 30
        assert image_budget(replace(it.monitor.host, address=replace(address, options={})), zone, 7) == 5
        assert image_budget(host(1), None, 7) == image_budget(host(1), Zone("z", "zone"), 7) == 7


@pytest.mark.usefixtures("at_once")
async def test_a_zones_budget_is_what_its_hosts_are_held_to(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:

        async def budget(count: int | None) -> None:
            await it.plane.store.write(lambda c: _budget_of_all_zones(c, count))

        await budget(0)
        names = [await it.bring(name) for name in ("one", "two", "three")]
        await it.passes(4)
        assert it.bases() == set(names), "0 is no limit, whatever the configuration says"
        await budget(SIZE)
        await it.passes(4)
        assert it.bases() == {names[2]}
        await budget(None)
        later = [await it.bring(name) for name in ("four", "five")]
        await it.passes(4)
        assert it.bases() == set(later), "two, as the configuration says"


def _budget_of_all_zones(connection: Connection, budget: int | None) -> None:
    for zone in fleet.zones(connection).values():
        fleet.put_zone(connection, replace(zone, image_copies_budget=budget), now=1)


async def test_the_configured_budget_is_what_hosts_are_held_to(tmp_path: Path) -> None:
    zone = '[[zones]]\nuuid = "00000000000000000000000000000001"\nname = "zone"\n'
    text = f'[store]\nurl = "sqlite:///{tmp_path}/db"\n[catalog]\nimage_copies_budget = "3GiB"\n{zone}'
    service = Service(parse(text, tmp_path), planner=InlinePlanner())
    try:
        sweep = service.reconciler._sweep
        assert sweep is not None
        assert sweep._copies is not None
        assert sweep._copies._budget == 3 << 30
    finally:
        service.store.close()
