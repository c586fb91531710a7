"""What a guest says after it was ready, and its silence, decide whether its group is told to be Running."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace

import pytest

from service.domain.events import Event
from service.domain.groups import Group, GroupStatus, InstanceStatus
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers.base import HostRejected, MachineIdentity, MachineState, ObservedMachine
from service.drivers.reports import MOST_SILENT_SECONDS as SILENT_SECONDS
from service.drivers.reports import GuestReport
from service.drivers.simulated import SimulatedDriver, SimulatedHost
from service.drivers.simulated.host import SimulatedMachine
from service.errors import DeployFailed
from service.lifecycle.effects import Tell
from service.lifecycle.facts import Observation, Observed
from service.lifecycle.renewal import UNHEARD
from service.reconcile.outcomes import Sends
from service.reconcile.sight import UNHEARD_SECONDS, seen
from service.store import events
from tests.support.builders import group, host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane


def observation(
    status: InstanceStatus, stage: str, *, age: float = 0.0, count: int = 1, heard_for: float = math.inf
) -> tuple[Observation, str]:
    """What is made of a machine that executes and whose guest's newest report is so old. `heard_for`: s in which it
    would have been heard."""
    member = replace(group(1).instances[0], status=status)
    now = time.monotonic()
    report = GuestReport(stage, "why", 1, "", now - age, count, heard_since=now - heard_for)
    identity = MachineIdentity("c", member.group_uuid, member.uuid, 1)
    (fact,) = seen(member, ObservedMachine(identity, identity.machine_uuid, MachineState.RUNNING, "", report))
    assert isinstance(fact, Observed)
    return fact.observation, fact.reason


def test_a_last_word_is_not_true_for_ever() -> None:
    running, booting = InstanceStatus.RUNNING, InstanceStatus.BOOTING
    assert observation(running, "ready")[0] is Observation.READY
    silent, why = observation(running, "ready", age=SILENT_SECONDS + 1)
    assert silent is Observation.UNREADY
    assert "has said nothing for 15 s" in why
    assert observation(booting, "ready", age=SILENT_SECONDS + 1)[0] is Observation.EXECUTING
    assert observation(running, "ready", age=1_000, count=0)[0] is Observation.READY, "it never counted"
    for heard_for in (0.0, -math.inf):
        unheard = observation(running, "ready", age=1_000, heard_for=heard_for)
        assert unheard[0] is Observation.READY, "nobody listened: that is no silence"
    assert observation(running, "degraded") == (Observation.UNREADY, "its guest says degraded: why")
    assert observation(booting, "degraded")[0] is Observation.EXECUTING
    for status in (booting, running):
        told = observation(status, "failed")
        assert told == (Observation.GIVEN_UP, "its guest has given its engine up: why")
        assert observation(status, "failed", age=SILENT_SECONDS + 1)[0] is not Observation.GIVEN_UP


def test_which_boot_a_guest_is_in_is_believed_of_what_is_heard_now() -> None:
    member, now = replace(group(1).instances[0], status=InstanceStatus.RUNNING), time.monotonic()
    identity = MachineIdentity("c", member.group_uuid, member.uuid, 1)
    for heard_since, told in ((now - 9.0, "b-1"), (now, ""), (math.inf, "")):
        report = GuestReport("ready", "", 1, "", now - 1.0, heard_since=heard_since, boot_id="b-1")
        machine = ObservedMachine(identity, identity.machine_uuid, MachineState.RUNNING, "", report)
        (fact,) = seen(member, machine)
        assert isinstance(fact, Observed)
        assert fact.boot_id == told, "another replica may have heard of a later one"


async def reached(plane: ControlPlane, uuid: str, status: GroupStatus) -> Group:
    """The group once it is in this status."""
    async with asyncio.timeout(60):
        async for told in plane.groups.watch(CALLER, None, uuid):
            now = told if isinstance(told, Group) else told.group if isinstance(told, Event) else None
            if now is not None and now.status is status:
                return await plane.groups.get(CALLER, uuid)
    raise AssertionError(f"the watch ended before the group was {status.value}")


@pytest.mark.asyncio
async def test_a_group_whose_model_answers_wrongly_is_degraded_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(hosts=[host(1)], size={"cpu": "8"}) as plane:
        made = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert made is not None
        driver = plane.drivers[made.instances[0].host_uuid]
        (machine,) = driver.host.machines.values()
        as_it_is = SimulatedHost.seen
        bad = GuestReport("degraded", "a wrong answer: xyz", 1, "", 0.0)
        monkeypatch.setattr(SimulatedHost, "seen", lambda of, m: replace(as_it_is(of, m), report=bad))
        driver._hint(machine.identity)
        worse = await reached(plane, made.uuid, GroupStatus.DEGRADED)
        assert worse.instances[0].reason.startswith("its guest says degraded: a wrong answer: xyz")
        monkeypatch.undo()
        driver._hint(machine.identity)
        well = await reached(plane, made.uuid, GroupStatus.RUNNING)
        assert (well.instances[0].reason, well.instances[0].attempt) == ("", 1)


@pytest.mark.asyncio
async def test_what_a_guest_says_stands_in_the_failure_of_a_group_that_was_never_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_it_is = SimulatedHost.seen
    wrong = GuestReport("joining", "a wrong answer: xyz", 1, "", 0.0)
    monkeypatch.setattr(SimulatedHost, "seen", lambda of, m: replace(as_it_is(of, m), report=wrong))
    async with control_plane(hosts=[host(1)], size={"cpu": "8"}) as plane:
        nodes = tuple(replace(one, timeout_ms=300) for one in spec(1).nodes)
        asked = spec(1, nodes=nodes, failure_policy=FailurePolicy.FAIL_GROUP)
        with pytest.raises(DeployFailed, match="its guest says joining: a wrong answer: xyz"):
            await plane.deploy(DeployRequest(asked))


@pytest.mark.asyncio
async def test_an_engine_that_its_guest_has_given_up_costs_the_budget_once_and_its_machine_starts_again_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=[host(1)], size={"cpu": "8"}) as plane:
        policy = FailurePolicy.RESTART_MEMBER
        made = (await plane.deploy(DeployRequest(spec(1, failure_policy=policy))))[-1].group
        assert made is not None
        driver = plane.drivers[made.instances[0].host_uuid]
        (machine,) = driver.host.machines.values()
        first_run, as_it_is = machine.resumed_at, SimulatedHost.seen
        failed = GuestReport("failed", "started again 5 times: status 7", 1, "", 0.0)

        def seen_failed(of: SimulatedHost, m: SimulatedMachine) -> ObservedMachine:
            seen = as_it_is(of, m)
            return replace(seen, report=failed) if m.resumed_at == first_run and seen.report else seen

        monkeypatch.setattr(SimulatedHost, "seen", seen_failed)
        driver._hint(machine.identity)
        worse = await reached(plane, made.uuid, GroupStatus.DEGRADED)
        assert "its guest has given its engine up: started again 5 times: status 7" in worse.reason
        well = await reached(plane, made.uuid, GroupStatus.RUNNING)
        member = well.instances[0]
        assert (well.failures, member.attempt, member.restarts) == (1, 1, 1), "on the disks that it has"
        assert machine.identity.machine_uuid in driver.host.machines
        told = await plane.store.read(lambda c: events.of_group(c, made.uuid, 0, 1_000))
        assert any(e.instance is not None and "given its engine up" in e.instance.reason for e in told)


@pytest.mark.asyncio
async def test_a_member_that_another_client_hears_is_heard_here_and_one_that_nobody_can_hear_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=[host(1)], size={"cpu": "8"}) as plane:
        made = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert made is not None
        driver = plane.drivers[made.instances[0].host_uuid]
        (machine,) = driver.host.machines.values()
        as_it_is, refused, asked = SimulatedHost.seen, True, 0

        def seen_unheard(of: SimulatedHost, m: object) -> ObservedMachine:
            long = UNHEARD_SECONDS + 1 if refused else 0.0
            return replace(as_it_is(of, m), report=None, unheard_seconds=long)  # type: ignore[arg-type]

        async def hear(_driver: SimulatedDriver, _identity: MachineIdentity, *, budget_seconds: float) -> None:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise HostRejected("absent", "the guest's progress channel cannot be read")

        monkeypatch.setattr(SimulatedHost, "seen", seen_unheard)
        monkeypatch.setattr(SimulatedDriver, "hear", hear)

        async def reason(words: str) -> Group:
            async with asyncio.timeout(60):
                while (now := await plane.groups.get(CALLER, made.uuid)).instances[0].reason != words:
                    driver._hint(machine.identity)
                    await asyncio.sleep(0.01)
            return now

        told = await reason(UNHEARD)
        assert told.status is GroupStatus.RUNNING, "that nobody hears it does not say that it is unwell"
        assert (await reason("")).instances[0].attempt == 1
        assert asked >= 3, "it was taken over from whoever read it"


@pytest.mark.asyncio
async def test_a_member_that_cannot_be_told_because_it_is_gone_is_seen_to_be() -> None:
    """It would otherwise be told, and taken to run, for ever."""
    async with control_plane(hosts=[host(1)]) as plane:
        made = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert made is not None
        (member,) = made.instances
        driver = plane.drivers[member.host_uuid]
        await plane.reconciler.stop(5.0)
        calls, tell = plane.reconciler._context.calls, Tell(member.uuid, member.attempt, 1)

        async def told() -> list[Observation]:
            result = await calls.perform(made, tell, Sends(), lease_left_ms=60_000, hinted=False)
            return [fact.observation for fact in result.facts if isinstance(fact, Observed)]

        assert await told() == [Observation.READY]
        (machine,) = driver.host.machines.values()
        machine.state = MachineState.STOPPED
        assert await told() == [Observation.HALTED]
        driver.host.machines.clear()
        assert await told() == [Observation.GONE]
