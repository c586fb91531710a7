"""Readiness that a member's host is asked for: by the guest agent, and by a line of the console."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.catalog import ModelService
from service.domain.groups import GroupStatus
from service.domain.specs import DeployRequest
from service.drivers.base import HostRejected, LogPiece, LogSource, MachineIdentity, ObservedMachine
from service.drivers.simulated import SimulatedDriver, SimulatedHost
from service.errors import DeployFailed
from service.lifecycle.effects import Observe
from service.lifecycle.facts import Observation, Observed
from service.reconcile.host_checks import MOST_LINE, has_text
from service.reconcile.outcomes import Sends
from tests.service.reconcile.test_readiness import reached
from tests.support.builders import entry, host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests in which nothing of Corral's runs: they report nothing."""
    as_it_is = SimulatedHost.seen
    monkeypatch.setattr(SimulatedHost, "seen", lambda of, m: replace(as_it_is(of, m), report=None))


class Agent:
    """What a guest's agent does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: bool | HostRejected = False
        self.asked = 0
        monkeypatch.setattr(SimulatedDriver, "agent_answers", self.told)

    async def told(self, *_: object, budget_seconds: float) -> bool:
        self.asked += 1
        if isinstance(self.answers, HostRejected):
            raise self.answers
        return self.answers


def one(**fields: object) -> ModelService:
    return entry(readiness_interval_ms=1, **fields)


async def until(seen: Callable[[], bool], again: Callable[[], object] = lambda: None) -> None:
    """Waits until that is seen; does `again` meanwhile."""
    async with asyncio.timeout(60):
        while not seen():  # nothing tells
            again()
            await asyncio.sleep(0.01)


async def begun(plane: ControlPlane) -> tuple[str, SimulatedDriver, MachineIdentity]:
    """A group of one whose machine runs: its uuid, its host's driver, its machine."""
    started = await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
    driver = next(iter(plane.drivers.values()))
    await until(lambda: any(m.resumed_at for m in plane.machines()))
    (machine,) = driver.host.machines.values()
    return started.group.uuid, driver, machine.identity


async def why(plane: ControlPlane, uuid: str, words: str) -> None:
    """Waits until the member's reason has the words."""
    async with asyncio.timeout(60):
        while words not in (await plane.groups.get(CALLER, uuid)).instances[0].reason:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("quiet")
async def test_a_guest_without_anything_of_corrals_is_ready_while_its_agent_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent(monkeypatch)
    async with control_plane(hosts=[host(1)], catalogue=[one(readiness_kind="agent")]) as plane:
        uuid, driver, machine = await begun(plane)
        await until(lambda: agent.asked >= 3, lambda: driver._hint(machine))
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.SERVICE_BOOTING_UP
        agent.answers = True
        driver._hint(machine)
        await reached(plane, uuid, GroupStatus.RUNNING)
        agent.answers = False
        driver._hint(machine)
        worse = await reached(plane, uuid, GroupStatus.DEGRADED)
        assert worse.instances[0].reason.startswith("its guest agent does not answer")
        agent.answers = True
        driver._hint(machine)
        well = await reached(plane, uuid, GroupStatus.RUNNING)
        assert (well.instances[0].reason, well.instances[0].attempt) == ("", 1)


@pytest.mark.usefixtures("quiet")
async def test_an_agent_that_hangs_is_noticed_without_any_sign_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group at rest is looked at by its host's listing, which knows nothing of an agent."""
    agent = Agent(monkeypatch)
    agent.answers = True
    async with control_plane(hosts=[host(1)], catalogue=[one(readiness_kind="agent")], sweeps=True) as plane:
        uuid, _, _ = await begun(plane)
        await reached(plane, uuid, GroupStatus.RUNNING)
        agent.answers = False
        await reached(plane, uuid, GroupStatus.DEGRADED)


async def test_with_a_start_command_both_the_guest_and_its_agent_have_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch)
    served = one(readiness_kind="agent", initial_command="serve")
    async with control_plane(hosts=[host(1)], catalogue=[served]) as plane:
        uuid, driver, machine = await begun(plane)
        await until(lambda: agent.asked >= 2, lambda: driver._hint(machine))
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.SERVICE_BOOTING_UP, (
            "its guest alone says ready"
        )
        agent.answers = True
        driver._hint(machine)
        await reached(plane, uuid, GroupStatus.RUNNING)
        as_it_is = SimulatedHost.seen
        monkeypatch.setattr(SimulatedHost, "seen", lambda of, m: _degraded(as_it_is(of, m)))
        driver._hint(machine)
        worse = await reached(plane, uuid, GroupStatus.DEGRADED)
        assert worse.instances[0].reason.startswith("its guest says degraded"), "its agent answers all the same"


def _degraded(seen: ObservedMachine) -> ObservedMachine:
    assert seen.report is not None
    return replace(seen, report=replace(seen.report, stage="degraded"))


