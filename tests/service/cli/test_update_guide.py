"""The commands of the guide's section on updates, as they stand there, one after the other on one group."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from pathlib import Path

import pytest

from service.cli import errors
from service.cli.main import run
from tests.service.rpc.test_networks import node, zone_of
from tests.support.whole import config_text, whole

GUIDE = Path(__file__).parents[3] / "deploy/README.md"


def commands() -> list[str]:
    """Those of the section, without what is said of them."""
    section = re.split(r"^## ", GUIDE.read_text(), flags=re.MULTILINE)
    (updates,) = (text for text in section if text.startswith("Updates\n"))
    (block,) = re.findall(r"^```sh\n(.*?)^```", updates, flags=re.MULTILINE | re.DOTALL)
    return [line.split("  #")[0].strip() for line in block.splitlines()]


@pytest.mark.asyncio
async def test_every_command_of_the_guide_does_what_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", "10.8.0.8-10.8.0.30")
        nodes = [{**node(n, zone.uuid), "cpu_num": 1, "role": role} for n, role in enumerate(("head", "worker"))]
        nodes[0]["is_initial_node"] = True
        before = await lab.up(name="chat", model_services=nodes)
        environment = {"CORRAL_SERVER": str(lab.service.rpc.address), "PATH": os.environ["PATH"]}
        said = {}
        for command in commands():
            code = await asyncio.to_thread(run, shlex.split(command)[1:], environment)
            said[command] = capfd.readouterr().out
            assert code == errors.OK, f"{command}: {code}\n{said[command]}"
        after = await lab.get(before.uuid)
        assert (after.endpoint, after.update.number) == (before.endpoint, 4)
        assert [m.cpu_num for m in after.instances] == [1, 2]
        told = list(said.values())
        assert "a second gang, until it answers" in told[0]
        assert after.endpoint in told[-1]
