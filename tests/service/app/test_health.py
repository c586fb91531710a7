"""Whether the process can do its work: readiness proves a write, and says what hinders it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from service.app import health as health_module
from service.app.health import Health
from service.domain.fencing import Rule, Verdict
from service.domain.fleet import Overcommit
from service.errors import Unavailable
from service.store import events, fencing, fleet, settings
from service.store.engine import Store
from service.store.migrations import upgrade
from tests.support import builders
from tests.support.postgres import Postgres

pytestmark = pytest.mark.asyncio


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two mebibytes."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "corral-test", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill(directory: Path) -> Path:
    """Leave no byte free."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.fsync(file.fileno())
    return filler


async def test_a_full_file_system_is_named_reads_go_on_and_freed_space_is_enough(small: Path) -> None:
    store = Store(f"sqlite:///{small}/corral.db")
    try:
        upgrade(store.engine)
        health = Health(store, Overcommit())
        assert await health.prove()
        assert await health.failing() == {}
        filler = fill(small)
        assert not await health.prove()
        assert "no space left" in (await health.failing())["store"]
        with pytest.raises(Unavailable, match="no space left"):
            await store.write(lambda c: settings.set_overcommit(c, Overcommit(reserved={"vcpu": 1})))
        assert await store.read(events.head)
        filler.unlink()
        assert await health.prove()
        assert await health.failing() == {}
    finally:
        store.close()


async def test_a_refused_write_is_noticed_at_once_and_told(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.app.health.PROVE_SECONDS", 3600.0)
    store = Store(f"sqlite:///{small}/corral.db")
    try:
        upgrade(store.engine)
        health = Health(store, Overcommit())
        told: asyncio.Queue[bool] = asyncio.Queue()
        proving = asyncio.create_task(health.run(told.put_nowait))
        fill(small)
        with pytest.raises(Unavailable, match="no space left"):
            await store.write(lambda c: settings.set_overcommit(c, Overcommit(reserved={"vcpu": 1})))
        assert await told.get() is False
        assert "no space left" in (await health.failing())["store"]
        proving.cancel()
    finally:
        store.close()


async def test_a_postgresql_whose_disk_is_full_is_named_though_a_row_can_be_written_over(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(postgres.url(database))
    raised = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$"
    try:
        upgrade(store.engine)
        health = Health(store, Overcommit())
        with pytest.raises(Unavailable, match="no space left"):
            await store.write(lambda c: c.execute(text(raised)))
        assert not await health.prove()
        assert "no space left" in (await health.failing())["store"]
        monkeypatch.setattr(health_module, "FULL_HOLDS_SECONDS", 0.0)
        assert await health.prove()
        assert await health.failing() == {}
    finally:
        store.close()


async def test_a_database_that_takes_no_writes_is_named(postgres: Postgres, database: str) -> None:
    store = Store(postgres.url(database))
    try:
        upgrade(store.engine)
        health = Health(store, Overcommit())
        assert await health.prove()
        await store.write(
            lambda c: c.execute(text(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on'))
        )
        store.engine.dispose()  # connections that are made from now on begin so
        assert not await health.prove()
        assert await health.failing() == {"store": "the database is read-only: nothing can be written"}
    finally:
        store.close()


async def test_a_write_that_hangs_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"sqlite:///{tmp_path}/corral.db")
    try:
        upgrade(store.engine)
        health = Health(store, Overcommit())
        assert await health.prove()
        monkeypatch.setattr("service.app.health.PROOF_HOLDS_SECONDS", -1.0)
        assert "no write has ended" in (await health.failing())["store"]
    finally:
        store.close()


async def test_what_is_thought_of_silent_hosts_is_told_while_they_are_silent() -> None:
    store = Store("sqlite://")
    try:
        upgrade(store.engine)
        host = builders.host(1)
        await store.write(lambda c: fleet.put_zone(c, builders.zone()))
        await store.write(lambda c: fleet.put_host(c, host))
        health = Health(store, Overcommit())
        verdict = Verdict(Rule.NETWORK_FAULT, "only 1 of the 3 hosts of its zone answered")
        await store.write(lambda c: fencing.set_verdict(c, host.uuid, host.zone_uuid, verdict, 1))
        await health.compare()
        assert health.notes == {"fencing": f"host {host.name} (off): NetworkFault: {verdict.reason}"}
        assert await health.failing() == {}
        await store.write(lambda c: fencing.set_verdict(c, host.uuid, host.zone_uuid, None, 2))
        await health.compare()
        assert health.notes == {}
    finally:
        store.close()
