"""What is seen of a host whose hypervisor says nothing, and for how long that counts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update

from service.domain.fencing import ANSWER_LAG_MS, KNOCKS, SILENT_SECONDS
from service.domain.fleet import HostAddress
from service.domain.groups import InstanceStatus
from service.domain.specs import DeployRequest
from service.drivers.knocking import Answer, Heard
from service.reconcile.vital_signs import VitalSigns
from service.store import clock, fencing, schema
from tests.support.builders import host, spec
from tests.support.control_plane import control_plane

pytestmark = pytest.mark.asyncio
HOST = host(1)
NOW = 10_000_000


class Kernel:
    """Answers as it is told."""

    def __init__(self, *says: Heard) -> None:
        self.says = list(says)

    async def knock(self, _: HostAddress) -> Answer:
        return Answer(self.says.pop(0), "it refuses connections")


async def after(*says: Heard) -> VitalSigns:
    signs = VitalSigns(Kernel(*says).knock)
    for _ in says:
        await signs.look([HOST])
    return signs


async def test_silences_in_a_row_are_counted_and_what_is_unsure_is_none() -> None:
    for says, knocks in (
        ((Heard.NOTHING,) * 2, 2),
        ((Heard.NOTHING, Heard.UNSURE), 0),
        ((Heard.NOTHING, Heard.ALIVE, Heard.NOTHING), 1),
        ((Heard.NO_WAY,), None),
    ):
        signs = await after(*says)
        assert signs.of(HOST.uuid, 100.0, {}, NOW).knocks == knocks, says


async def test_what_was_alive_lately_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = await after(Heard.ALIVE, *(Heard.NOTHING,) * 9)
    assert "refuses connections" in signs.of(HOST.uuid, 100.0, {}, NOW).alive
    monkeypatch.setattr(signs._known[HOST.uuid], "alive_at", asyncio.get_running_loop().time() - SILENT_SECONDS - 1)
    assert signs.of(HOST.uuid, 100.0, {}, NOW).alive == ""
    signs.forget_all_but([])
    assert signs.of(HOST.uuid, 100.0, {}, NOW).knocks == 0


async def test_an_answer_that_needs_its_members_is_a_sign_if_it_came_after_the_silence_began_and_of_late() -> None:
    signs = await after(Heard.NOTHING)
    silent = 45.0
    began = NOW - int(silent * 1000)
    for at, alive in ((0, False), (began, False), (began + ANSWER_LAG_MS, False), (began + ANSWER_LAG_MS + 1, True)):
        assert bool(signs.of(HOST.uuid, silent, {HOST.uuid: at}, NOW).alive) is alive, at
    long = SILENT_SECONDS * 9
    stale = NOW - int(SILENT_SECONDS * 1000) - 1
    assert not signs.of(HOST.uuid, long, {HOST.uuid: stale}, NOW).alive


async def test_who_comes_to_lead_asks_until_it_is_sure() -> None:
    signs = VitalSigns(Kernel(*(Heard.NOTHING,) * 9).knock)
    await signs.settle(HOST)
    assert signs.of(HOST.uuid, 100.0, {}, NOW).knocks == KNOCKS
    await signs.settle(HOST)
    assert signs.of(HOST.uuid, 100.0, {}, NOW).knocks == KNOCKS + 1, "once more before each order"
    kernel = Kernel(Heard.NOTHING, Heard.ALIVE, Heard.NOTHING)
    signs = VitalSigns(kernel.knock)
    await signs.settle(HOST)
    assert kernel.says == [Heard.NOTHING]
    assert signs.of(HOST.uuid, 100.0, {}, NOW).alive


@pytest.mark.parametrize(("scope", "counts"), [("group", True), ("head", True), ("member", False), ("", False)])
async def test_what_a_head_elsewhere_says_counts_where_its_engine_cannot_do_without_the_members(
    scope: str, counts: bool
) -> None:
    async with control_plane(hosts=tuple(host(n) for n in range(1, 4))) as plane:
        wanted = spec(2)
        wanted = replace(wanted, placement=replace(wanted.placement, max_per_host=1))
        await plane.deploy(DeployRequest(wanted))
        ranked = schema.instances.select().order_by(schema.instances.c.rank)
        head, worker = await plane.store.read(lambda c: c.execute(ranked).all())
        assert worker.status == InstanceStatus.RUNNING.value
        assert worker.host_uuid != head.host_uuid
        stored = await plane.store.read(lambda c: clock.now(c))

        def told(connection: Connection) -> None:
            stated = connection.execute(select(schema.groups.c.spec)).scalar_one()
            changed = json.dumps({**json.loads(stated), "scope": scope})
            connection.execute(update(schema.groups).values(spec=changed))
            at_head = update(schema.instances).where(schema.instances.c.uuid == head.uuid)
            connection.execute(at_head.values(last_answer_at=stored))

        await plane.store.write(told)
        of_worker = await plane.store.read(lambda c: fencing.answers(c, [worker.host_uuid]))
        assert of_worker == ({worker.host_uuid: stored} if counts else {})
        assert await plane.store.read(lambda c: fencing.answers(c, [head.host_uuid])) == {}, "its word comes from there"
        both = [worker.host_uuid, head.host_uuid]
        assert await plane.store.read(lambda c: fencing.answers(c, both)) == {}
