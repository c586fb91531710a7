"""Members that must have processors or pages for themselves go to hosts that give these, or are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2

from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_numa import PREFERRED, REQUIRED, delete, nodes, refused
from tests.support.whole import GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio


def hosts(**options: str) -> str:
    """Hosts of 64 GiB over two cells, each with more options."""
    return "".join(
        f"""
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "simulated"
transport = "none"
labels = {{ "corral.dedicated_cpus" = "yes" }}
options = {{ cpu = 8, memory = "64GiB", boot_ms = 1, call_ms = 0, numa = "2"{more} }}
"""
        for name, more in options.items()
    )


OPTIONS = {
    "plain": "",
    "dedicated": ', dedicated_cpus = "true"',
    "small_pages": ', huge_pages = "2MiB"',
    "large_pages": ', huge_pages = "1GiB", dedicated_cpus = "true"',
}


async def names(lab: Whole, *asked: dict[str, Any], **more: Any) -> list[str]:
    """The hosts of a group of such members, which is deleted again."""
    group = await lab.up(model_services=list(asked), **more)
    found = [one.host_name for one in sorted(group.instances, key=lambda one: one.node_rank)]
    await delete(lab, group.uuid)
    return found


async def test_a_member_goes_where_it_is_given_what_it_must_have(tmp_path: Path) -> None:
    """Whatever labels an operator writes: the options of a host count. Each member of a group asks for itself."""
    (node,) = nodes(1)
    async with whole(tmp_path, config_text(0, extra=hosts(**OPTIONS))) as lab:
        alone = {"max_per_host": 1}
        own = [node | {"dedicated_cpus": True}, node | {"dedicated_cpus": True}]
        assert set(await names(lab, *own, placement_policy=alone)) == {"dedicated", "large_pages"}
        pages = [node | {"huge_pages": "2MiB"}, node | {"huge_pages": "1GiB", "dedicated_cpus": True}, node]
        small, large, _ = await names(lab, *pages)
        assert (small, large) == ("small_pages", "large_pages")
        reason, words = await refused(lab, model_services=[*own, *own[:1]], placement_policy=alone)
        assert reason == "UNSATISFIABLE"
        reason, words = await refused(lab, model_services=[node | {"huge_pages": "2MiB", "dedicated_cpus": True}])
        assert reason == "UNSATISFIABLE"
        assert "model_services.dedicated_cpus, model_services.huge_pages" in words
        reason, _ = await refused(lab, model_services=[own[0] | {"isolate_emulator_threads": True}])
        assert reason == "UNSATISFIABLE", "no host keeps processors for them"


async def test_memory_that_is_no_whole_number_of_pages_goes_where_pages_are_ordinary(tmp_path: Path) -> None:
    (node,) = nodes(1)
    paged = {name: OPTIONS[name] for name in ("small_pages", "large_pages")}
    async with whole(tmp_path, config_text(0, extra=hosts(**paged))) as lab:
        assert await names(lab, node | {"memory_size": 3 * GIB // 2}) == ["small_pages"]
        spread = {"numa_cells": 2}
        assert await names(lab, node | spread | {"memory_size": 3 * GIB}) == ["small_pages"]
        reason, words = await refused(lab, model_services=[node | {"memory_size": GIB + (1 << 20)}])
        assert (reason, "model_services.memory_size" in words) == ("UNSATISFIABLE", True)
    async with whole(tmp_path, config_text(0, extra=hosts(plain="", **paged))) as lab:
        assert await names(lab, node | {"memory_size": GIB + (1 << 20)}) == ["plain"]


async def test_members_say_for_themselves_whether_they_are_pinned(tmp_path: Path) -> None:
    (node,) = nodes(1)
    async with whole(tmp_path, config_text(0, extra=hosts(two=""))) as lab:
        for policy in ({}, PREFERRED, REQUIRED):
            said = [node | {"numa_policy": f"NUMA_POLICY_{one}"} for one in ("NONE", "PREFERRED", "REQUIRED")]
            group = await lab.up(model_services=[*said, node], placement_policy=policy)
            ranked = sorted(group.instances, key=lambda one: one.node_rank)
            assert [len(one.numa_cells) for one in ranked] == [0, 1, 1, int(bool(policy))]
            await delete(lab, group.uuid)
        large = node | {"memory_size": 40 * GIB}
        reason, _ = await refused(lab, model_services=[large | {"numa_policy": "NUMA_POLICY_REQUIRED"}])
        assert reason == "UNSATISFIABLE", "no cell has so much"
        await lab.up(model_services=[large | {"numa_policy": "NUMA_POLICY_PREFERRED"}], placement_policy=REQUIRED)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"isolate_emulator_threads": True}, "isolate_emulator_threads"),
    ({"huge_pages": "2MiB", "memory_size": GIB + (1 << 20)}, "memory_size"),
    ({"huge_pages": "1GiB", "memory_size": 3 * GIB, "numa_cells": 2}, "memory_size"),
    ({"huge_pages": "4KiB"}, "huge_pages"),
    ({"numa_policy": "NUMA_POLICY_PREFERRED", "numa_cells": 2}, "numa_policy"),
    ({"numa_policy": "NUMA_POLICY_NONE", "numa_cells": 1}, "numa_cells"),
    ({"dedicated_cpus": True, "type": "BareMetal"}, "dedicated_cpus"),
    ({"huge_pages": "2MiB", "type": "BareMetal"}, "huge_pages"),
    ({"numa_policy": "NUMA_POLICY_REQUIRED", "type": "BareMetal"}, "numa_policy"),
]


async def test_what_contradicts_itself_is_refused_by_its_field(tmp_path: Path) -> None:
    (node,) = nodes(1)
    async with whole(tmp_path, config_text(0, extra=hosts(two=""))) as lab:
        group = await lab.up(model_services=[node])
        for said, field in WRONG:
            reason, words = await refused(lab, model_services=[node, node | said])
            assert (reason, f"model_services[1].{field}" in words) == ("INVALID_ARGUMENT", True), words
            added = deploy_pb2.ScaleInstanceGroupRequest(
                uuid=group.uuid, model_services=[group_pb2.NodeSpec(**(node | said))]
            )
            with pytest.raises(grpc.aio.AioRpcError) as error:
                _ = [answer async for answer in lab.deploy.ScaleInstanceGroup(added)]
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            assert f"model_services[0].{field}" in (error.value.details() or "")


async def test_the_default_memory_of_a_service_is_held_to_the_pages_too(tmp_path: Path) -> None:
    (node,) = nodes(1)
    without = {key: value for key, value in node.items() if key != "memory_size"}
    async with whole(tmp_path, config_text(0, extra=hosts(**OPTIONS))) as lab:
        reason, words = await refused(lab, model_services=[without | {"huge_pages": "1GiB", "numa_cells": 2}])
        assert (reason, "model_services[0].memory_size" in words) == ("INVALID_ARGUMENT", True), words
        assert (await lab.up(model_services=[without | {"huge_pages": "1GiB"}])).instances[0].zone_uuid == ZONE
