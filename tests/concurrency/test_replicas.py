"""Three replicas as processes on one PostgreSQL and one fleet of simulated hosts, watched from outside all the time."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2

from tests.concurrency.observer import (
    Held,
    Watch,
    broken_histories,
    doubled,
    left_behind,
    machines,
    over_commits,
    overlaps,
    unsettled,
)
from tests.concurrency.replicas import Replica, deploy, replicas, simulated_fleet
from tests.lab.namespaces import wait_until
from tests.support.postgres import Postgres

HOSTS, VCPU = 5, 4
SLOTS = HOSTS * VCPU


@dataclass
class Cluster:
    """The replicas and where to look at them from outside."""

    server: Postgres
    database: str
    directory: Path
    members: list[Replica]

    def watch(self) -> Watch:
        """An observer for the length of a block."""
        return Watch(self.server, self.database, self.directory, VCPU)

    def settle(self) -> None:
        """Wait until every group is in a resting phase. Raises TimeoutError."""
        deadline = time.monotonic() + 150
        while left := unsettled(self.server, self.database):
            if time.monotonic() > deadline:
                raise TimeoutError(f"these groups never came to rest: {left}")
            time.sleep(0.2)

    def check_at_rest(self) -> None:
        """What must hold when nothing goes on any more."""
        self.settle()
        assert over_commits(self.server, self.database) == []
        assert broken_histories(self.server, self.database) == []
        assert left_behind(self.server, self.database) == []
        seated = {
            (host, instance)
            for host, instance in self.server.query(
                "SELECT host_name, uuid FROM instances WHERE status = 'Running'", self.database
            )
        }
        found = machines(self.directory)
        assert doubled(found) == []
        assert {(host, instance) for host, instance, _ in found} == seated


@pytest.fixture(scope="module")
def cluster(postgres: Postgres) -> Iterator[Cluster]:
    """Three serving replicas."""
    directory = Path(tempfile.mkdtemp(prefix="corral-replicas-"))
    database = postgres.create_database()
    try:
        fleet = simulated_fleet(directory, HOSTS, vcpu=VCPU)
        with replicas(directory, postgres.url(database), fleet, 3, level="warning") as members:
            yield Cluster(postgres, database, directory, members)
    finally:
        shutil.rmtree(directory)
    postgres.drop_database(database)


def follow(call: Any) -> Any:
    """The group that a stream of events ended with. Raises grpc.RpcError as the stream does."""
    last = None
    for response in call:
        last = response.event
    assert last is not None
    assert last.WhichOneof("change") == "final"
    return last.final


def delete(stub: Any, group: str) -> None:
    """Delete and wait for the end."""
    follow(stub.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group), timeout=150))


def test_sixteen_clients_on_three_replicas_never_over_commit_a_nearly_full_fleet(cluster: Cluster) -> None:
    history: list[Held] = []
    outcomes: list[str] = []

    def client(number: int) -> None:
        rng = random.Random(number)
        stub = cluster.members[number % 3].stub()
        for _ in range(2):
            group = uuid.UUID(int=rng.getrandbits(128)).hex
            try:
                made = follow(stub.DeployDistributedModelService(deploy(group, rng.randint(1, 4)), timeout=200))
            except grpc.RpcError as error:
                outcomes.append(error.code().name)
                continue
            since = time.monotonic()
            outcomes.append(made.status)
            time.sleep(rng.random() * 0.3)
            until = time.monotonic()
            history.extend(Held(instance.host_uuid, 1, since, until) for instance in made.instances)
            delete(stub, group)

    with cluster.watch() as watch, ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    assert watch.violations == []
    assert watch.looks > 5
    assert overlaps(history, VCPU) == []
    assert set(outcomes) <= {"Running", "RESOURCE_EXHAUSTED"}, outcomes
    assert outcomes.count("Running") >= 8
    cluster.check_at_rest()


def test_the_last_slot_has_one_winner_whichever_replicas_are_asked(cluster: Cluster) -> None:
    filler = uuid.uuid4().hex
    follow(cluster.members[0].stub().DeployDistributedModelService(deploy(filler, SLOTS - 1), timeout=150))
    stubs = [cluster.members[number % 3].stub() for number in range(6)]
    for _ in range(3):
        barrier = threading.Barrier(len(stubs))

        def want(stub: Any, ready: threading.Barrier = barrier) -> tuple[str, str]:
            group = uuid.uuid4().hex
            ready.wait()
            try:
                return follow(stub.DeployDistributedModelService(deploy(group), timeout=150)).status, group
            except grpc.RpcError as error:
                return error.code().name, group

        with ThreadPoolExecutor(len(stubs)) as pool:
            outcomes = list(pool.map(want, stubs))
        assert sorted(outcome for outcome, _ in outcomes) == ["RESOURCE_EXHAUSTED"] * 5 + ["Running"]
        for outcome, group in outcomes:
            if outcome == "Running":
                delete(stubs[0], group)
    delete(stubs[0], filler)
    cluster.check_at_rest()


def test_every_replica_tells_of_what_another_one_does(cluster: Cluster) -> None:
    group = uuid.uuid4().hex
    watch = cluster.members[1].stub().WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest(uuid=""), timeout=150)
    seen: list[int] = []
    try:
        for response in watch:
            if response.event.bookmark.initial_state_complete:
                break
        told = list(cluster.members[0].stub().DeployDistributedModelService(deploy(group), timeout=150))
        last = told[-1].event.sequence
        for response in watch:
            if response.event.sequence and response.event.group_uuid == group:
                seen.append(response.event.sequence)
            if seen and seen[-1] >= last:
                break
    finally:
        watch.cancel()
    assert [response.event.sequence for response in told] == list(range(1, last + 1))
    assert seen == list(range(1, last + 1))
    for member in cluster.members:
        answer = member.stub().GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=group))
        assert answer.inventory.status == "Running"
    delete(cluster.members[2].stub(), group)


def test_groups_of_a_killed_replica_are_finished_by_the_others_exactly_once(cluster: Cluster) -> None:
    victim, other = cluster.members[0], cluster.members[1]
    requests = [deploy(uuid.uuid4().hex, 2) for _ in range(8)]
    acknowledged: set[str] = set()
    codes: set[str] = set()

    def send(request: Any) -> None:
        try:
            for _ in victim.stub().DeployDistributedModelService(request, timeout=150):
                acknowledged.add(request.resource_uuid)
        except grpc.RpcError as error:
            codes.add(error.code().name)

    with cluster.watch() as watch, ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send, request) for request in requests]
        deadline = time.monotonic() + 60
        while len(acknowledged) < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        victim.kill()
        for future in sending:
            future.result()
        answers = {
            r.resource_uuid: follow(other.stub().DeployDistributedModelService(r, timeout=150)) for r in requests
        }
        victim.start()
        victim.wait()
        cluster.settle()
    assert watch.violations == []
    assert len(acknowledged) >= 3
    assert codes <= {"UNAVAILABLE"}
    assert {group.status for group in answers.values()} == {"Running"}
    assert cluster.server.query(
        f"SELECT count(*) FROM groups WHERE uuid IN ({', '.join(repr(u) for u in answers)})", cluster.database
    ) == [[str(len(requests))]]
    cluster.check_at_rest()
    for group in answers:
        delete(victim.stub(), group)
    cluster.check_at_rest()


def test_a_replica_that_is_told_to_end_ends_its_streams_and_gives_its_groups_away(cluster: Cluster) -> None:
    leaving, staying = cluster.members[2], cluster.members[1]
    group = uuid.uuid4().hex
    follow(leaving.stub().DeployDistributedModelService(deploy(group), timeout=150))
    watch = leaving.stub().WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest(), timeout=150)
    codes: list[Any] = []
    revisions: list[int] = []

    def read() -> None:
        try:
            for response in watch:
                revisions.append(response.event.revision)
        except grpc.RpcError as error:
            codes.append(error.code())

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: bool(revisions), 60, "the watch to tell of the group")
    assert leaving.stop() == 0
    reader.join(120)
    assert codes == [grpc.StatusCode.UNAVAILABLE]
    assert "Traceback" not in leaving.log()
    resumed = staying.stub().WatchInstanceGroups(
        deploy_pb2.WatchInstanceGroupsRequest(start_revision=max(revisions)), timeout=150
    )
    delete(staying.stub(), group)
    told = []
    for response in resumed:
        told.append(response.event)
        if response.event.WhichOneof("change") == "final" and response.event.final.status == "Deleted":
            break
    resumed.cancel()
    assert all(event.revision > max(revisions) for event in told)
    leaving.start()
    leaving.wait()
    cluster.check_at_rest()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_replica_on_another_machine_is_waited_for_until_its_lease_is_over(postgres: Postgres) -> None:
    """Of a process in another pid namespace nothing is concluded, so that its lease must run out: 45 s, 60 s at most.

    A frozen one that comes back finds that its epoch is over, and changes nothing.
    """
    directory = Path(tempfile.mkdtemp(prefix="corral-replicas-"))
    database = postgres.create_database()
    try:
        fleet = simulated_fleet(directory, HOSTS, vcpu=VCPU)
        with replicas(directory, postgres.url(database), fleet, 2, alone=(0, 1)) as (victim, heir):
            cluster = Cluster(postgres, database, directory, [victim, heir])
            requests = [deploy(uuid.uuid4().hex, 2) for _ in range(6)]
            with cluster.watch() as watch, ThreadPoolExecutor(6) as pool:
                calls = [pool.submit(_accepted, victim, request) for request in requests]
                assert all(call.result() for call in calls)
                victim.signal(signal.SIGSTOP)
                for request in requests:
                    assert follow(heir.stub().DeployDistributedModelService(request, timeout=150)).status == "Running"
                victim.signal(signal.SIGCONT)
                cluster.settle()
            assert watch.violations == []
            cluster.check_at_rest()
    finally:
        shutil.rmtree(directory)
    postgres.drop_database(database)


def _accepted(replica: Replica, request: Any) -> bool:
    call = replica.stub().DeployDistributedModelService(request, timeout=150)
    for _ in call:
        call.cancel()
        return True
    return False
