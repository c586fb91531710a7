"""Mishaps of what everything stands on: disks that are full, clocks that jump."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator

import grpc
from corral.v1 import group_pb2

from tests.concurrency.replicas import deploy
from tests.faults.clients import MEMORY
from tests.faults.signs import Expected, Sign, event, now
from tests.faults.site import Site, wait

HOUR = 3600.0
_FAIL = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_FAIL_GROUP)


def database_full(site: Site) -> Iterator[Expected]:
    """The disk of the database has no room left, for some time."""
    operator = site.operator
    refusal: list[str] = []

    def refused() -> bool:
        """Whether a deploy is refused, in words that name the cause."""
        group = uuid.uuid4().hex
        try:
            for _ in operator.groups.DeployDistributedModelService(deploy(group, memory=MEMORY), timeout=20):
                break
            site.delete(group)
        except grpc.RpcError as error:
            refusal.append(f"{error.code().name}: {error.details()}")
            return error.code() is grpc.StatusCode.UNAVAILABLE and "space" in str(error.details())
        return False

    began = now()
    site.store.fill()
    signs = [
        Sign("a deploy is refused: no space", refused),
        Sign("/healthz: NOT_SERVING, store: no space", lambda: _unhealthy(site)),
    ]
    try:
        yield Expected(began, signs, 5)
    finally:
        site.store.free()
    wait(lambda: operator.get("/healthz")[0] == 200, f"the service to be healthy again after {refusal[-1:]}")
    site.delete(site.launch())


def _unhealthy(site: Site) -> bool:
    status, body = site.operator.get("/healthz")
    return status == 503 and "space" in body


def pool_full(site: Site) -> Iterator[Expected]:
    """The storage pools of all hypervisors are full when a group is deployed."""
    full = list(site.lab)
    for hypervisor in full:
        hypervisor.fill_pool()
    began = now()
    try:
        group, final = site.deploy(1, failure_policy=_FAIL)
        said = Sign("event and reason: “storage pool is full”", lambda: "storage pool is full" in final.reason)
        yield Expected(began, [said])
        assert final.status == "Failed"
    finally:
        for hypervisor in full:
            hypervisor.free_pool()
    site.delete(group)
    site.delete(site.launch())


def _step(site: Site, seconds: float) -> None:
    site.store.step_clock(seconds)
    for replica in site.replicas:
        replica.step_clock(seconds)


def _lose_one(site: Site) -> None:
    """A member's QEMU ends while nobody of the service is there to hear of it."""
    site.stop()
    member = site.random.choice(site.members(site.steady))
    name = f"corral-{member.instance}-{member.attempt}"
    site.census.let_go(member.host, name)
    site.hypervisor(member.host).signal_guest(name, signal.SIGKILL)


def clock_forward(site: Site) -> Iterator[Expected]:
    """The clock is an hour ahead for some time. When it is set right no group sleeps for that hour."""
    _step(site, HOUR)
    wait(lambda: _all_put_off(site), "the groups to have put off their next look by the clock as it is")
    _lose_one(site)
    _step(site, 0.0)
    began = now()
    site.start()
    yield Expected(began, [event(site, site.steady, "its machine")])


def _all_put_off(site: Site) -> bool:
    ((first,),) = site.store.query("SELECT min(due_at) FROM groups WHERE phase = 'running'")
    return float(first) / 1000 > time.time() + HOUR / 2


def clock_back(site: Site) -> Iterator[Expected]:
    """The clock is set back by an hour, and stays so for some time."""
    _step(site, -HOUR)
    _lose_one(site)
    began = now()
    site.start()
    yield Expected(began, [event(site, site.steady, "its machine")])
    _step(site, 0.0)


def clock_in_a_boot(site: Site) -> Iterator[Expected]:
    """The clock leaps an hour ahead while a guest boots, and is set right while another one does: both come up."""
    told, before = "corral_clock_jumps_total", _leaps(site)
    try:
        first = site.launch()
        site.census.keep()
        _step(site, HOUR)
        began = now()
        leapt = Sign(f'{told}{{direction="ahead"}}', lambda: _leaps(site) > before)
        yield Expected(began, [leapt], 15)
        _comes_up(site, first)
        second = site.launch()
        site.census.keep()
    finally:
        _step(site, 0.0)
    _comes_up(site, second)
    site.delete(first)
    site.delete(second)


def _leaps(site: Site) -> float:
    return min(operator.metric("corral_clock_jumps_total", direction="ahead") for operator in site.operators)


def _comes_up(site: Site, group: str) -> None:
    """It ends its deploy as Running, by its first machine: the census misses one that is replaced."""
    wait(lambda: getattr(site.operator.group(group), "status", "") in ("Running", "Failed"), "the end of a boot")
    found = site.operator.group(group)
    assert found.status == "Running", f"a boot ended as {found.status}: {found.reason}"
