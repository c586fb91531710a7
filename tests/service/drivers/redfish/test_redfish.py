"""The redfish driver against a BMC of memory with the faults of bought ones: what is believed, what is never done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from service.app.seats import StoredSeats
from service.domain.catalog import Image
from service.domain.fleet import HostAddress
from service.domain.seats import Report, key_of, token_in
from service.drivers.base import (
    HostRejected,
    HostUnreachable,
    MachineConflict,
    MachineIdentity,
    MachineSpec,
    MachineState,
    NetworkInterface,
    OutcomeUnknown,
)
from service.drivers.redfish import bmc as bmc_module
from service.drivers.redfish.driver import RedfishDriver
from service.store import fleet
from service.store.engine import Store
from tests.support import builders
from tests.support.bmc import ACCOUNT, GIB, Bmc
from tests.support.schema import migrated
from tests.support.seeds import document

pytestmark = pytest.mark.asyncio

HOST = builders.host(1).uuid
BASE = "http://127.0.0.1:1"
SECONDS = 60.0


@dataclass
class Lab:
    bmc: Bmc
    driver: RedfishDriver
    seats: StoredSeats
    address: HostAddress

    async def state(self, spec: MachineSpec) -> MachineState:
        _, found = await self.driver.observe(spec.identity, budget_seconds=SECONDS)
        return MachineState.ABSENT if found is None else found.state

    async def create(self, spec: MachineSpec) -> MachineState:
        return (await self.driver.create_paused(spec, budget_seconds=SECONDS)).state

    async def resume(self, spec: MachineSpec) -> MachineState:
        return (await self.driver.resume(spec.identity, budget_seconds=SECONDS)).state


@pytest_asyncio.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(bmc_module, "OFF_TWICE_SECONDS", 0.05)
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    store = Store("sqlite://")
    migrated(store.engine)
    await store.write(lambda c: fleet.put_zone(c, builders.zone()))
    await store.write(lambda c: fleet.put_host(c, builders.host(1)))
    machine = Bmc(tmp_path)
    options = {"ca_file": str(machine.ca_file), "password_file": str(machine.password_file), "seed_url": BASE}
    address = HostAddress("redfish", "tls", "localhost", machine.port, username=ACCOUNT, options=options)
    seats = StoredSeats(store)
    driver = RedfishDriver(HOST, address, seats)
    try:
        yield Lab(machine, driver, seats, address)
        await driver.close()
    finally:
        machine.close()
        store.close()


def spec(attempt: int = 1, instance: str = "1") -> MachineSpec:
    return MachineSpec(
        identity=MachineIdentity("lab", "a" * 32, instance * 32, attempt),
        display_name="m",
        vcpus=16,
        memory_bytes=64 * GIB,
        root_disk_bytes=0,
        image=Image("debian", delivery="nocloud"),
        interfaces=(NetworkInterface("bridge", "br0", "02:00:00:00:00:01", "10.0.0.9", 24, "10.0.0.1"),),
        documents={"rendezvous": '{"secret": "canary"}', "env": "A=1\n"},
        spec_hash="h",
    )


async def test_an_inventory_is_the_hosts_facts(lab: Lab) -> None:
    facts = await lab.driver.probe(budget_seconds=SECONDS)
    assert facts.total == {"vcpu": 16, "memory": 64 * GIB, "gpu.A100-80GB": 1}
    assert (facts.foreign, facts.hypervisor, facts.architecture) == ({}, lab.bmc.uuid, "x86_64")
    assert (facts.firmware, facts.secure_boot) == ("UEFI", "off")
    lab.bmc.restart()
    assert (await lab.driver.probe(budget_seconds=SECONDS)).boot_id != facts.boot_id


async def test_a_machine_lives_as_a_virtual_one_does(lab: Lab) -> None:
    one = spec()
    assert await lab.state(one) is MachineState.ABSENT
    assert await lab.create(one) is MachineState.PAUSED
    assert (lab.bmc.power, lab.bmc.resets) == ("Off", [])
    assert await lab.create(one) is MachineState.PAUSED  # once more is no other
    token = token_in(lab.bmc.image)
    seed = await lab.seats.seed(token)
    assert seed is not None
    assert document(seed.content, "env") == "A=1\n"
    assert "52:54:00:aa:00:01" in document(seed.content, "network-config")
    assert not await lab.seats.report(token, Report("ready"))  # nothing was let run
    assert await lab.resume(one) is MachineState.RUNNING
    assert await lab.resume(one) is MachineState.RUNNING
    assert await lab.seats.report(token, Report("ready", epoch=3))
    _, found = await lab.driver.observe(one.identity, budget_seconds=SECONDS)
    assert found is not None
    assert found.report is not None
    assert (found.report.stage, found.report.epoch) == ("ready", 3)
    assert lab.bmc.resets == ["On"]
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    assert await lab.state(one) is MachineState.STOPPED  # and not paused, which looks alike
    with pytest.raises(HostRejected):
        await lab.resume(one)
    assert await lab.create(one) is MachineState.PAUSED
    assert token_in(lab.bmc.image) != token
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (await lab.state(one), lab.bmc.image, lab.bmc.power) == (MachineState.ABSENT, "", "Off")
    assert await lab.seats.seed(token) is None


async def test_what_is_stored_of_a_seed_does_not_open_it(lab: Lab) -> None:
    await lab.create(spec())
    (seat,) = await lab.seats.on(HOST)
    assert seat.key == key_of(token_in(lab.bmc.image))
    assert await lab.seats.seed(seat.key) is None


async def test_an_attempt_that_was_given_up_is_never_let_run_and_is_ended_where_it_runs(lab: Lab) -> None:
    one, url = spec(), ""
    await lab.create(one)
    url = lab.bmc.image
    with pytest.raises(MachineConflict):
        await lab.driver.entomb(one.identity, budget_seconds=SECONDS)  # it is there
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    await lab.driver.entomb(one.identity, budget_seconds=SECONDS)
    assert await lab.state(one) is MachineState.TOMBSTONE
    with pytest.raises(MachineConflict):
        await lab.create(one)
    assert await lab.seats.seed(token_in(url)) is None
    await lab.driver.clear_tombstone(one.identity, budget_seconds=SECONDS)
    assert await lab.state(one) is MachineState.ABSENT


async def test_a_late_call_of_a_given_up_attempt_is_seen_and_only_that_is_switched_off(lab: Lab) -> None:
    one, two = spec(), spec(2)
    await lab.create(one)
    url = lab.bmc.image
    lab.bmc.image = ""  # the late insert is still on its way
    await lab.driver.entomb(one.identity, budget_seconds=SECONDS)
    lab.bmc.image, lab.bmc.power = url, "On"
    assert await lab.state(one) is MachineState.RUNNING
    with pytest.raises(MachineConflict):
        await lab.create(two)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.power, lab.bmc.image) == ("Off", "")
    assert await lab.state(one) is MachineState.TOMBSTONE
    assert await lab.create(two) is MachineState.PAUSED


@pytest.mark.parametrize(("power", "image"), [("On", ""), ("Off", "http://x/disk.iso"), ("On", "http://x/disk.iso")])
async def test_what_is_anothers_is_left_as_it_is(lab: Lab, power: str, image: str) -> None:
    one = spec()
    lab.bmc.power, lab.bmc.image = power, image
    facts = await lab.driver.probe(budget_seconds=SECONDS)
    assert facts.foreign == facts.total
    with pytest.raises(MachineConflict):
        await lab.create(one)
    for end in (lab.driver.power_off, lab.driver.remove, lab.driver.shutdown):
        await end(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.power, lab.bmc.image, lab.bmc.posts) == (power, image, [])


async def test_another_members_machine_is_left_as_it_is(lab: Lab) -> None:
    one, other = spec(), spec(instance="2")
    await lab.create(one)
    await lab.resume(one)
    with pytest.raises(MachineConflict):
        await lab.create(other)
    for end in (lab.driver.power_off, lab.driver.remove):
        await end(other.identity, budget_seconds=SECONDS)
    assert await lab.state(one) is MachineState.RUNNING


@pytest.mark.parametrize("fault", ["lose Reset", "500 Reset"])
async def test_a_lost_answer_switches_on_once(lab: Lab, fault: str) -> None:
    one = spec()
    await lab.create(one)
    lab.bmc.faults[fault] = 1
    try:
        await lab.resume(one)
    except OutcomeUnknown:
        assert fault == "lose Reset"
    assert await lab.state(one) is MachineState.RUNNING
    assert await lab.resume(one) is MachineState.RUNNING
    assert lab.bmc.posts == ["On"]


@pytest.mark.parametrize("also", [(), ("500 Reset",)], ids=["said yes", "said 500"])
async def test_what_was_switched_on_is_remembered_where_nobody_could_see_it(lab: Lab, also: tuple[str, ...]) -> None:
    one = spec()
    await lab.create(one)
    for fault in ("busy after Reset", *also):
        lab.bmc.faults[fault] = 1
    with pytest.raises(OutcomeUnknown):
        await lab.resume(one)
    lab.bmc.faults["busy"] = 0
    assert lab.bmc.resets == ["On"]
    lab.bmc.image = ""  # its guest has let go of the drive
    assert await lab.state(one) is MachineState.RUNNING
    lab.bmc.power = "Off"
    assert await lab.state(one) is MachineState.STOPPED, "it has run, and is not let run again"


@pytest.mark.parametrize("fault", ["lose InsertMedia", "500 InsertMedia", "lose EjectMedia", "500 EjectMedia"])
async def test_a_lost_answer_about_the_drive_is_looked_at(lab: Lab, fault: str) -> None:
    one = spec()
    await lab.create(one)
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    lab.bmc.faults[fault] = 1

    async def settled() -> None:
        await lab.create(one)
        await lab.driver.remove(one.identity, budget_seconds=SECONDS)

    try:
        await settled()
    except OutcomeUnknown:
        await settled()
    assert lab.bmc.faults[fault] == 0
    assert lab.bmc.image == ""


@pytest.mark.parametrize("fault", ["insert_refused", "insert_ignored", "eject_ignored"])
async def test_it_never_starts_from_what_was_in_the_drive_before(lab: Lab, fault: str) -> None:
    one = spec()
    if fault == "eject_ignored":
        await lab.create(one)
        await lab.resume(one)
        await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    before = lab.bmc.image
    lab.bmc.faults[fault] = 1
    with pytest.raises((HostRejected, OutcomeUnknown)):
        await lab.create(one)
    assert lab.bmc.image == before
    with pytest.raises(HostRejected):
        await lab.resume(one)
    assert lab.bmc.power == "Off"
    assert await lab.create(one) is MachineState.PAUSED
    assert token_in(lab.bmc.image) != token_in(before)


async def test_a_seed_that_was_taken_out_is_not_booted_without(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    lab.bmc.image = ""
    with pytest.raises(HostRejected):
        await lab.resume(one)
    assert lab.bmc.posts == []
    assert await lab.state(one) is MachineState.ABSENT


async def test_a_lost_session_is_made_anew_and_none_is_left_behind(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    lab.bmc.restart()
    assert await lab.state(one) is MachineState.PAUSED
    assert len(lab.bmc.sessions) == 1
    await lab.driver.close()
    assert lab.bmc.sessions == set()


async def test_what_it_does_not_tell_is_not_concluded(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    lab.bmc.faults["power_null"] = 1
    with pytest.raises(OutcomeUnknown):
        await lab.state(one)
    assert await lab.state(one) is MachineState.RUNNING


async def test_off_for_a_moment_is_not_off(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    bmc = lab.driver._bmc
    shown = iter(["On", "Off", "On", "Off", "Off"])
    true_power = bmc._power
    bmc._power = lambda: next(shown, None) or true_power()  # type: ignore[method-assign]
    await asyncio.to_thread(bmc.power_off, asyncio.get_running_loop().time() + SECONDS)
    assert list(shown) == []


async def test_off_already_is_success(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    lab.bmc.power = "Off"  # by itself
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.posts == ["On"]


async def test_asked_to_stop_and_nothing_happens_is_no_error(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    await lab.driver.shutdown(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.posts == ["On", "GracefulShutdown"]
    assert await lab.state(one) is MachineState.RUNNING


async def test_a_busy_bmc_and_one_that_is_gone_did_not_hear(lab: Lab) -> None:
    lab.bmc.faults["busy"] = 2
    with pytest.raises(HostUnreachable):
        await lab.driver.probe(budget_seconds=SECONDS)
    lab.bmc.faults["busy"] = 0
    await lab.driver.probe(budget_seconds=SECONDS)
    nobody = RedfishDriver(HOST, replace(lab.address, port=1), lab.seats)
    with pytest.raises(HostUnreachable):
        await nobody.probe(budget_seconds=SECONDS)
    await nobody.close()


async def test_a_silent_bmc_takes_no_longer_than_its_budget(lab: Lab) -> None:
    await lab.driver.probe(budget_seconds=SECONDS)
    lab.bmc.faults["silent"] = 3
    before = asyncio.get_running_loop().time()
    with pytest.raises((HostUnreachable, OutcomeUnknown)):
        await lab.driver.list_machines(budget_seconds=1.0)
    assert asyncio.get_running_loop().time() - before < 2.5
    lab.bmc.faults["silent"] = 0


async def test_what_it_knew_of_itself_is_kept_while_it_tells_less(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    known = (await lab.driver.probe(budget_seconds=SECONDS)).total
    monkeypatch.setattr(bmc_module, "INVENTORY_SECONDS", 0.0)
    lab.bmc.inventory = {"MemorySummary": {}}
    assert (await lab.driver.probe(budget_seconds=SECONDS)).total == known


async def test_a_wrong_password_is_refused_once_and_read_anew(lab: Lab) -> None:
    right = lab.bmc.password_file.read_text()
    lab.bmc.password_file.write_text("another")
    with pytest.raises(HostRejected) as refused:
        await lab.driver.probe(budget_seconds=SECONDS)
    assert refused.value.code == "denied"
    assert "another" not in str(refused.value) + refused.value.detail
    lab.bmc.password_file.write_text(right)
    await lab.driver.probe(budget_seconds=SECONDS)


async def test_another_certificate_is_refused_and_a_pinned_one_is_known(lab: Lab) -> None:
    import hashlib
    import ssl

    options = {name: value for name, value in lab.address.options.items() if name != "ca_file"}
    stranger = RedfishDriver(HOST, replace(lab.address, options=options), lab.seats)
    with pytest.raises(HostRejected) as refused:
        await stranger.probe(budget_seconds=SECONDS)
    assert refused.value.code == "denied"
    await stranger.close()
    der = ssl.PEM_cert_to_DER_cert(lab.bmc.ca_file.read_text())
    for print_, known in ((hashlib.sha256(der).hexdigest(), True), ("0" * 64, False)):
        pinned = RedfishDriver(HOST, replace(lab.address, options=options | {"fingerprint": print_}), lab.seats)
        if known:
            await pinned.probe(budget_seconds=SECONDS)
        else:
            with pytest.raises(HostRejected):
                await pinned.probe(budget_seconds=SECONDS)
        await pinned.close()


async def test_an_image_that_machines_do_not_read_is_refused(lab: Lab) -> None:
    with pytest.raises(HostRejected, match="delivery is not nocloud"):
        await lab.create(replace(spec(), image=Image("guest")))
    assert await lab.seats.on(HOST) == ()
