"""What would be done about a silent hypervisor, and why not, and how bare metal starts: by the command and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from corral.v1 import fleet_pb2

from service.app.capacity import HostView
from service.cli.view import fencing_lines, fencing_text
from service.domain.fencing import Rule, Verdict
from service.domain.fleet import BARE_METAL, Bmc, Fencing, HostAddress, Overcommit
from service.http.web import documents
from service.store import fleet
from service.store.connection import Connection
from service.store.loads import HostLoad
from tests.service.cli.test_on_a_service import corral
from tests.support import builders
from tests.support.whole import config_text, whole

WHY = "only 1 of the 3 hosts of its zone answered in the last 10 s"


def host(mode: str, verdict: str = "", state: str = "") -> fleet_pb2.Host:
    found = fleet_pb2.Host(name="hv1")
    found.fencing.mode, found.fencing.bmc_address = mode, "10.1.0.1:443"
    if verdict:
        found.fencing.verdict, found.fencing.verdict_reason = verdict, WHY
    if state:
        found.fencing.last_fence.uuid, found.fencing.last_fence.state = "f" * 32, state
        found.fencing.last_fence.cause, found.fencing.last_fence.reason = "Dry", "it would be switched off"
    return found


@pytest.mark.parametrize(
    ("shown", "short", "whole_lines"),
    [
        (fleet_pb2.Host(name="hv1"), "", []),
        (host("manual"), "manual", [("fencing", "manual, BMC 10.1.0.1:443")]),
        (host("dry", "NetworkFault"), "dry: NetworkFault", [("it is silent", f"NetworkFault: {WHY}")]),
        (host("dry", "Fence", "Rehearsed"), "dry: Fence", [("fence by Dry", "Rehearsed: it would be switched off")]),
        (host("dry", "", "Rehearsed"), "dry: Rehearsed", [("fence by Dry", "Rehearsed: it would be switched off")]),
        (host("auto", "Waiting", "Sending"), "auto: Sending", [("it is silent", f"Waiting: {WHY}")]),
    ],
)
def test_the_command_tells_what_would_be_done_and_why_not(
    shown: fleet_pb2.Host, short: str, whole_lines: list[tuple[str, str]]
) -> None:
    assert fencing_text(shown) == short
    assert set(whole_lines) <= set(fencing_lines(shown))


def test_the_page_has_the_same() -> None:
    silent = replace(builders.host(1), bmc=Bmc(HostAddress("redfish", "tls", "10.1.0.1"), Fencing.DRY))
    view = HostView(silent, HostLoad(), Overcommit(), verdict=Verdict(Rule.NETWORK_FAULT, WHY))
    told = documents.host(view, causes=True)["fencing"]
    assert (told["mode"], told["verdict"], told["why"]) == ("dry", "NetworkFault", WHY)
    assert documents.host(replace(view, verdict=None), causes=True)["fencing"]["verdict"] == ""


@pytest.mark.asyncio
async def test_a_machines_firmware_and_its_secure_boot_are_shown(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:

        def is_metal(connection: Connection) -> None:
            known = fleet.host(connection, lab.uuid_of("host-1"), lock=True)
            fleet.put_host(connection, replace(known, machine_type=BARE_METAL))
            fleet.set_facts(
                connection, known.uuid, boot_id="b", virt_type="none", total={}, foreign={}, firmware="UEFI",
                secure_boot="on",
            )  # fmt: skip

        await lab.service.store.write(is_metal)
        _, shown, _ = await corral(lab, "host", "show", "host-1")
        assert "firmware: UEFI\n" in shown
        assert "Secure Boot: on\n" in shown
