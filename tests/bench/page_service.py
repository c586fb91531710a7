"""A service whose groups stand in its database already and which nobody reconciles: what a page costs by itself.

    python -m tests.bench.page_service CONFIGURATION MEMBERS ADDRESS

Hosts are written as connected, gangs as running on them, with their claims. Everything that a page meets is as ever:
listeners, use cases, store, logs. Writes its HTTP address to the file ADDRESS, as JSON, and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from service.__main__ import SWITCH_SECONDS, keep_what_started
from service.config.file import load
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus
from service.process import Process
from service.store import claims, fleet, groups
from service.store.connection import Connection
from service.wiring import Service
from tests.support.builders import group, node, seat

GANG = 100
_MEMBER = {VCPU: 1, MEMORY: 64 << 20}


def gang(number: int, size: int, hosts: list[Host]) -> Group:
    """A running group whose members are on these hosts, one each, round about."""
    now = time.time_ns() // 1_000_000
    spec = replace(node(), cpu_num=_MEMBER[VCPU], memory_size=_MEMBER[MEMORY])
    made = group(
        size,
        uuid=f"{number + 1:032x}",
        name=f"gang-{number}",
        phase=GroupPhase.RUNNING,
        status=GroupStatus.RUNNING,
        go=True,
        starts=1,
        served=True,
        created_at=now + number,
        updated_at=now + number,
    )
    members = tuple(
        replace(
            member,
            uuid=f"{number * GANG + rank + (1 << 64):032x}",
            spec=replace(spec, name=f"gang-{number}-{rank}", node_rank=rank),
            status=InstanceStatus.RUNNING,
            host_uuid=host.uuid,
            host_name=host.name,
            zone_uuid=host.zone_uuid,
        )
        for rank, member in enumerate(made.instances)
        for host in (hosts[(number * GANG + rank) % len(hosts)],)
    )
    return replace(made, instances=members)


def connect(connection: Connection) -> None:
    """All hosts answer, each with what its options say."""
    for one in fleet.hosts(connection).values():
        total = {VCPU: int(one.address.options["cpu"]), MEMORY: 64 << 30}
        fleet.set_facts(connection, one.uuid, boot_id="1", virt_type="simulated", total=total, foreign={})


def settle(connection: Connection, number: int, size: int) -> None:
    """One more gang, with its claims."""
    hosts = [host for host in fleet.hosts(connection).values() if host.allocatable]
    made = gang(number, size, hosts)
    groups.create(connection, made, due_at=1 << 50)
    claims.take(connection, made.uuid, [seat(member.uuid, member.host_uuid, _MEMBER) for member in made.instances])


async def nothing(*_: object) -> None:
    """Neither hosts nor groups are looked at."""


async def serve(configuration: Path, members: int, told: Path) -> None:
    """Serve until SIGTERM. `told`: the file that gets the address."""
    service = Service(load(configuration))
    process = Process(service)
    with patch.multiple(service.reconciler, start=nothing, stop=nothing):
        await process.start()
        keep_what_started()
        try:
            await service.store.write(connect)
            for number in range(-(-members // GANG)):
                size = min(GANG, members - number * GANG)
                await service.store.write(lambda c, n=number, s=size: settle(c, n, s))  # type: ignore[misc]
            part = told.with_suffix(".part")
            part.write_text(json.dumps({"http": process.http_address}))
            part.rename(told)
            ended = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
            await ended.wait()
        finally:
            await process.stop()


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
