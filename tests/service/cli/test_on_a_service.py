"""The `corral` command on the whole service with simulated hosts: what it changes is there afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from service.cli import errors
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio
ROOT = Path(__file__).parents[3]


async def corral(lab: Whole, *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command that this service answers, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "--server", str(lab.service.rpc.address), *words,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}, cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def roles(lab: Whole, uuid: str) -> dict[str, list[int]]:
    """Role -> the vCPUs of each of its members."""
    found: dict[str, list[int]] = {}
    for one in (await lab.get(uuid)).instances:
        found.setdefault(one.role, []).append(one.cpu_num)
    return found


async def test_a_role_is_scaled_and_its_members_are_replaced(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        plain: dict[str, Any] = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
        router = {**plain, "role": "router", "is_initial_node": True}
        decode = {**plain, "role": "decode", "start_order": 1, "count": 2}
        group = await lab.up(name="served", model_services=[router, decode])
        assert (await corral(lab, "scale", "served", "--role", "decode=3"))[0] == errors.OK
        assert await roles(lab, group.uuid) == {"router": [1], "decode": [1, 1, 1]}

        file = tmp_path / "decode.json"
        file.write_text(json.dumps({"uuid": ENTRY, "cpuNum": 2, "memorySize": GIB, "role": "decode", "count": 1}))
        assert (await corral(lab, "scale", "served", "--update", str(file)))[0] == errors.OK
        assert await roles(lab, group.uuid) == {"router": [1], "decode": [2]}
        for content, words in (('[{"role": "router"}]', "role_updates[0].uuid"), ("[7]", "decode.json")):
            file.write_text(content)
            code, _, said = await corral(lab, "scale", "served", "--update", str(file))
            assert code == errors.USAGE
            assert words in said
        code, _, said = await corral(lab, "scale", "served")
        assert code == errors.USAGE
        assert "either --role or --update" in said


async def test_clusters_are_made_renamed_listed_and_deleted(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        made = await corral(lab, "clusters", "create", "rows", "--zone", "zone-1", "--description", "cold")
        assert made[0] == errors.OK, made
        assert (await corral(lab, "clusters", "rename", "rows", "cellar"))[0] == errors.OK
        code, listed, _ = await corral(lab, "clusters", "--output", "json")
        assert code == errors.OK
        (told,) = [json.loads(line) for line in listed.splitlines()]
        assert (told["name"], told["description"]) == ("cellar", "cold")
        host = await lab.add_host(cluster_uuid=told["uuid"])
        code, _, said = await corral(lab, "clusters", "delete", "cellar")
        assert code == errors.CONFLICT
        assert "1 hosts" in said
        assert (await corral(lab, "clusters", "create", "more", "--zone", "attic"))[0] == errors.NOT_FOUND
        assert (await lab.host(host.name)).cluster_uuid == told["uuid"]
        assert (await corral(lab, "host", "edit", host.name, "--no-cluster"))[0] == errors.OK
        assert (await lab.host(host.name)).cluster_uuid == ""
        assert (await corral(lab, "host", "edit", host.name, "--cluster", "cellar"))[0] == errors.OK
        assert (await lab.host(host.name)).cluster_uuid == told["uuid"]
        both = await corral(lab, "host", "edit", host.name, "--cluster", "cellar", "--no-cluster")
        assert both[0] == errors.USAGE
        await lab.up(
            name="bound",
            model_services=[{"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "cluster_uuid": told["uuid"]}],
        )
        code, _, said = await corral(lab, "host", "edit", host.name, "--no-cluster")
        assert code == errors.CONFLICT
        assert "bound rank 0" in said
