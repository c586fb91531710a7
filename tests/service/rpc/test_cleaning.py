"""Bare metal between two projects: closed and cleaned by itself, or out of service until an operator has it cleaned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, project_pb2

from service.domain import cleaning as rules
from service.domain.cleaning import Wipe
from service.reconcile import cleaning, cleaning_attempt, leading
from service.store import fleet
from service.store.connection import Connection
from tests.service.rpc.lab import soon
from tests.service.rpc.test_bare_metal import machine, node
from tests.service.rpc.test_devices import refused
from tests.service.rpc.test_projects import by, tokens
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def one_machine(directory: Path, clean: str = "metadata") -> AsyncIterator[Whole]:
    """A fleet of one machine."""
    extra = machine("metal", 8, 32, f', clean = "{clean}"') + tokens()
    async with whole(directory, config_text(0, extra=extra)) as lab:
        yield lab


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once; what waits for what stays as it is."""
    monkeypatch.setattr(leading, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(cleaning, "AGAIN_SECONDS", 0.02)


async def up(lab: Whole, who: str) -> Any:
    asked: dict[str, Any] = {"name": f"of-{who}", "model_services": [node("BareMetal", 4, 16)]}
    request = deploy_pb2.DeployDistributedModelServiceRequest(**asked, service_creation_strategy="parallel")
    events = [a.event async for a in lab.deploy.DeployDistributedModelService(request, **by(who))]
    return events[-1].final


async def gone(lab: Whole, who: str, uuid: str) -> None:
    async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid), **by(who)):
        pass


async def metal(lab: Whole) -> Any:
    request = fleet_pb2.GetHostRequest(uuid=lab.uuid_of("metal"))
    return (await lab.fleet.GetHost(request, **by("root"))).inventory


async def known(lab: Whole) -> tuple[str, str]:
    """(state, whose data)"""
    found = (await metal(lab)).cleaning
    return found.state, found.served_project


async def turned_away(lab: Whole, who: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as full:
        await up(lab, who)
    assert full.value.code() is FULL
    return full.value.details() or ""


async def capacity(lab: Whole) -> tuple[int, int]:
    """(hosts that take members, hosts that do not)"""
    told = await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(), **by("root"))
    return told.hosts, told.unavailable_hosts


async def test_what_one_project_leaves_no_other_gets_before_it_was_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GRACE_SECONDS", 1e9)
    async with one_machine(tmp_path) as lab:
        assert await known(lab) == ("", "")
        first = await up(lab, "ann")
        assert await known(lab) == ("", "red")
        await gone(lab, "ann", first.uuid)
        assert await known(lab) == ("", "red"), "nobody has it, and what was left is there"
        assert "1 machine is left out until" in await turned_away(lab, "bob")
        again = await up(lab, "ann")
        assert again.status == "Running", "its own project sees but what it left itself"
        await gone(lab, "ann", again.uuid)
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
        await soon(lambda: _is(lab, ("", "")))
        assert lab.machines_on("metal") == []
        assert (await up(lab, "bob")).status == "Running"
        assert await known(lab) == ("", "blue")
        listed = await lab.projects.ListAuditEvents(project_pb2.ListAuditEventsRequest(page_size=500), **by("root"))
        methods = [one.method for one in listed.inventories]
        assert methods.count("CleanMachine") == methods.count("MachineCleaned") == 1
        async with httpx.AsyncClient(
            base_url=f"http://{lab.http_address}", headers=dict(by("root")["metadata"]), timeout=60
        ) as http:
            text = (await http.get("/metrics")).text
        assert 'corral_machine_cleanings_total{outcome="cleaned"} 1.0' in text


async def test_while_it_is_cleaned_nobody_gets_it_and_everything_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(cleaning_attempt, "CLEANED", "never")
    async with one_machine(tmp_path) as lab:
        group = await up(lab, "ann")
        await gone(lab, "ann", group.uuid)
        await soon(lambda: _is(lab, ("Cleaning", "red")))
        assert await capacity(lab) == (0, 1)
        for who in ("ann", "bob"):
            assert await turned_away(lab, who)
        await soon(lambda: _runs(lab))
        picture = await lab.service.store.read(lambda c: _page(lab, c))
        assert picture["schedulable"] is False
        assert (picture["cleaning"]["state"], picture["cleaning"]["project"]) == ("Cleaning", "red")
        told = fleet_pb2.CleanHostRequest(uuid=lab.uuid_of("metal"))
        assert (await lab.fleet.CleanHost(told, **by("root"))).inventory.cleaning.state == "Cleaning", "under way"
        monkeypatch.setattr(cleaning_attempt, "CLEANED", "ready")
        await soon(lambda: _is(lab, ("", "")))
        assert await capacity(lab) == (1, 0)


