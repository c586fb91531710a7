"""Rolls, moves that make room and groups that end for it, with PostgreSQL as the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.rpc.test_ends_and_moves import KEEPER, a_victim_between_two_keepers, urgent
from tests.service.rpc.test_evacuation import never_twice
from tests.service.rpc.test_evictions import VICTIM, booked, deployed, policy
from tests.service.rpc.test_make_room import LIVE, at_rest, large
from tests.service.rpc.test_roll import a_member_on_each, begin, enable, until_drained, until_over
from tests.service.rpc.test_room import one_on_each
from tests.support.postgres import Postgres
from tests.support.whole import config_text, whole

pytestmark = pytest.mark.asyncio


async def test_members_move_so_that_a_group_fits(tmp_path: Path, postgres: Postgres, database: str) -> None:
    async with whole(tmp_path, config_text(hosts=3, url=postgres.url(database))) as lab:
        others = await one_on_each(lab)
        async with never_twice(lab):
            events = await deployed(lab, large(make_room=LIVE))
        assert events[-1].final.status == "Running"
        await at_rest(lab, others)
        assert {m.attempt for group in others for m in (await lab.get(group.uuid)).instances} == {1}


async def test_a_group_ends_and_a_member_takes_its_seat(tmp_path: Path, postgres: Postgres, database: str) -> None:
    text = config_text(hosts=2, url=postgres.url(database), extra=policy())
    async with whole(tmp_path, text) as lab:
        hosts = await a_victim_between_two_keepers(lab, 1, 2)
        async with never_twice(lab):
            events = await deployed(lab, urgent())
        assert events[-1].final.status == "Running"
        assert events[-1].final.instances[0].host_uuid == hosts[KEEPER]
        moved = (await lab.get(KEEPER)).instances[0]
        assert (moved.host_uuid, moved.attempt) == (hosts[VICTIM], 1)
        assert (await lab.get(VICTIM)).status == "Stopped"
        assert await booked(lab) == 0


async def test_hosts_are_emptied_one_after_another(tmp_path: Path, postgres: Postgres, database: str) -> None:
    async with whole(tmp_path, config_text(hosts=2, url=postgres.url(database))) as lab:
        groups = await a_member_on_each(lab, ("host-1",))
        async with never_twice(lab):
            begun = (await begin(lab, host_uuids=[lab.uuid_of("host-1"), lab.uuid_of("host-2")])).inventory
            for host in begun.hosts:
                await until_drained(lab, begun.uuid, {host.host_name})
                assert lab.machines_on(host.host_name) == []
                await enable(lab, host.host_uuid)
            final = await until_over(lab, begun.uuid)
        assert {host.stage for host in final.hosts} == {"done"}
        await at_rest(lab, groups)
