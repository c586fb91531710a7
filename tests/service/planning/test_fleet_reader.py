"""What is read of the fleet bit by bit is what reading all of it gives, whatever changed in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement.model import Snapshot
from service.domain.fleet import MEMORY, VCPU, HostState, HostStatus, Overcommit
from service.domain.groups import Group, GroupPhase
from service.domain.specs import PlacementPolicy
from service.planning import fleet_reader
from service.planning.fleet_reader import FleetReader
from service.store import claims, configured, fleet, groups
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.store.engine import Store
from tests.support import builders
from tests.support.schema import migrated

HOSTS = 5
LAW = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


class World:
    """A fleet to which things happen, from a seed."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection, self.random = connection, random.Random(seed)
        self.groups: list[Group] = []
        self.claims: list[tuple[str, int]] = []
        self.now = 0
        fleet.put_zone(connection, builders.zone(), now=self.now)
        for number in range(HOSTS):
            self._put(number)

    def happen(self) -> None:
        """One of the things that any part of the service does to these rows."""
        self.now += 1
        r = self.random
        happenings: list[Callable[[], None]] = [
            lambda: self._put(r.randrange(HOSTS)),
            self._remove, self._status, self._state, self._probe, self._probe, self._usable,
            self._claim, self._claim, self._claim, self._release, self._release,
            self._group, self._end, self._restart,
        ]  # fmt: skip
        r.choice(happenings)()

    def _put(self, number: int) -> None:
        r = self.random
        made = builders.host(number, rack=r.choice(["", "r1", "r2"]), labels={"disk": r.choice(["ssd", "hdd"])})
        fleet.put_host(self.connection, made, now=self.now)

    def _any(self) -> str | None:
        known = sorted(fleet.hosts(self.connection))
        return self.random.choice(known) if known else None

    def _remove(self) -> None:
        uuid = self._any()
        if uuid is not None and not claims.on_host(self.connection, uuid):
            fleet.delete_host(self.connection, fleet.host(self.connection, uuid), self.now)

    def _status(self) -> None:
        uuid = self._any()
        if uuid is not None:
            status = self.random.choice(list(HostStatus))
            fleet.set_status(self.connection, uuid, status, self.random.choice(["", "why"]), now=self.now)

    def _state(self) -> None:
        uuid = self._any()
        if uuid is not None:
            host = fleet.host(self.connection, uuid)
            fleet.set_state(self.connection, host, self.random.choice(list(HostState)), self.now)

    def _probe(self) -> None:
        uuid, r = self._any(), self.random
        if uuid is not None:
            fleet.set_facts(
                self.connection, uuid, boot_id=r.choice("ab"), virt_type="kvm",
                total={VCPU: r.choice([8, 16]), MEMORY: 1 << 34},
                foreign={VCPU: r.randrange(3)}, now=self.now,
            )  # fmt: skip

    def _usable(self) -> None:
        uuid = self._any()
        if uuid is not None:
            host = fleet.host(self.connection, uuid)
            fleet.set_allocatable(self.connection, host, Overcommit(reserved={VCPU: self.random.randrange(4)}))

    def _group(self) -> None:
        uuid = f"{self.random.getrandbits(128):032x}"
        apart = tuple(g.uuid for g in self.groups if self.random.random() < 0.4)
        policy = PlacementPolicy(anti_affinity_groups=apart, exclusive_hosts=self.random.random() < 0.2)
        group = builders.group(uuid=uuid)
        group = replace(group, spec=replace(group.spec, placement=policy), instances=())
        groups.create(self.connection, group, due_at=0)
        self.groups.append(group)

    def _end(self) -> None:
        if self.groups:
            group = self.random.choice(self.groups)
            groups.save(self.connection, group, replace(group, phase=GroupPhase.DELETED))

    def _claim(self) -> None:
        uuid = self._any()
        if uuid is None or not self.groups:
            return
        asked = builders.seat(f"{self.random.getrandbits(128):032x}", uuid, {VCPU: self.random.randint(1, 3)})
        with self.connection.begin_nested() as attempt:
            try:
                claims.take(self.connection, self.random.choice(self.groups).uuid, [asked])
            except ClaimLost:
                attempt.rollback()
            else:
                self.claims.append((asked.instance_uuid, 1))

    def _release(self) -> None:
        if self.claims:
            ended = [self.claims.pop(self.random.randrange(len(self.claims)))]
            claims.release(self.connection, ended)

    def _restart(self) -> None:
        overcommit = Overcommit(reserved={VCPU: self.random.randrange(2)})
        configured.write(
            self.connection, zones=[], hosts=[], images=[], model_services=[], overcommit=overcommit, now=self.now
        )


def whole(connection: Connection) -> tuple[object, Snapshot]:
    hosts, snapshot = fleet_reader.read_fleet(connection)
    return dict(hosts), snapshot


@LAW
@given(st.integers(0, 10**6))
def test_a_reader_gives_what_reading_everything_gives(seed: int) -> None:
    store = Store("sqlite://")
    migrated(store.engine)
    try:
        with store.engine.connect() as connection, connection.begin():
            world = World(connection, seed)
            often, seldom = FleetReader(), FleetReader()
            for _ in range(40):
                world.happen()
                assert often.read(connection) == whole(connection)
                if world.random.random() < 0.2:
                    assert seldom.read(connection) == whole(connection)
    finally:
        store.close()


@pytest.mark.parametrize("change", ["_probe", "_claim"])
def test_hosts_that_did_not_change_are_not_made_anew(change: str) -> None:
    store = Store("sqlite://")
    migrated(store.engine)
    try:
        with store.engine.connect() as connection, connection.begin():
            world = World(connection, 1)
            world._group()
            for _ in range(40):
                world._probe()
            reader = FleetReader()
            _, before = reader.read(connection)
            _, same = reader.read(connection)
            assert all(one is other for one, other in zip(before.hosts, same.hosts, strict=True))
            while same == before:
                getattr(world, change)()
                _, same = reader.read(connection)
            assert sum(one is not other for one, other in zip(before.hosts, same.hosts, strict=True)) == 1
    finally:
        store.close()
