"""Planner processes: the same answers as in this process, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from placement.constraints import Apart, AtMost, Scope, Selector, SpreadOver
from placement.model import Decision, Host, Node, Policy, Request, Snapshot, Status, Strategy
from service.errors import Unavailable
from service.planning.planner import InlinePlanner, Planned, Planner
from service.planning.pool import PoolPlanner
from service.telemetry.metrics import Metrics
from tests.support import ROOT

SNAPSHOT = Snapshot(tuple(Host(f"h{i}", "z", {"vcpu": 8}) for i in range(3)))
REQUEST = Request((Node("n", {"vcpu": 3}, count=5),))


ENDLESS = Policy(branches=100_000_000)


def minutes_of_work() -> tuple[Snapshot, Request]:
    """A gang whose proof takes minutes."""
    r = random.Random(5)
    hosts = tuple(
        Host(f"h{i}", "z", {"vcpu": r.randint(7, 40), "memory": r.randint(11, 90)}, {}, f"r{i % 7}") for i in range(40)
    )
    nodes = tuple(
        Node(f"n{i}", {"vcpu": r.randint(2, 13), "memory": r.randint(3, 29)}, labels={"g": r.choice("abc")})
        for i in range(60)
    )
    first, second = Selector(labels={"g": "a"}), Selector(labels={"g": "b"})
    rules = (
        AtMost(first, 3, Scope.RACK),
        Apart(first, second, Scope.HOST, 2),
        SpreadOver(Selector(), Scope.RACK, 6, 3),
    )
    return Snapshot(hosts), Request(nodes, Strategy.CLOSE, rules)


@pytest.mark.asyncio
async def test_one_projects_hard_plans_do_not_queue_anothers() -> None:
    """Each of the hard ones takes its whole budget; in their order the easy one would wait for all of them."""
    planner = PoolPlanner(2)
    try:
        await planner.warm()
        snapshot, request = minutes_of_work()
        hard = [
            asyncio.create_task(planner.place(snapshot, request, ENDLESS, budget_seconds=600, project="a"))
            for _ in range(4)
        ]
        await asyncio.sleep(0)
        easy = await planner.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=60, project="b")
        assert easy.decision.status is Status.PLACED
        assert not any(task.done() for task in hard), "the easy plan waited for a hard one"
        for task in hard:
            task.cancel()
        await asyncio.gather(*hard, return_exceptions=True)
    finally:
        planner.close()


async def place(planner: Planner, snapshot: Snapshot) -> Decision:
    return (await planner.place(snapshot, REQUEST, Policy(), budget_seconds=60)).decision


def told(metrics: Metrics) -> tuple[float, float]:
    """How often processes were told the whole fleet, and changes alone."""
    full, changes = (
        metrics.registry.get_sample_value("corral_planner_snapshots_total", {"kind": kind}) or 0
        for kind in ("full", "changes")
    )
    return full, changes


def given_up(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("corral_plans_given_up_total", {"outcome": outcome}) or 0


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; fails after two minutes."""
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110  # another process's state tells no event
            await asyncio.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def workers() -> set[int]:
    """The planner processes of this one."""
    found = set()
    for pid in children(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def solvers_of(process: int) -> set[str]:
    """The solvers' libraries that are in this process's memory."""
    loaded = Path(f"/proc/{process}/maps").read_text()
    return {name for name in ("pywraplp", "cp_model_helper") if name in loaded}


@asynccontextmanager
async def pool_of(size: int, metrics: Metrics | None = None) -> AsyncIterator[PoolPlanner]:
    """A pool whose processes are gone afterwards."""
    before = workers()
    pool = PoolPlanner(size, metrics)
    try:
        yield pool
    finally:
        pool.close()
        await until(lambda: workers() <= before)


@pytest.mark.asyncio
async def test_a_worker_process_decides_as_this_one_would() -> None:
    async with pool_of(1) as pool:
        there = await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        here = await InlinePlanner().place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        assert there.decision == here.decision
        assert there.decision.status is Status.PLACED


@pytest.mark.asyncio
async def test_a_worker_that_is_killed_costs_its_plan_alone() -> None:
    others = workers()
    async with pool_of(1) as pool:
        await pool.warm()
        os.kill(next(iter(workers() - others)), signal.SIGKILL)
        with pytest.raises(Unavailable):
            await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        again = await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        assert again.decision.status is Status.PLACED


@pytest.mark.asyncio
async def test_processes_that_are_warm_have_loaded_the_solvers() -> None:
    others = workers()
    async with pool_of(2) as pool:
        await pool.warm()
        for process in workers() - others:
            assert solvers_of(process) == {"pywraplp", "cp_model_helper"}


@pytest.mark.asyncio
async def test_each_process_is_told_the_fleet_once_and_then_what_changed() -> None:
    metrics, others = Metrics(), workers()
    async with pool_of(2, metrics) as pool:
        await asyncio.gather(*(place(pool, SNAPSHOT) for _ in range(2)))
        assert told(metrics) == (2, 0)
        later = SNAPSHOT.updated([replace(SNAPSHOT.hosts[0], used={"vcpu": 7})])
        one, other = await asyncio.gather(place(pool, later), place(pool, SNAPSHOT))
        assert told(metrics) == (2, 2)
        assert [one, other] == [await place(InlinePlanner(), fleet) for fleet in (later, SNAPSHOT)]
        sent = metrics.registry.get_sample_value("corral_planner_snapshot_bytes_total", {"kind": "changes"})
        assert sent is not None
        assert sent > 0
        os.kill(next(iter(workers() - others)), signal.SIGKILL)
        after = await asyncio.gather(*(place(pool, later) for _ in range(2)), return_exceptions=True)
        assert sorted(isinstance(answer, Unavailable) for answer in after) == [False, True]
        assert await asyncio.gather(*(place(pool, later) for _ in range(2))) == [one, one]
        assert told(metrics)[0] >= 3  # the successor of the process that died


@pytest.mark.asyncio
async def test_a_plan_ends_soon_after_its_caller_went_away() -> None:
    metrics, others = Metrics(), workers()
    async with pool_of(1, metrics) as pool:
        await pool.warm()
        (process,) = workers() - others
        snapshot, request = minutes_of_work()
        before = cpu_seconds(process)
        endless = asyncio.create_task(pool.place(snapshot, request, ENDLESS, budget_seconds=3600))
        await until(lambda: cpu_seconds(process) > before + 0.5)
        assert not endless.done()
        endless.cancel()
        await asyncio.wait([endless])
        assert endless.cancelled()
        again = await place(pool, SNAPSHOT)
        assert again == await place(InlinePlanner(), SNAPSHOT)
        assert given_up(metrics, "stopped") == 1
        assert workers() - others == {process}


@pytest.mark.asyncio
async def test_a_caller_that_goes_away_while_it_waits_for_its_turn_costs_nothing() -> None:
    metrics = Metrics()
    async with pool_of(1, metrics) as pool:
        running, waiting = (asyncio.create_task(place(pool, SNAPSHOT)) for _ in range(2))
        await until(lambda: told(metrics) == (1, 0))
        waiting.cancel()
        await running
        assert told(metrics) == (1, 0)
        await place(pool, SNAPSHOT)
        assert (given_up(metrics, "stopped"), given_up(metrics, "finished")) == (0, 0)


@pytest.mark.asyncio
async def test_a_budget_that_is_used_up_ends_the_plan_with_the_best_found() -> None:
    async with pool_of(1) as pool:
        snapshot, request = minutes_of_work()
        planned = await pool.place(snapshot, request, ENDLESS, budget_seconds=3)
        assert planned.decision.stopped


@pytest.mark.asyncio
async def test_waiting_for_a_process_costs_none_of_the_budget_but_all_of_the_callers_time() -> None:
    async with pool_of(1) as pool:
        snapshot, request = minutes_of_work()
        busy = asyncio.create_task(pool.place(snapshot, request, ENDLESS, budget_seconds=6))
        await asyncio.sleep(0)
        patient = asyncio.create_task(pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=5))
        late = pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=60, answer_by=time.monotonic() + 1)
        first, second, third = await asyncio.gather(busy, patient, late)
        assert first.decision.stopped
        assert not second.decision.stopped
        assert third.decision.stopped


