"""Addresses of others on a host are seen: by leases, by what domains are told to have, and by ARP where it is told."""

from __future__ import annotations

import pytest

from service.domain.network import DOMAIN, LEASE, ForeignAddress
from service.drivers.libvirt.strangers import Strangers
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, bridged, driver_of, specification

pytestmark = pytest.mark.asyncio


async def test_others_addresses_are_told_and_ours_are_not() -> None:
    host = FakeHost(networks={"default": "n1", "routed": "n2"})
    driver = driver_of(host)
    ours = bridged(1, "10.0.0.8")
    await driver.create_paused(specification(interfaces=(ours,)), budget_seconds=BUDGET)
    host.leases["default"] = [
        {"ipaddr": "10.0.0.9", "mac": "52:54:00:AA:00:01"},
        {"ipaddr": "10.0.0.8", "mac": ours.mac},
        {"ipaddr": "no address", "mac": "52:54:00:aa:00:02"},
    ]
    other = host.add_foreign("db", vcpus=1, memory_kib=1024, running=True)
    other.xml = other.xml.replace(
        "</domain>",
        "<devices><interface type='bridge'><mac address='52:54:00:bb:00:01'/>"
        "<filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.10'/></filterref></interface></devices>"
        "</domain>",
    )
    host.heard[other.uuid] = {"vnet1": {"hwaddr": "52:54:00:bb:00:01", "addrs": [{"addr": "10.0.0.11"}]}}
    quiet = host.add_foreign("old", vcpus=1, memory_kib=1024, running=True)
    quiet.xml = other.xml.replace(other.uuid, quiet.uuid).replace("10.0.0.10", "10.0.0.12")
    assert (await driver.probe(budget_seconds=BUDGET)).addresses == (
        ForeignAddress("10.0.0.10", "52:54:00:bb:00:01", DOMAIN),
        ForeignAddress("10.0.0.11", "52:54:00:bb:00:01", DOMAIN),
        ForeignAddress("10.0.0.12", "52:54:00:bb:00:01", DOMAIN),
        ForeignAddress("10.0.0.9", "52:54:00:aa:00:01", LEASE),
    )
    await driver.close()


async def test_they_are_read_anew_after_a_while_and_not_with_every_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost(networks={"default": "n1"}, leases={"default": []})
    strangers, connection = Strangers(CLUSTER), host.open("")
    assert strangers.read(connection, ()) == ()
    host.leases["default"] = [{"ipaddr": "10.0.0.9", "mac": "52:54:00:aa:00:01"}]
    assert strangers.read(connection, ()) == ()
    monkeypatch.setattr("service.drivers.libvirt.strangers.EVERY_SECONDS", 0.0)
    assert [one.address for one in strangers.read(connection, ())] == ["10.0.0.9"]
