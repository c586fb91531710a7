"""The table of kinds: a made-up kind of host is one row, known to the file, to the API and to the process by it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from service.config.file import ConfigError, parse
from service.domain.fleet import HostAddress
from service.drivers import kinds
from service.drivers.kinds import KINDS, Kind
from service.drivers.simulated import SimulatedDriver, SimulatedHost, SimulationOptions
from tests.support.whole import config_text, whole

ABACUS = Kind(
    "abacus",
    lambda host, _cluster: SimulatedDriver(host.uuid, SimulatedHost(host.name, SimulationOptions.read({}), lambda: 0)),
    lambda _address: None,
    transports=("tls",),
    options=frozenset({"beads"}),
    boots_files=False,
)
HOST = '[[hosts]]\nname = "odd"\nzone = "zone-1"\ndriver = "abacus"\ntransport = "tls"\naddress = "a.test"\n'


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more row."""
    monkeypatch.setattr(kinds, "KINDS", {**KINDS, "abacus": ABACUS})


@pytest.mark.usefixtures("abacus")
@pytest.mark.asyncio
async def test_a_new_kind_of_host_is_one_row(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=HOST + 'options = { beads = "7" }\n')) as lab:
        assert {h.address.driver for h in lab.service.directory.hosts.values()} == {"simulated", "abacus"}
        made = await lab.add_host(driver="abacus", connection={"transport": "tls", "address": "b.test"})
        assert (made.driver, made.status) == ("abacus", "Connected")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.add_host(driver="abacus", connection={"transport": "unix"})
        assert "must be one of tls for abacus" in (refused.value.details() or "")


@pytest.mark.usefixtures("abacus")
def test_the_file_is_held_to_the_row() -> None:
    with pytest.raises(ConfigError, match=r"hosts\[0\].options: may only name beads for abacus, not beans"):
        parse(config_text(0, extra=HOST + 'options = { beans = "7" }\n'), Path("/"))


def test_a_kind_that_is_in_no_row_is_refused_with_the_names_of_those_that_are() -> None:
    (wrong,) = kinds.violations(HostAddress("abacus", "tls", "a.test"))
    assert (wrong.field, wrong.description) == ("driver", "must be one of libvirt, redfish, simulated")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (HostAddress("libvirt", "unix"), HostAddress("libvirt", "unix", socket="/run/libvirt/libvirt-sock"), True),
        (HostAddress("libvirt", "unix"), HostAddress("libvirt", "unix", socket="/run/other.sock"), False),
        (HostAddress("libvirt", "tcp", "Hv1.test."), HostAddress("libvirt", "ssh", "hv1.test"), True),
        (HostAddress("libvirt", "tcp", "hv1", 16509), HostAddress("libvirt", "tcp", "hv1"), True),
        (HostAddress("libvirt", "ssh", "gate", 2201), HostAddress("libvirt", "ssh", "gate", 2202), False),
    ],
)
def test_entries_that_lead_to_one_hypervisor_are_told_by_what_they_say(
    one: HostAddress, other: HostAddress, same: bool
) -> None:
    told = KINDS["libvirt"].same_machine
    assert (told(one) == told(other)) is same
