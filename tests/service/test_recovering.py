"""Backups, and databases that are lost or old, as an operator meets them, on simulated hosts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.lab.namespaces import wait_until
from tests.support.builders import ENTRY, ZONE
from tests.support.postgres import Postgres
from tests.support.process import ENVIRONMENT, CorralProcess

HOSTS = ("one", "two")


def configuration(directory: Path, *, hosts: tuple[str, ...] = HOSTS) -> str:
    tables = "".join(
        f'[[hosts]]\nname = "{name}"\nzone = "zone-1"\ndriver = "simulated"\n'
        f'options = {{ cpu = "8", memory = "32GiB", boot_ms = "50", state_file = "{directory}/{name}.json" }}\n'
        for name in hosts
    )
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "network"
source = "corral"
subnet = "10.9.0.0/24"
gateway = "10.9.0.1"
pool = "10.9.0.10-10.9.0.49"
{tables}
[[images]]
name = "guest"
kernel = "/boot/none"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
stop_grace_ms = 0
"""


@pytest.fixture
def corral(tmp_path: Path) -> Iterator[CorralProcess]:
    process = CorralProcess(tmp_path, configuration(tmp_path))
    process.start()
    try:
        yield process
    finally:
        process.kill()


def run(corral: CorralProcess, *arguments: str, module: str = "service") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=corral.directory, env={**os.environ, **ENVIRONMENT}, timeout=120
    )


def recover(corral: CorralProcess, *more: str) -> subprocess.CompletedProcess[str]:
    return run(corral, "recover", "--config", str(corral.configuration), *more)


def deploy(corral: CorralProcess, name: str, count: int = 2, **fields: Any) -> group_pb2.InstanceGroup:
    nodes = [
        group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 30, **fields) for _ in range(count)
    ]
    return corral.follow(corral.deploy(name, nodes))


def machines(corral: CorralProcess) -> dict[str, tuple[str, str, float]]:
    """(instance, attempt) -> (host, state, since when it runs) of all machines, by the hosts' own files."""
    found: dict[str, tuple[str, str, float]] = {}
    for name in HOSTS:
        path = corral.directory / f"{name}.json"
        for machine in json.loads(path.read_text())["machines"] if path.exists() else ():
            if machine["state"] != "tombstone":
                key = f"{machine['identity']['instance']}-{machine['identity']['attempt']}"
                assert key not in found, "one machine on two hosts"
                found[key] = (name, machine["state"], machine["resumed_at"])
    return found


def lose(corral: CorralProcess) -> None:
    for path in corral.directory.glob("corral.db*"):
        path.unlink()


def groups(corral: CorralProcess) -> Mapping[str, group_pb2.InstanceGroup]:
    listed = corral.groups.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest()).inventories
    return {g.uuid: g for g in listed}


def plain(group: group_pb2.InstanceGroup) -> dict[str, Any]:
    """What must be as it was."""
    return {
        "name": group.name,
        "status": group.status,
        "members": [
            (m.uuid, m.node_rank, m.name, m.status, m.attempt, m.host_name, list(m.addresses), m.cpu_num)
            for m in group.instances
        ],
    }


def test_a_lost_database_is_shown_and_then_written_again_and_nothing_restarts(corral: CorralProcess) -> None:
    first, second = deploy(corral, "first", 3), deploy(corral, "second", 1)
    stopped = deploy(corral, "stopped", 2)
    corral.follow(corral.groups.StopInstanceGroup(deploy_pb2.StopInstanceGroupRequest(uuid=stopped.uuid)))
    before = {uuid: plain(group) for uuid, group in groups(corral).items()}
    there = machines(corral)
    assert len(there) == 6

    busy = recover(corral, "--write")
    assert (busy.returncode, "in use by another corral process" in busy.stderr) == (1, True)
    corral.stop()
    lose(corral)

    shown = recover(corral)
    assert shown.returncode == 3, shown
    assert first.uuid in shown.stdout
    assert "nothing was written" in shown.stdout
    assert not corral.database.exists()
    told = json.loads(recover(corral, "--output", "json").stdout)
    assert {g["uuid"]: g["status"] for g in told["groups"]} == {
        first.uuid: "Running", second.uuid: "Running", stopped.uuid: "Stopped"
    }  # fmt: skip
    assert told["identity_taken_over"]
    assert not told["written"]

    written = recover(corral, "--write")
    assert written.returncode == 0, written
    assert recover(corral).returncode == 0, "nothing is left to write"
    assert machines(corral) == there
    corral.start()
    assert {uuid: plain(group) for uuid, group in groups(corral).items()} == before
    again = deploy(corral, "after", 2)
    assert again.status == "Running"
    new = {tuple(m.addresses) for m in again.instances}
    old = {tuple(m.addresses) for g in (first, second, stopped) for m in g.instances}
    assert not new & old, "addresses that machines have are not given out again"
    assert there.items() <= machines(corral).items()
    started = corral.follow(corral.groups.StartInstanceGroup(deploy_pb2.StartInstanceGroupRequest(uuid=stopped.uuid)))
    assert started.status == "Running"
    for uuid in (*before, again.uuid):
        assert corral.delete(uuid).status == "Deleted"
    assert machines(corral) == {}


