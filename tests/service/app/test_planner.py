"""Planner processes: the same answers as in this process, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from placement.model import Host, Node, Policy, Request, Snapshot, Status
from service.app.planner import InlinePlanner, PoolPlanner
from service.errors import Unavailable

ROOT = Path(__file__).resolve().parents[3]
SNAPSHOT = Snapshot(tuple(Host(f"h{i}", "z", {"vcpu": 8}) for i in range(3)))
REQUEST = Request((Node("n", {"vcpu": 3}, count=5),))


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def worker_of(pid: int) -> int:
    return next(p for p in children(pid) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes())


@pytest.mark.asyncio
async def test_a_worker_process_decides_as_this_one_would() -> None:
    pool = PoolPlanner(1)
    try:
        there = await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        here = await InlinePlanner().place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        assert there.decision == here.decision
        assert there.decision.status is Status.PLACED
    finally:
        pool.close()


@pytest.mark.asyncio
async def test_a_worker_that_is_killed_costs_its_plan_alone() -> None:
    pool = PoolPlanner(1)
    try:
        await pool.warm()
        os.kill(worker_of(os.getpid()), signal.SIGKILL)
        with pytest.raises(Unavailable):
            await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        again = await pool.place(SNAPSHOT, REQUEST, Policy(), budget_seconds=10)
        assert again.decision.status is Status.PLACED
    finally:
        pool.close()


def test_workers_end_with_a_service_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from service.app.planner import PoolPlanner\n"
        "async def main():\n"
        "    await PoolPlanner(2).warm()\n"
        "    print('warm', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    script = ROOT / ".cache" / "planner_for_test.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    service = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == b"warm\n"
        workers = children(service.pid)
        assert len(workers) >= 2
    finally:
        service.kill()
        service.wait()
        assert service.stdout is not None
        service.stdout.close()
        script.unlink()
    deadline = time.monotonic() + 30
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(workers) == set()


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
