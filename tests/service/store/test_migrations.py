"""A database that was migrated is the one that the schema describes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, text

from service.domain.fleet import Zone
from service.domain.groups import Group, GroupPhase
from service.domain.specs import PlacementPolicy
from service.errors import Unavailable
from service.store import catalog, changed_hosts, clusters, engine, groups, migrations, schema
from service.store.codec import encode
from service.store.engine import Store
from service.store.migrations import upgrade
from service.store.schema import metadata
from tests.support.builders import ENTRY, group
from tests.support.builders import host as host_of
from tests.support.database import Database, together


def test_migrations_make_exactly_the_schema(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        ours = {"include_name": lambda name, kind, _parents: (kind, name) != ("table", changed_hosts.TABLE)}
        options = {"target_metadata": metadata, "compare_type": True, **ours}
        context = MigrationContext.configure(connection, opts=options)
        found: list[object] = compare_metadata(context, metadata)
        return found

    assert db.write(differences) == []


def test_an_up_to_date_database_is_left_alone(db: Database) -> None:
    db.write(lambda c: c.execute(text("UPDATE counters SET value = 7 WHERE name = 'revision'")))
    upgrade(db.store.engine)
    assert db.read(lambda c: c.scalar(text("SELECT value FROM counters WHERE name = 'revision'"))) == 7


def test_a_database_of_a_newer_version_is_refused_by_name_and_left_alone(db: Database) -> None:
    db.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(Unavailable, match="schema 9999 of a newer version"):
        upgrade(db.store.engine)
    assert db.read(lambda c: c.scalar(text("SELECT version_num FROM alembic_version"))) == "9999"


def test_what_groups_are_found_by_is_copied_from_their_specifications(url: str) -> None:
    """Groups of an older version keep away from others, and keep their catalogue entries, as new ones do."""
    other, third = "b" * 32, "c" * 32
    policy = PlacementPolicy(anti_affinity_groups=(third, other, other))
    groups_then = [group(uuid=other), group(uuid="a" * 32, placement=policy), group(uuid="d" * 32, placement=policy)]
    groups_then[2] = replace(groups_then[2], phase=GroupPhase.DELETED)
    with Database(url) as database:
        upgrade(database.store.engine, "0005")
        database.write(partial(_as_version_0005_did, groups_then))
        upgrade(database.store.engine)
        assert database.read(groups.keeping_apart) == {"a" * 32: {other, third}}
        assert database.read(lambda c: catalog.users(c, ENTRY)) == 2
        assert database.read(lambda c: catalog.users(c, third)) == 0


def test_a_cluster_that_hosts_named_before_there_were_rows_has_one(url: str) -> None:
    cluster, zone, now = "c" * 32, "e" * 32, 5
    with Database(url) as database:
        upgrade(database.store.engine, "0011")

        def as_before(connection: Connection) -> None:
            stamps = {"version": 1, "created_at": now, "updated_at": now, "configured": ""}
            row = {"uuid": zone, "name": "z", "document": encode(Zone(zone, "z")), **stamps}
            connection.execute(schema.zones.insert(), row)
            hosts = Table("hosts", MetaData(), autoload_with=connection)  # of that version, not of this one
            unseen = {"status_reason": "", "boot_id": "", "virt_type": "", "generation": 0, "claim_ordered": False,
                      "ahead": False}  # fmt: skip
            for number, named in ((1, cluster), (2, cluster), (3, "")):
                one = host_of(number, zone_uuid=zone, cluster_uuid=named)
                row = {"uuid": one.uuid, "name": one.name, "zone_uuid": zone, "document": encode(one), **stamps}
                connection.execute(hosts.insert(), {**row, **unseen, "state": "Enabled", "status": "Connected"})

        database.write(as_before)
        upgrade(database.store.engine)
        (found,) = database.read(lambda c: clusters.page(c, None, 10))
        assert (found.uuid, found.name, found.zone_uuid, found.created_at) == (cluster, cluster, zone, now)
        assert database.read(clusters.hosts_in) == {cluster: {zone: 2}}


def _as_version_0005_did(made: list[Group], connection: Connection) -> None:
    for number, one in enumerate(made):
        row = {"uuid": one.uuid, "spec": encode(one.spec), "phase": one.phase.value}
        connection.execute(
            text(
                "INSERT INTO groups (uuid, project, principal, name, spec, exclusive_hosts, phase, status, reason,"
                " start_epoch, go, served, failures, retry_at, running_since, restarting, excluded_hosts, sequence,"
                " version, revision, deadline_at, created_at, updated_at, owner, epoch, lease_until)"
                " VALUES (:uuid, 'p', 'p', 'n', :spec, false, :phase, 'Running', '', 0, false, false, 0, 0, 0, false,"
                " '[]', 0, 0, 0, 0, 0, 0, '', 0, 0)"
            ),
            row,
        )
        for member in one.instances:
            connection.execute(
                text(
                    "INSERT INTO instances (uuid, group_uuid, rank, spec, status, reason, host_uuid, host_name,"
                    " zone_uuid, machine_uuid, service_port, attempt, restarts, address, mac, unknown_since,"
                    " deadline_at, boot_timeout_ms, stop_grace_ms, was_resumed, stop_asked, joining, leaving,"
                    " created_at, updated_at) VALUES (:uuid, :group, :rank, :spec, 'Running', '', '', '', '', '', 0, 1,"
                    " 0, '', '', 0, 0, 0, 0, false, false, false, false, 0, 0)"
                ),
                {"uuid": f"{number:08x}{member.rank:024x}", "group": one.uuid, "rank": member.rank,
                 "spec": encode(member.spec)},
            )  # fmt: skip


def test_a_replica_waits_for_anothers_upgrade_for_longer_than_a_claim_would(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("one process owns a SQLite file")
    with patch.dict(engine._SERVER_SETTINGS, {"lock_timeout": 20}):
        stores = [Store(url) for _ in range(2)]
        with ThreadPoolExecutor(1) as pool, stores[0].engine.connect() as first, stores[1].engine.connect() as look:
            first.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrations._ONE_AT_A_TIME})
            upgrading = pool.submit(upgrade, stores[1].engine)
            long = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
                " AND query_start < clock_timestamp() - interval '300 ms'"
            )
            while not upgrading.done() and look.execute(long).scalar_one() == 0:
                look.rollback()  # what a transaction once read of others' activity stays
            assert not upgrading.done(), upgrading.exception()
            first.rollback()
            assert upgrading.result() is None
            # Nobody waits for ever, and what is waited for is named.
            first.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrations._ONE_AT_A_TIME})
            with patch.object(migrations, "OTHERS_SECONDS", 0.05), pytest.raises(Unavailable, match="another replica"):
                upgrade(stores[1].engine)
        for store in stores:
            store.close()


def test_replicas_that_start_at_once_on_an_empty_database_wait_for_each_other(url: str) -> None:
    count = 1 if url.startswith("sqlite") else 4  # one process owns a SQLite file
    stores = [Store(url) for _ in range(count)]
    try:
        assert together([partial(upgrade, store.engine) for store in stores]) == [None] * count
    finally:
        for store in stores:
            store.close()
