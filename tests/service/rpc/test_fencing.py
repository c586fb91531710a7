"""A hypervisor's BMC by calls: named, changed, shown, and used by FenceHost, by one that speaks Redfish over TLS."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2

from service import wiring
from service.domain.fleet import Bmc as Board
from service.domain.fleet import Fencing, Host
from service.drivers.redfish.switch import RedfishSwitch
from service.drivers.simulated import SimulatedDriver, SimulatedHost, SimulationOptions
from service.reconcile import fencing as fencer
from service.store import fleet
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_audit import rows_of
from tests.service.rpc.test_evacuation import cut_off, is_silent, soon
from tests.support.bmc import ACCOUNT, Bmc
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

TCP = {"transport": "tcp", "address": "hv9.test"}
BMC = {"address": "10.1.0.9", "username": ACCOUNT, "credential": "bmcs"}


@pytest.fixture(autouse=True)
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of kind libvirt that need none, with a uuid of their own, and quick looks."""
    options = SimulationOptions.read({"cpu": "1", "memory": "64GiB", "boot_ms": "1", "call_ms": "0"})

    def make(host: Host, _cluster_id: str, _seats: object) -> SimulatedDriver:
        machine = SimulatedHost(host.name, options, time.monotonic)
        machine.hypervisor = f"44454c4c-0000-1000-8000-{int(host.uuid[:12], 16):012x}"
        return SimulatedDriver(host.uuid, machine)

    monkeypatch.setattr(wiring, "make_driver", make)
    monkeypatch.setattr(wiring, "make_switch", lambda bmc: RedfishSwitch(bmc.address, apart_seconds=0.05))
    monkeypatch.setattr(fencer, "AGAIN_FIRST_SECONDS", 0.2)


def with_credentials(password: object = "/etc/corral/bmc", ca: object = "/etc/corral/ca.pem") -> str:
    """`dc1` has a key and no password."""
    return config_text(hosts=1) + (
        f'\n[[credentials]]\nname = "bmcs"\npassword_file = "{password}"\nca_file = "{ca}"\n'
        '\n[[credentials]]\nname = "dc1"\nssh_key = "/etc/corral/dc1"\n'
    )


async def stored(lab: Whole, uuid: str) -> Board | None:
    return (await lab.service.store.read(lambda c: fleet.host(c, uuid))).bmc


async def refused(call: Any, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert field in (error.value.details() or ""), error.value.details()


async def test_a_host_names_its_bmc_by_calls_and_no_file_of_this_machine(tmp_path: Path) -> None:
    async with whole(tmp_path, with_credentials()) as lab:

        def add(**bmc: Any) -> Any:
            return lab.add_host(name="hv9", driver="libvirt", connection=TCP, bmc={**BMC, **bmc})

        await refused(add(credential=""), "bmc.credential")
        await refused(add(credential="dc1"), "dc1")
        await refused(add(credential="nobody"), "nobody")
        await refused(add(fencing="always"), "bmc.fencing")
        await refused(add(fingerprint="short"), "bmc")
        await refused(lab.add_host(name="hv9", bmc=BMC), "bmc")  # a simulated one
        made = await add(port=8443, system="2", fencing="dry")
        assert (made.fencing.mode, made.fencing.bmc_address) == ("dry", "10.1.0.9:8443")
        assert not made.fencing.HasField("last_fence")
        first = await stored(lab, made.uuid)
        assert first is not None
        files = {"password_file": "/etc/corral/bmc", "ca_file": "/etc/corral/ca.pem"}
        assert (first.fencing, dict(first.address.options)) == (Fencing.DRY, {**files, "system": "2"})

        async def update(mask: str = "bmc", **bmc: Any) -> Any:
            said: dict[str, Any] = {"bmc": bmc} if bmc else {}
            request = fleet_pb2.UpdateHostRequest(uuid=made.uuid, **{"update_mask": {"paths": [mask]}, **said})
            return (await lab.fleet.UpdateHost(request)).inventory

        changed = await update(address="10.1.0.10", username="other", fencing="auto")
        assert (changed.fencing.mode, changed.fencing.bmc_address) == ("auto", "10.1.0.10:443")
        second = await stored(lab, made.uuid)
        assert second is not None
        assert (second.address.username, dict(second.address.options)) == ("other", files)  # the credential stays
        await refused(update(address="10.1.0.10", username="other", credential="dc1"), "dc1")
        unchanged = await update("rack", address="10.1.0.11", username="other")
        assert unchanged.fencing.bmc_address == "10.1.0.10:443"
        assert not (await update()).HasField("fencing")
        assert await stored(lab, made.uuid) is None


async def test_a_silent_host_is_switched_off_by_its_bmc_and_its_members_go_on(tmp_path: Path) -> None:
    uuid = "00000000000900000000000000000000"
    bmc = Bmc(tmp_path, "44454c4c-0000-1000-8000-000000000009")
    bmc.power = "On"
    try:
        async with whole(tmp_path, with_credentials(bmc.password_file, bmc.ca_file)) as lab:
            other = lab.uuid_of("host-1")
            told = {"address": "localhost", "port": bmc.port, "username": ACCOUNT, "credential": "bmcs"}
            await lab.add_host(name="hv9", driver="libvirt", connection=TCP, bmc=told, resource_uuid=uuid)
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=other))

            async def watched() -> bool:
                return uuid in lab.service.reconciler.monitors and not lab.service.reconciler.monitors[uuid].silent

            await soon(watched)
            group = await lab.up()
            await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other))
            request = fleet_pb2.FenceHostRequest(uuid=uuid)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.FenceHost(request)
            assert reason_of(error.value) == "WRONG_STATE"  # it answers
            assert bmc.requests == 0, "at rest a BMC is asked nothing"
            cut_off(lab.driver("hv9"))
            await soon(lambda: is_silent(lab, "hv9"))
            bmc.faults["lose Reset"] = 1
            under_way = (await lab.fleet.FenceHost(request)).inventory.fencing.last_fence
            assert (under_way.state, under_way.cause) == ("Ordered", "Operator")

            async def elsewhere() -> bool:
                member = (await lab.get(group.uuid)).instances[0]
                assert member.host_uuid != other or bmc.power == "Off", "placed anew before it was off"
                return bool(member.status == "Running" and member.host_uuid == other)

            await soon(elsewhere)
            got = (await lab.fleet.GetHost(fleet_pb2.GetHostRequest(uuid=uuid))).inventory
            assert (got.state, got.fencing.last_fence.state) == ("Maintenance", "Fenced")
            assert (bmc.posts, bmc.power) == (["ForceOff"], "Off")
            audited = [method for _, method, *_ in await rows_of(lab.service.store) if "Fence" in method]
            assert audited == ["FenceHost", "FencedHost"]
            await soon(lambda: _no_sessions(bmc))
    finally:
        bmc.close()


async def _no_sessions(bmc: Bmc) -> bool:
    return not bmc.sessions
