"""A process is only said to have ended where this machine's process table proves it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from service.reconcile.owners import LeaseReaper, has_ended, owner_name
from service.store import groups
from service.store.engine import Store
from tests.lab.namespaces import wait_until
from tests.support import ROOT
from tests.support.builders import group
from tests.support.schema import migrated

_SAY_NAME = """
import sys
from service.reconcile.owners import owner_name
print(owner_name(), flush=True)
sys.stdin.read()
"""


def _other_process() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SAY_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_names_differ_even_within_a_process() -> None:
    assert owner_name() != owner_name()


def test_this_process_has_not_ended() -> None:
    assert not has_ended(owner_name())


def test_a_killed_process_has_ended_even_before_it_is_reaped() -> None:
    process, name = _other_process()
    try:
        assert not has_ended(name)
        process.kill()
        assert process.stdout is not None
        process.stdout.read()  # its end of the pipe closes when it ends
        wait_until(lambda: has_ended(name), 60, "the kernel to end the process")
    finally:
        process.communicate()
    assert has_ended(name)


def test_another_process_under_the_same_pid_is_not_the_owner() -> None:
    place, pid, started, tail = owner_name().split("/")
    assert has_ended(f"{place}/{pid}/{int(started) - 1}/{tail}")


@pytest.mark.parametrize(
    "change",
    [
        lambda place, rest: f"another-boot:pid:[1]/{rest}",
        lambda place, rest: f"{place}/not-a-pid/1/x",
        lambda place, rest: f"/{rest}",
        lambda place, rest: "host-1-2-3",
        lambda place, rest: "",
    ],
)
def test_of_processes_elsewhere_nothing_is_concluded(change: object) -> None:
    place, _, rest = owner_name().partition("/")
    assert callable(change)
    assert not has_ended(change(place, rest))


def test_groups_of_an_ended_process_are_free_at_once_and_others_are_not() -> None:
    process, gone = _other_process()
    process.kill()
    process.communicate()

    async def scenario() -> list[tuple[str, int]]:
        store = Store("sqlite://", inline=True)
        migrated(store.engine)
        for number, owner in enumerate((gone, owner_name(), "some-other-machine")):
            made = group(0, uuid=f"{number:032x}")
            await store.write(lambda c, g=made: groups.create(c, g, due_at=0))  # type: ignore[misc]
            await store.write(lambda c, o=owner: groups.take_due(c, o, 1, 1 << 60, 1))  # type: ignore[misc]
        ended: list[int] = []
        await LeaseReaper(store, lambda: ended.append(1)).once()
        assert ended == [1]
        taken = await store.write(lambda c: groups.take_due(c, "heir", 2, 1000, 9))
        store.close()
        return [(lease.uuid, lease.epoch) for lease in taken]

    assert asyncio.run(scenario()) == [(f"{0:032x}", 2)]
