"""The use cases against a model of a few lines, on both databases: any sequence of calls answers as the model does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.app.groups import Ask, GroupFilter
from service.domain.events import EventKind
from service.domain.groups import GroupStatus
from service.domain.specs import DeployRequest
from service.errors import AlreadyExists, Conflict, NoCapacity, NotFound, RequestIdReused, Unsatisfiable
from service.store.engine import Store
from service.store.migrations import upgrade
from tests.support.builders import host, node, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane
from tests.support.postgres import Postgres

T = TypeVar("T")
HOSTS, VCPU = 2, 4
SEQUENCES = int(os.environ.get("CORRAL_SEQUENCES", "20"))


@dataclass(frozen=True)
class Known:
    """What the model keeps of a group: its members' size (vCPUs each) and where each is."""

    request: DeployRequest
    vcpu: int
    hosts: tuple[str, ...]


class ApiMachine(RuleBasedStateMachine):
    """Calls follow each other; every one is followed to its end, so that the model knows all that is claimed."""

    url: Callable[[], str]
    uuids = Bundle("uuids")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.known: dict[str, Known] = {}
        self.failed: set[str] = set()
        self.count = 0
        self.plane: ControlPlane

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the machine's loop, on which the control plane lives between calls."""

        async def limited() -> T:
            async with asyncio.timeout(60):
                return await work

        return self.runner.run(limited())

    @initialize()
    def begin(self) -> None:
        """A control plane on an empty database."""
        hosts = [host(number) for number in range(1, HOSTS + 1)]
        plane = control_plane(hosts=hosts, size={"cpu": str(VCPU), "boot_ms": "0"}, url=type(self).url())
        self.plane = self.run(self.stack.enter_async_context(plane))

    def teardown(self) -> None:
        """End the control plane."""
        self.run(self.stack.aclose())
        self.runner.close()

    def free(self) -> dict[str, int]:
        """vCPUs left by host, as the model says."""
        left = {host(number).uuid: VCPU for number in range(1, HOSTS + 1)}
        for group in self.known.values():
            for uuid in group.hosts:
                left[uuid] -= group.vcpu
        return left

    def expected(self, size: int, vcpu: int) -> type[Exception] | None:
        """How a deploy of `size` equal members must end now."""
        if size > HOSTS * (VCPU // vcpu):
            return Unsatisfiable
        return None if size <= sum(left // vcpu for left in self.free().values()) else NoCapacity

    def request(self, size: int, vcpu: int) -> DeployRequest:
        """A new request with an id of its own."""
        self.count += 1
        made = spec(size, name=f"group-{self.count}", nodes=tuple(node(cpu_num=vcpu) for _ in range(size)))
        return DeployRequest(made, resource_uuid=f"{self.count:032x}", request_id=f"request-{self.count}")

    @rule(target=uuids, size=st.integers(1, 5), vcpu=st.integers(1, 3))
    def deploy(self, size: int, vcpu: int) -> Any:
        """A gang is placed whole or not at all, as the model foresees."""
        request = self.request(size, vcpu)
        error = self.expected(size, vcpu)
        if error is not None:
            with pytest.raises(error):
                self.run(self.plane.deploy(request))
            self.failed.add(request.resource_uuid)
            return multiple()
        told = self.run(self.plane.deploy(request))
        assert [event.sequence for event in told] == list(range(1, len(told) + 1))
        assert told[-1].kind is EventKind.FINAL
        group = told[-1].group
        assert group is not None
        assert group.status is GroupStatus.RUNNING
        hosts = tuple(member.host_uuid for member in group.instances)
        self.known[group.uuid] = Known(request, vcpu, hosts)
        assert min(self.free().values()) >= 0
        return group.uuid

    @rule(size=st.integers(1, 5), vcpu=st.integers(1, 3))
    def plan(self, size: int, vcpu: int) -> None:
        """A plan says what a deploy would, and writes nothing."""
        request = replace(self.request(size, vcpu), request_id="")
        error = self.expected(size, vcpu)
        if error is not None:
            with pytest.raises(error):
                self.run(self.plane.groups.plan(CALLER, request))
        else:
            assert len(self.run(self.plane.groups.plan(CALLER, request)).assignments) == size
        with pytest.raises(NotFound):
            self.run(self.plane.groups.get(CALLER, request.resource_uuid))

    @rule(uuid=uuids)
    def repeat(self, uuid: str) -> None:
        """The same request again is the same group, and nothing happens."""
        if uuid in self.known:
            started = self.run(self.plane.groups.deploy(CALLER, self.known[uuid].request))
            assert started.group.uuid == uuid

    @rule(uuid=uuids)
    def misuse(self, uuid: str) -> None:
        """Another body under a known id, and a uuid that is taken, are refused."""
        if uuid not in self.known:
            return
        request = self.known[uuid].request
        other = replace(request, spec=replace(request.spec, description="another"))
        with pytest.raises(RequestIdReused):
            self.run(self.plane.groups.deploy(CALLER, other))
        with pytest.raises(AlreadyExists):
            self.run(self.plane.groups.deploy(CALLER, replace(request, request_id="")))

    @rule(uuid=consumes(uuids))
    def delete(self, uuid: str) -> None:
        """What is deleted gives everything back and is found no more."""
        with pytest.raises(Conflict):
            self.run(self.plane.groups.delete(CALLER, uuid, Ask(etag="0-0")))
        told = self.run(self.plane.delete(uuid))
        assert told[-1].group is not None
        assert told[-1].group.status is GroupStatus.DELETED
        del self.known[uuid]
        for call in (self.plane.groups.get(CALLER, uuid), self.plane.groups.delete(CALLER, uuid)):
            with pytest.raises(NotFound):
                self.run(call)

    @rule(data=st.data())
    def delete_failed(self, data: st.DataObject) -> None:
        """A group that failed holds nothing, and its deletion is one change."""
        if self.failed:
            uuid = data.draw(st.sampled_from(sorted(self.failed)))
            self.run(self.plane.delete(uuid))
            self.failed.discard(uuid)

    @rule(size=st.integers(1, 3))
    def list(self, size: int) -> None:
        """Pages show each group once."""
        shown: list[str] = []
        token = ""
        while True:
            page = self.run(self.plane.groups.list(CALLER, GroupFilter(), size, token))
            shown += [group.uuid for group in page.groups]
            token = page.next_page_token
            if not token:
                break
        assert sorted(shown) == sorted({*self.known, *self.failed})
        assert len(shown) == len(set(shown))

    @invariant()
    def agrees(self) -> None:
        """Database and hosts hold what the model holds."""
        if not hasattr(self, "plane"):
            return
        left = self.free()
        used = self.run(self.plane.used())
        assert used == {host(n).name: VCPU - left[host(n).uuid] for n in range(1, HOSTS + 1)}
        assert len(self.plane.machines()) == sum(len(group.hosts) for group in self.known.values())
        for uuid in self.known:
            assert self.run(self.plane.groups.get(CALLER, uuid)).status is GroupStatus.RUNNING


def _run(url: Callable[[], str], sequences: int) -> None:
    machine = type("Machine", (ApiMachine,), {"url": staticmethod(url)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_any_sequence_of_calls_answers_as_the_model_does_on_sqlite() -> None:
    _run(lambda: "sqlite://", SEQUENCES)


def test_any_sequence_of_calls_answers_as_the_model_does_on_postgresql(postgres: Postgres) -> None:
    template = postgres.create_database()
    store = Store(postgres.url(template))
    upgrade(store.engine)
    store.close()
    made: list[str] = []

    def fresh() -> str:
        made.append(postgres.create_database(template))
        return postgres.url(made[-1])

    _run(fresh, max(1, SEQUENCES // 2))
    for name in (*made, template):
        postgres.drop_database(name)