async def test_what_cannot_be_cleaned_is_out_of_service_until_an_operator_has_it_cleaned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
    monkeypatch.setitem(rules.DEADLINE_MS, Wipe.ERASE, 300)
    monkeypatch.setattr(cleaning_attempt, "CLEANED", "never")
    async with one_machine(tmp_path, "erase") as lab:
        group = await up(lab, "ann")
        order = fleet_pb2.CleanHostRequest(uuid=lab.uuid_of("metal"))
        assert await refused(lab.fleet.CleanHost(order, **by("root"))) == "WRONG_STATE", "a member has it"
        await gone(lab, "ann", group.uuid)
        await soon(lambda: _is(lab, ("Unclean", "red")))
        found = await metal(lab)
        assert found.cleaning.mode == "erase"
        assert "not done in time" in found.cleaning.reason
        assert await capacity(lab) == (0, 1)
        for who in ("ann", "bob"):
            assert await turned_away(lab, who)
        monkeypatch.setitem(rules.DEADLINE_MS, Wipe.ERASE, 600_000)
        monkeypatch.setattr(cleaning_attempt, "CLEANED", "ready")
        stale = fleet_pb2.CleanHostRequest(uuid=order.uuid, etag="0-0")
        assert await refused(lab.fleet.CleanHost(stale, **by("root"))) == "CONFLICT"
        checked = fleet_pb2.CleanHostRequest(uuid=order.uuid, validate_only=True)
        await lab.fleet.CleanHost(checked, **by("root"))
        assert await known(lab) == ("Unclean", "red"), "it was only checked"
        assert (await lab.fleet.CleanHost(order, **by("root"))).inventory.cleaning.state == "Cleaning"
        await soon(lambda: _is(lab, ("", "")))
        assert (await up(lab, "bob")).status == "Running"


async def test_a_hypervisor_and_what_is_never_cleaned_are_refused_and_go_from_hand_to_hand(tmp_path: Path) -> None:
    extra = machine("metal", 8, 32) + tokens()
    async with whole(tmp_path, config_text(1, extra=extra)) as lab:
        for name in ("host-1", "metal"):
            order = fleet_pb2.CleanHostRequest(uuid=lab.uuid_of(name))
            assert await refused(lab.fleet.CleanHost(order, **by("root"))) == "WRONG_STATE"
        group = await up(lab, "ann")
        await gone(lab, "ann", group.uuid)
        assert (await up(lab, "bob")).status == "Running"


async def _is(lab: Whole, wanted: tuple[str, str]) -> bool:
    return await known(lab) == wanted


async def _runs(lab: Whole) -> bool:
    return lab.machines_on("metal") == ["running"]


def _page(lab: Whole, connection: Any) -> dict[str, Any]:
    from service.http.web import documents

    (view,) = lab.service.fleet.views(connection, (fleet.host(connection, lab.uuid_of("metal")),))
    return documents.host(view, causes=True)


async def test_an_unclean_machine_is_given_out_as_it_is_where_its_operator_wants_no_cleaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
    monkeypatch.setitem(rules.DEADLINE_MS, Wipe.ERASE, 300)
    monkeypatch.setattr(cleaning_attempt, "CLEANED", "never")
    async with one_machine(tmp_path, "erase") as lab:
        group = await up(lab, "ann")
        await gone(lab, "ann", group.uuid)
        await soon(lambda: _is(lab, ("Unclean", "red")))

        def as_its_file_says_now(connection: Connection) -> None:
            known = fleet.host(connection, lab.uuid_of("metal"), lock=True)
            options = {**known.address.options, "clean": "none"}
            fleet.put_host(connection, replace(known, address=replace(known.address, options=options)))

        await lab.service.store.write(as_its_file_says_now)
        await soon(lambda: _is(lab, ("", "")))
        assert (await up(lab, "bob")).status == "Running"
