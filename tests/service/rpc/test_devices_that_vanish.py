"""Devices that are there as a gang is planned, and not any more as its machines are made: nothing is left half done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import select

from service.store import schema
from tests.service.rpc.lab import soon
from tests.service.rpc.test_devices import HOST, devices, nodes
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio
SPARE = HOST.replace('name = "gpus"', 'name = "spare"')


def pull_before_the_first_create(lab: Whole, monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> list[str]:
    """All devices of whichever of these hosts is first to make a machine are pulled right then; its name."""
    pulled = list[str]()
    for name in hosts:
        driver = lab.driver(name)
        create = driver.create_paused

        async def made(spec: Any, *, of: Any = driver, call: Any = create, host: str = name, **budget: Any) -> Any:
            if not pulled:
                pulled.append(host)
                amounts = {what: n for what, n in of.host.options.total.items() if not what.startswith("gpu.")}
                of.host.options = replace(of.host.options, total=amounts)
            return await call(spec, **budget)

        monkeypatch.setattr(driver, "create_paused", made)
    return pulled


async def claims(lab: Whole) -> set[str]:
    """The hosts on which devices are claimed."""
    return set(await lab.service.store.read(lambda c: c.scalars(select(schema.device_claims.c.host_uuid)).all()))


async def test_a_gang_whose_devices_vanish_goes_where_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, config_text(0, extra=HOST + SPARE)) as lab:
        pulled = pull_before_the_first_create(lab, monkeypatch, ["gpus", "spare"])
        group = await lab.up(model_services=nodes(2))
        (first,) = pulled
        (member,) = group.instances
        other = {"gpus": "spare", "spare": "gpus"}[first]
        assert (member.host_name, len(member.devices)) == (other, 2)

        async def let_go() -> bool:
            return await claims(lab) == {lab.uuid_of(other)} and not lab.machines_on(first)

        await soon(let_go)


async def test_a_gang_whose_devices_vanish_and_no_others_are_there_fails_by_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, config_text(2, extra=HOST)) as lab:
        pulled = pull_before_the_first_create(lab, monkeypatch, ["gpus"])
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up(model_services=[*nodes(2), {**nodes(1)[0], "gpus": []}])
        print(error.value.code(), error.value.details())
        assert "device" in (error.value.details() or "")
        assert pulled == ["gpus"]

        async def nothing_left() -> bool:
            machines = [state for host in ("gpus", "host-1", "host-2") for state in lab.machines_on(host)]
            lab.service.reconciler.monitors[lab.uuid_of("gpus")].suspect()
            return not machines and not await claims(lab) and not await devices(lab)

        await soon(nothing_left)