@pytest.mark.usefixtures("quiet")
async def test_a_machine_without_a_way_to_its_agent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch)
    agent.answers = True
    async with control_plane(hosts=[host(1)], catalogue=[one(readiness_kind="agent")]) as plane:
        uuid, driver, machine = await begun(plane)
        await reached(plane, uuid, GroupStatus.RUNNING)
        agent.answers = HostRejected("unsupported", "the machine has no guest agent's channel")
        driver._hint(machine)
        await why(plane, uuid, "the machine has no guest agent's channel")
        agent.answers = True
        driver._hint(machine)
        await reached(plane, uuid, GroupStatus.RUNNING)
        agent.answers = HostRejected("denied", "the host does not allow the operation")
        asked = agent.asked
        driver._hint(machine)
        await until(lambda: agent.asked >= asked + 2)
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.RUNNING, "that was no answer"


class Console:
    """A console's log, and how it was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = b""
        self.reads: list[int] = []
        monkeypatch.setattr(SimulatedDriver, "read_log", self.read)

    def all_read(self) -> bool:
        return bool(self.reads) and self.reads[-1] >= len(self.text)

    async def read(
        self, _identity: MachineIdentity, _source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        self.reads.append(start)
        start = min(start, len(self.text))
        return LogPiece(start, self.text[start : start + most], len(self.text))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("earlier", "before", "then"),
    [
        (b"", b"login\r\n", b"debian login: "),
        (b"debian login: ", b"\nnoise" + b"x" * 200_000, b"\r\ndeb\xffian\r\ndebian tty login: \r\n"),
    ],
)
async def test_a_guest_is_ready_once_its_console_has_said_the_line_in_this_run(
    monkeypatch: pytest.MonkeyPatch, earlier: bytes, before: bytes, then: bytes
) -> None:
    as_it_is = SimulatedHost.seen
    monkeypatch.setattr(SimulatedHost, "seen", lambda of, m: replace(as_it_is(of, m), console_from=len(earlier)))
    console = Console(monkeypatch)
    console.text = earlier + before
    served = one(readiness_kind="serial", readiness_line="debian*login:")
    async with control_plane(hosts=[host(1)], catalogue=[served]) as plane:
        uuid, driver, machine = await begun(plane)
        await until(console.all_read, lambda: driver._hint(machine))
        assert min(console.reads) == len(earlier)
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.SERVICE_BOOTING_UP
        half = len(then) // 2
        console.text += then[:half]
        await until(console.all_read, lambda: driver._hint(machine))
        console.text += then[half:]
        driver._hint(machine)
        well = await reached(plane, uuid, GroupStatus.RUNNING)
        await plane.reconciler.stop(5.0)
        console.text, look = b"", Observe(well.instances[0].uuid, well.instances[0].attempt, 0)
        calls = plane.reconciler._context.calls
        (fact,) = (await calls.perform(well, look, Sends(), lease_left_ms=60_000, hinted=False)).facts
        assert isinstance(fact, Observed)
        assert fact.observation is Observation.READY, "what was said once stays so"


@pytest.mark.usefixtures("quiet")
async def test_a_console_that_its_host_has_cut_is_read_from_its_new_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(monkeypatch)
    console.text = b"x" * (MOST_LINE * 3)
    async with control_plane(hosts=[host(1)], catalogue=[one(readiness_kind="serial", readiness_line="up")]) as plane:
        uuid, driver, machine = await begun(plane)
        await until(console.all_read, lambda: driver._hint(machine))
        console.text = b"up\n"
        driver._hint(machine)
        await reached(plane, uuid, GroupStatus.RUNNING)


@pytest.mark.parametrize(
    "kind", [{"readiness_kind": "agent"}, {"readiness_kind": "serial", "readiness_line": "guest of start * ready"}]
)
async def test_a_simulated_hosts_guests_have_an_agent_and_a_console(kind: dict[str, str]) -> None:
    async with control_plane(hosts=[host(1)], catalogue=[one(**kind)]) as plane:
        final = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert final is not None
        assert final.status is GroupStatus.RUNNING


@pytest.mark.parametrize("kind", [{"readiness_kind": "agent"}, {"readiness_kind": "serial", "readiness_line": "x"}])
async def test_bare_metal_refuses_what_it_cannot_be_asked(kind: dict[str, str]) -> None:
    async with control_plane(hosts=[host(1)], size={"bare_metal": "yes"}, catalogue=[one(**kind)]) as plane:
        with pytest.raises(DeployFailed, match=f"bare metal has no readiness by {kind['readiness_kind']}"):
            await plane.deploy(DeployRequest(spec(1)))
        assert plane.machines() == []


TEXT = st.text(st.sampled_from("ab*"), min_size=1, max_size=6)


@given(st.text(st.sampled_from("ab"), max_size=12), TEXT)
async def test_a_star_stands_for_any_text(line: str, text: str) -> None:
    def matches(rest: str, pattern: str) -> bool:
        if not pattern:
            return True
        if pattern[0] == "*":
            return any(matches(rest[i:], pattern[1:]) for i in range(len(rest) + 1))
        return rest[:1] == pattern[0] and matches(rest[1:], pattern[1:])

    assert has_text(line, text) == any(matches(line[i:], text) for i in range(len(line) + 1))
