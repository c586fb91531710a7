"""The example of every sub-command's help, run as it stands there, in an order in which one prepares the next."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import click
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2

from service.cli import errors
from service.cli.command import Verb, VerbGroup
from service.cli.main import corral, run
from service.domain.ownership import OwnerMark
from service.drivers.base import MachineIdentity, MachineState
from service.drivers.simulated.host import SimulatedMachine
from service.reconcile import sweep
from tests.service.rpc.lab import soon
from tests.service.rpc.test_bare_metal import machine
from tests.service.rpc.test_evacuation import cut_off, is_silent
from tests.service.rpc.test_quarantine import forget
from tests.support import ROOT
from tests.support.process import ENVIRONMENT
from tests.support.secrets import a_key
from tests.support.source import source
from tests.support.whole import ENTRY, FILE, GIB, HOST, ZONE, Whole, whole

# In this order; every sub-command has one of its own.
EXAMPLES = """
corral version
corral health
corral completion bash
corral context set lab --server 127.0.0.1:50051 --token-file token.txt
corral context
corral context use lab
corral context remove lab
corral config check corral.toml
corral config print corral.toml
corral recover --config corral.toml
corral plan request.json
corral deploy request.json
corral deploy --name pair --gpu h100=2 --gpu-same-partition --dry-run
corral groups --filter 'status:run -host:hv9'
corral list --status Running
corral group chat
corral get chat
corral watch chat --until-settled
corral logs chat 0 --tail 20
corral scale chat --role worker=3
corral update chat --set-env LOG=debug --cpu 8 --plan
corral restart chat
corral stop chat
corral start chat
corral hosts
corral hosts watch --until-current
corral hosts quarantine
corral hosts remove-quarantined hv1 KEY
corral hosts quarantine-device hv1 0000:01:00.0 --reason 'Xid 79'
corral hosts release-device hv1 0000:01:00.0
corral hosts adopt GROUP
corral hosts claim hv2
corral host clean metal3
corral host add hv9 --zone zone-1 --driver simulated --option cpu=8 --option memory=32GiB
corral host show hv9
corral host edit hv9 --rack r2 --label disk=ssd
corral host drain hv9 --dry-run
corral host disable hv9
corral host maintain hv9
corral host enable hv9
corral host remove hv9
corral zones
corral zones add zone-2 --description 'the second room'
corral zones set zone-2 --description 'the second room, upstairs'
corral zones remove zone-2
corral clusters
corral clusters create rows-1-to-4 --zone zone-1
corral clusters rename rows-1-to-4 cellar
corral clusters delete cellar
corral images
corral images show guest
corral images add cloud --format raw --file disk.raw
corral images remove cloud
corral image upload images/disk.raw --name mine
corral image import https://mirror.example/disk.raw --sha256 SUM
corral image delete mine
corral catalog
corral catalog show default
corral catalog add service.yaml
corral catalog edit chat-model changes.yaml
corral catalog remove chat-model
corral capacity --cpu 4 --memory 16GiB
corral devices --filter 'state:quarantined'
corral rebalance --zone zone-1 --run
corral roll --zone zone-1 --at-once 2
corral usage
corral audit --since 1h --limit 20
corral secret
corral secret set hub-token --file token.txt
corral secret list
corral secret delete hub-token
corral decisions
corral dump --group chat --output dump.json
corral delete chat
corral host fence hv3 --dry-run
""".strip().splitlines()

# What a member of two GPUs of one partition needs.
JOINED = '[[hosts.partitions]]\nname = "left"\ndevices = ["0000:01:00.0", "0000:02:00.0"]\n'

# `recover` has exit codes of its own: 3, since nothing was written.
ENDS = {"corral recover --config corral.toml": 3}


def sub_commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every sub-command with its words, those of sub-commands too."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from sub_commands(command, *path, name)


def test_every_sub_command_has_an_example_of_its_own_which_its_help_shows() -> None:
    told = []
    for words, command in sub_commands(corral, "corral"):
        assert isinstance(command, Verb | VerbGroup), words
        assert command.help, words
        # What only has sub-commands shows one of theirs.
        if words in ("corral host", "corral image", "corral config"):
            continue
        assert command.example.startswith(words), words
        context = click.Context(command, info_name=words)
        lines = command.example.splitlines()
        assert "Example:\n  {}\n".format("\n  ".join(lines)) in command.get_help(context), words
        told += lines
    assert sorted(told) == sorted(EXAMPLES)


def test_the_command_has_a_verb_for_every_call_that_the_contract_has() -> None:
    source = "".join(path.read_text() for path in (ROOT / "service/cli").glob("*.py"))
    called = set(re.findall(r"\.([A-Z]\w+)\(|\"([A-Z]\w+)\"", source))
    known = {name for pair in called for name in pair}
    pool = [deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2]
    services = [service for module in pool for service in module.DESCRIPTOR.services_by_name.values()]
    assert len(services) == 5
    assert [f"{s.name}/{m.name}" for s in services for m in s.methods if m.name not in known] == []


def written(directory: Path) -> None:
    """The files that examples name."""
    files = {
        "request.json": json.dumps(
            {
                "name": "chat",
                "serviceCreationStrategy": "parallel",
                "modelServices": [
                    {"uuid": ENTRY, "zoneUuid": ZONE, "cpuNum": 1, "memorySize": GIB, "count": 2, "role": "worker"}
                ],
            }
        ),
        "service.yaml": "name: chat-model\nimage: guest\nports:\n  http: 8000\n",
        "changes.yaml": "description: answers questions\n",
        "token.txt": "t0ken\n",
        "corral.toml": f'[server]\n[store]\nurl = "sqlite:///other.db"\n[[zones]]\nuuid = "{ZONE}"\nname = "zone-1"\n',
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "images").mkdir()
    (directory / "images/disk.raw").write_bytes(b"\0" * 4096)


@pytest.mark.asyncio
async def test_every_example_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(sweep, "GRACE_SECONDS", 0.0)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])  # `python -m service` of this checkout
    hosts = "".join(
        HOST.format(name=f"hv{number}", cpu=4, migrate_ms=20, live="yes") + '"gpu.h100" = "2"\n' + JOINED
        for number in (1, 2, 3)
    )
    hosts += machine("metal3", 8, 32, ', clean = "metadata"')
    text = FILE + hosts + '[identity]\nanonymous = "loopback"\n' + a_key(tmp_path)
    text = text.replace("[catalog]\n", '[catalog]\nimport_networks = ["127.0.0.0/8"]\n')
    with source() as mirror:
        mirror.files["/disk.raw"] = b"\1" * 4096
        async with whole(tmp_path, text) as lab:
            written(tmp_path)
            values = {
                "KEY": "",
                "GROUP": "",
                "SUM": hashlib.sha256(mirror.files["/disk.raw"]).hexdigest(),
                "https://mirror.example/disk.raw": mirror.url("/disk.raw"),
            }
            await run_all(lab, tmp_path, values, capfd)


async def run_all(lab: Whole, tmp_path: Path, values: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    environment = {
        "CORRAL_SERVER": str(lab.service.rpc.address),
        "XDG_CONFIG_HOME": str(tmp_path / "home"),
        "PATH": os.environ["PATH"],
    }
    prepared = preparations(lab, values)
    for example in EXAMPLES:
        if prepare := prepared.get(example):
            await prepare()
        words = [values.get(word, word) for word in shlex.split(example)[1:]]
        code = await asyncio.to_thread(run, words, environment)
        captured = capfd.readouterr()
        assert code == ENDS.get(example, errors.OK), f"{example}: {code}\n{captured.out[-2000:]}\n{captured.err}"
        assert captured.out or captured.err or example.startswith("corral dump"), example
    assert json.loads((tmp_path / "dump.json").read_text())


def preparations(lab: Whole, values: dict[str, str]) -> dict[str, Callable[[], Awaitable[None]]]:
    """What some examples need to be so before, by the example."""

    async def a_stranger() -> None:
        driver = lab.driver("hv1")
        stranger = MachineIdentity(lab.service.custody.installation.cluster, "a" * 32, "b" * 32, 1)
        driver.host.machines[stranger.machine_uuid] = SimulatedMachine(stranger, MachineState.RUNNING)
        values["KEY"] = stranger.machine_uuid
        await soon(lambda: held(1))

    async def a_lost_group() -> None:
        await soon(lambda: held(0))
        group = await lab.up(name="lost")
        values["GROUP"] = group.uuid
        await lab.service.store.write(lambda connection: forget(connection, group.uuid))
        await soon(lambda: held(1))

    async def held(count: int) -> bool:
        found = await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())
        return len(found.inventories) == count

    async def anothers() -> None:
        lab.driver("hv2").host.mark = OwnerMark("d" * 32, lab.uuid_of("hv2"), 5)
        lab.service.reconciler.monitors[lab.uuid_of("hv2")].suspect()

        async def foreign() -> bool:
            return (await lab.host("hv2")).status == "Foreign"

        await soon(foreign)

    async def silent() -> None:
        cut_off(lab.driver("hv3"))
        await soon(lambda: is_silent(lab, "hv3"))

    return {
        "corral hosts remove-quarantined hv1 KEY": a_stranger,
        "corral hosts adopt GROUP": a_lost_group,
        "corral hosts claim hv2": anothers,
        "corral host fence hv3 --dry-run": silent,
    }
