"""What a host has answered is not asked of it again; what may not have been remembered may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.simulation.hosts import PAUSED, RUNNING, Machine
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.repeats import Repeats

LEASE = ("group", 3)
MACHINE = Machine("machine", "group", "instance", 1, PAUSED)


@pytest.fixture
def found() -> list[str]:
    return []


@pytest.fixture
def repeats(found: list[str]) -> Repeats:
    return Repeats(lambda invariant, text: found.append(f"{invariant} {text}"))


@pytest.fixture
def process() -> Iterator[Process]:
    loop = SimulatedLoop()
    yield Process("r0.1", loop)
    loop.bury()


def test_a_machine_that_was_made_is_not_made_again(repeats: Repeats, process: Process, found: list[str]) -> None:
    repeats.asked("create", LEASE, None, process)
    repeats.answered("create", LEASE, MACHINE, process)
    assert found == []
    repeats.asked("create", LEASE, MACHINE, process)
    assert len(found) == 1
    assert found[0].startswith("I23 create of instance")


@pytest.mark.parametrize("why", ["it changed", "another epoch", "another call", "the database was in trouble", "gone"])
def test_what_is_not_as_it_was_left_may_be_asked_for(
    repeats: Repeats, process: Process, found: list[str], why: str
) -> None:
    repeats.answered("create", LEASE, MACHINE, process)
    process.troubles += why == "the database was in trouble"
    lease = ("group", 4) if why == "another epoch" else LEASE
    there = {"it changed": replace(MACHINE, state=RUNNING), "gone": None}.get(why, MACHINE)
    repeats.asked("resume" if why == "another call" else "create", lease, there, process)
    assert found == []