@pytest.mark.asyncio
async def test_plans_in_progress_and_later_ones_are_unavailable_once_the_pool_is_closed() -> None:
    metrics = Metrics()
    async with pool_of(1, metrics) as pool:
        snapshot, request = minutes_of_work()
        endless = asyncio.create_task(pool.place(snapshot, request, ENDLESS, budget_seconds=3600))
        await until(lambda: told(metrics) == (1, 0))
        waiting = asyncio.create_task(place(pool, SNAPSHOT))
        pool.close()
        first, second = await asyncio.gather(endless, waiting, return_exceptions=True)
        assert isinstance(first, Unavailable) or (isinstance(first, Planned) and first.decision.stopped)
        assert isinstance(second, Unavailable)
        with pytest.raises(Unavailable):
            await place(pool, SNAPSHOT)


def test_workers_end_with_a_service_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from service.planning.pool import PoolPlanner\n"
        "async def main():\n"
        "    await PoolPlanner(2).warm()\n"
        "    print('warm', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    script = tmp_path / "planner_for_test.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    service = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == b"warm\n"
        theirs = children(service.pid)
        assert len(theirs) >= 2
    finally:
        service.kill()
        service.wait()
        assert service.stdout is not None
        service.stdout.close()
    deadline = time.monotonic() + 30
    while alive(theirs) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(theirs) == set()


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie is dead."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.add(pid)
    return found
