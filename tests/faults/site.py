"""An installation as an operator has it: hypervisors, a database, the service on it, and groups that run there."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import libvirt
from corral.v1 import deploy_pb2, group_pb2

from tests.concurrency.replicas import Replica, deploy, replicas
from tests.faults.census import Census
from tests.faults.clients import MEMORY
from tests.faults.observer import Machine, at_rest, machines
from tests.faults.operator import Follower, Operator
from tests.faults.stores import PostgreSql, Sqlite, command
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor

PATIENCE = 240.0
"""Seconds that something may take on a machine that does much else."""
_RESTART = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_RESTART_MEMBER, budget=1000)
_REPLACE = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_REPLACE_MEMBER, budget=1000)


class TooLate(Exception):
    """Something did not come about in time; the message says what."""


def wait(there: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Until it is there. Raises TooLate."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TooLate(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.25)


@dataclass
class Site:
    """`fleet`: the configuration of the hypervisors and the catalogue, without server and store.

    `steady` and `mover`: groups that are there all the time. A lost member of `steady` is started again in its place,
    that of `mover` elsewhere.
    """

    lab: Lab
    store: Sqlite | PostgreSql
    replicas: list[Replica]
    fleet: str
    census: Census
    follower: Follower
    random: random.Random
    directory: Path
    steady: str = ""
    mover: str = ""

    @property
    def operator(self) -> Operator:
        """Who looks at the first replica."""
        return self.follower.operator

    @property
    def operators(self) -> list[Operator]:
        """Who look at each of the replicas: what one of them has counted is in its own metrics alone."""
        return [Operator(replica) for replica in self.replicas]

    # --- the service -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """SIGTERM to all replicas, and their ends."""
        for replica in self.replicas:
            replica.stop()

    def start(self, fleet: str = "") -> None:
        """Start all replicas on the database as it is. `fleet`: another one than the site's own."""
        for replica in self.replicas:
            replica.configure(self.store.url, fleet or self.fleet)
            replica.start()
        for replica in self.replicas:
            try:
                replica.wait(PATIENCE)
            except RuntimeError:  # it ended, as where its database was not there yet
                replica.serve(PATIENCE)

    def revive(self) -> None:
        """After a mishap that broke off: with the site's own configuration, a clock that is right, and room."""
        self.store.free()
        self.store.step_clock(0)
        for replica in self.replicas:
            replica.step_clock(0)
            with contextlib.suppress(RuntimeError):  # it does not run
                replica.kill()
        self.start()

    def recover(self) -> None:
        """`recover --write` on the database as it is; no replica may run."""
        for replica in self.replicas:
            replica.configure(self.store.url, self.fleet)
        command(self.replicas[0].configuration, "recover", "--write", prefix=self.lab.command())

    # --- groups ------------------------------------------------------------------------------------------------------

    def deploy(self, size: int = 1, **fields: Any) -> tuple[str, Any]:
        """(uuid, final inventory) of a new group. Raises TooLate."""
        group = uuid.UUID(int=self.random.getrandbits(128), version=4).hex
        deadline = time.monotonic() + PATIENCE
        while True:
            request = deploy(group, size, memory=MEMORY, **fields)
            try:
                for answer in self.operator.groups.DeployDistributedModelService(request, timeout=PATIENCE):
                    if answer.event.WhichOneof("change") == "final":
                        return group, answer.event.final
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise TooLate(f"a deploy came to no end: {error.details()}") from error
                time.sleep(1)

    def up(self, size: int = 1, **fields: Any) -> str:
        """The uuid of a new group that runs. Raises TooLate."""
        group, final = self.deploy(size, **fields)
        if final.status != "Running":
            raise TooLate(f"a deploy ended as {final.status}: {final.reason}")
        return group

    def launch(self) -> str:
        """The uuid of a new group whose machine is there, whether it has come up yet or not: a boot takes long."""
        group = uuid.UUID(int=self.random.getrandbits(128), version=4).hex

        def accepted() -> bool:
            try:
                call = self.operator.groups.DeployDistributedModelService(deploy(group, memory=MEMORY), timeout=30)
                next(iter(call))
                call.cancel()
            except (grpc.RpcError, StopIteration):
                return False
            return True

        wait(accepted, "a deploy to be accepted")
        wait(lambda: bool(self.members(group)), "the machine of a deploy")
        return group

    def delete(self, group: str) -> None:
        """A group goes, as its owner orders; the machines that it has may end from now on."""
        found = self.operator.group(group)
        for member in found.instances if found is not None else ():
            self.census.let_go(member.host_name, f"corral-{member.uuid}-{member.attempt}")

        def ordered() -> bool:
            try:
                for _ in self.operator.groups.DeleteInstanceGroup(
                    deploy_pb2.DeleteInstanceGroupRequest(uuid=group), timeout=60
                ):
                    pass
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.NOT_FOUND)
            return True

        wait(ordered, f"the end of group {group}")

    def populate(self) -> None:
        """Bring `steady` and `mover` up where they are not there."""
        if not self.steady:
            self.steady = self.up(2, failure_policy=_RESTART)
            self.mover = self.up(1, failure_policy=_REPLACE)

    def members(self, group: str) -> list[Machine]:
        """The machines of a group, by the process table."""
        of = {row[0] for row in self.store.query(f"SELECT uuid FROM instances WHERE group_uuid = '{group}'")}
        return [m for m in machines(self.lab) if m.instance in of]

    def hypervisor(self, name: str) -> Hypervisor:
        """By its name."""
        (found,) = (h for h in self.lab if h.name == name)
        return found

    # --- at rest -----------------------------------------------------------------------------------------------------

    def settle(self) -> list[str]:
        """Wait until nothing is wrong any more; what still is after PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while (wrong := self.wrong()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return wrong

    def wrong(self) -> list[str]:
        """What is wrong now: invariants at rest, `steady` or `mover` that does not run, a host that is not usable."""
        try:
            found = at_rest(self.store, self.store.name, self.lab)
            for group in (self.steady, self.mover):
                rows = self.store.query(f"SELECT phase FROM groups WHERE uuid = '{group}'")
                if rows != [["running"]]:
                    found.append(f"I15 the standing group {group} is {rows}")
            hosts = self.store.query("SELECT name, status FROM hosts WHERE status <> 'Connected'")
            return found + [f"host {name} is {status}" for name, status in hosts]
        except (RuntimeError, TimeoutError) as error:
            return [f"the database does not answer: {error}"]


@contextmanager
def connected(hypervisor: Hypervisor) -> Iterator[Any]:
    """A hand on the hypervisor: libvirt's connection."""
    connection = libvirt.open(hypervisor.uri)
    try:
        yield connection
    finally:
        connection.close()


def destroy(hypervisor: Hypervisor, names: Sequence[str]) -> None:
    """`virsh destroy` and `undefine` of what is there of these."""
    with connected(hypervisor) as connection:
        for name in names:
            with contextlib.suppress(libvirt.libvirtError):
                connection.lookupByName(name).destroy()
            with contextlib.suppress(libvirt.libvirtError):
                connection.lookupByName(name).undefine()


@contextmanager
def open_site(
    lab: Lab, store: Sqlite | PostgreSql, fleet: str, directory: Path, seed: int, *, count: int = 1
) -> Iterator[Site]:
    """`count` replicas on the store, and the groups `steady` and `mover`."""
    with (
        replicas(directory, store.url, fleet, count, prefix=lab.command(), armed=True) as made,
        Census(lab, store) as census,
        Follower(Operator(made[0])) as follower,
    ):
        site = Site(lab, store, made, fleet, census, follower, random.Random(seed), directory)
        site.populate()
        yield site