def statuses(corral: CorralProcess) -> set[str]:
    return {host.status for host in corral.fleet.ListHosts(fleet_pb2.ListHostsRequest()).inventories}


def _all(corral: CorralProcess, status: str) -> bool:
    return {group.status for group in groups(corral).values()} == {status}


def test_yesterdays_backup_finds_what_was_deployed_since_and_forgets_what_was_deleted(corral: CorralProcess) -> None:
    kept, doomed = deploy(corral, "kept"), deploy(corral, "doomed")
    copy = corral.directory / "backup.db"
    made = run(corral, "backup", "--config", str(corral.configuration), str(copy))
    assert made.returncode == 0, made
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    refused = run(corral, "backup", "--config", str(corral.configuration), str(copy))
    assert (refused.returncode, "no backup was made" in refused.stderr) == (1, True)
    since = deploy(corral, "since", 3)
    corral.delete(doomed.uuid)
    before = {uuid: plain(group) for uuid, group in groups(corral).items()}
    there = machines(corral)
    corral.stop()
    lose(corral)
    shutil.copy(copy, corral.database)
    corral.start()  # as it goes: that it is yesterday's is seen once it runs
    wait_until(lambda: statuses(corral) == {"Ahead"}, 60, "the hosts to be ahead")
    wait_until(lambda: _all(corral, "Unknown"), 60, "the groups to be unknown: events by which the old copy goes on")
    corral.stop()

    told = json.loads(recover(corral, "--output", "json").stdout)
    assert {g["uuid"]: g["action"] for g in told["groups"]} == {since.uuid: "create", doomed.uuid: "end"}
    assert told["generation_above"] > 0
    assert recover(corral, "--write").returncode == 0
    corral.start()
    wait_until(lambda: _all(corral, "Running"), 60, "the groups to run as they did")
    assert statuses(corral) == {"Connected"}
    assert {uuid: plain(group) for uuid, group in groups(corral).items()} == before
    assert machines(corral) == there
    for uuid in (kept.uuid, since.uuid):
        corral.delete(uuid)
    assert machines(corral) == {}


def test_a_host_that_does_not_answer_is_named_and_what_it_may_have_is_left_alone(corral: CorralProcess) -> None:
    wide = corral.follow(
        corral.deploy(
            "wide",
            [group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 30)] * 2,
            placement_policy=group_pb2.PlacementPolicy(max_per_host=1),
        )
    )
    there = machines(corral)
    corral.stop()
    lose(corral)
    text = corral.configuration.read_text()
    head, _, tail = text.rpartition('boot_ms = "50"')
    corral.configuration.write_text(f'{head}boot_ms = "50", call_ms = "20000"{tail}')  # longer than a call may take
    shown = recover(corral, "--write")
    assert shown.returncode == 4, shown
    assert "host two could not be looked at" in shown.stdout
    assert f"group {wide.uuid} cannot be recovered" in shown.stdout
    corral.configuration.write_text(text)
    assert recover(corral, "--write").returncode == 0
    assert machines(corral) == there
    corral.start()
    assert groups(corral)[wide.uuid].status == "Running"
    assert machines(corral) == there


def test_the_command_runs_the_server_part(corral: CorralProcess) -> None:
    corral.stop()
    shown = run(corral, "recover", "--config", str(corral.configuration), module="service.cli")
    assert shown.returncode == 0, shown
    assert "0 groups" in shown.stdout


def test_on_postgresql_nobody_may_serve_and_what_is_shown_does_not_stay(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    corral = CorralProcess(tmp_path, configuration(tmp_path))
    corral.use_store(postgres.url(database))
    lost = postgres.create_database()
    corral.start()
    try:
        group = deploy(corral, "kept", 3)
        before, there = plain(group), machines(corral)

        def held() -> bool:
            return bool(postgres.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'"))

        wait_until(held, 60, "the replica to say that it serves")
        busy = recover(corral, "--write")
        assert (busy.returncode, "stop all of them first" in busy.stderr) == (1, True), busy
        assert recover(corral).returncode == 1
        corral.stop()
        corral.use_store(postgres.url(lost))
        corral.configure()

        old = recover(corral)
        assert (old.returncode, "older schema" in old.stderr) == (1, True), old
        assert postgres.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", lost) == [["0"]]
        written = recover(corral, "--write")
        assert written.returncode == 0, written
        assert "to be written" not in written.stdout
        postgres.query("DELETE FROM events", lost)
        for table in ("claims", "addresses", "instances", "groups", "retired"):
            postgres.query(f"DELETE FROM {table}", lost)
        postgres.query("UPDATE host_resources SET used = 0", lost)
        shown = recover(corral)
        assert shown.returncode == 3, shown
        assert postgres.query("SELECT count(*) FROM groups", lost) == [["0"]]
        assert recover(corral, "--write").returncode == 0
        corral.start()
        assert plain(groups(corral)[group.uuid]) == before
        assert machines(corral) == there
    finally:
        corral.kill()
        postgres.drop_database(lost)
