"""Members go where their image is already, and nowhere that a rule forbids."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from service.domain.catalog import Image
from service.domain.specs import DeployRequest
from service.store import copies
from service.store.connection import Connection
from service.store.copies import LARGE, Copy
from tests.support.builders import entry, host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

SUM = hashlib.sha256(b"large").hexdigest()
MODEL = replace(entry(), image=Image("model", disk_path="/images/model", sha256={"disk": SUM}))
HOSTS = tuple(host(number) for number in range(1, 6))


async def has(plane: ControlPlane, number: int, *, size: int = LARGE, whole: bool = True) -> None:
    """Record a copy of the model's image on that host."""
    copy = Copy(f"{number:032x}", f"corral-base.{SUM}.{number:08x}", SUM, "model", size)

    def record(connection: Connection) -> None:
        taken = copies.take(connection, copy, "test", 1000)
        assert copies.went_on(connection, replace(taken, done=size, digest=SUM, whole=whole), "test", 1000)

    await plane.store.write(record)


async def hosts_of(plane: ControlPlane, name: str, count: int = 1) -> list[str]:
    events = await plane.deploy(DeployRequest(spec(count, name=name)))
    assert events[-1].group is not None
    return [m.host_uuid for m in events[-1].group.instances]


async def test_a_member_goes_to_the_host_that_has_its_image() -> None:
    async with control_plane(hosts=HOSTS, catalogue=(MODEL,)) as plane:
        await has(plane, 4)
        planned = await plane.groups.plan(CALLER, DeployRequest(spec(1, name="plan")))
        assert [seat.host_uuid for seat in planned.assignments] == [f"{4:032x}"], "as it is planned"
        for name in ("a", "b"):
            assert await hosts_of(plane, name) == [f"{4:032x}"]


async def test_what_is_small_or_not_whole_or_withdrawn_is_worth_nothing() -> None:
    async with control_plane(hosts=HOSTS, catalogue=(MODEL,)) as plane:
        (usual,) = await hosts_of(plane, "usual")
        others = [number for number in range(1, 6) if f"{number:032x}" != usual]
        await has(plane, others[0], size=LARGE - 1)
        await has(plane, others[1], whole=False)
        await has(plane, others[2])
        await plane.store.write(lambda c: copies.withdraw(c, f"{others[2]:032x}", f"corral-base.{SUM}.{others[2]:08x}"))
        assert await hosts_of(plane, "again") == [usual]


async def test_it_is_never_against_a_rule_or_for_fewer_members() -> None:
    async with control_plane(hosts=HOSTS, catalogue=(MODEL,)) as plane:
        await has(plane, 4)
        apart = replace(spec(3, name="apart"))
        apart = replace(apart, placement=replace(apart.placement, max_per_host=1))
        events = await plane.deploy(DeployRequest(apart))
        assert events[-1].group is not None
        found = [m.host_uuid for m in events[-1].group.instances]
        assert len(set(found)) == 3
        assert f"{4:032x}" in found
