"""Rows that take their time: a machine with far too much to do, and a member that comes back from the past."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import grpc
from corral.v1 import fleet_pb2, group_pb2

from tests.lab.namespaces import wait_until
from tests.serving.harm import WORKER, Harm
from tests.serving.observer import Observer
from tests.serving.oracle import LETTERS
from tests.serving.site import Site, told

TIMES = 8
"""Processes that want to run for each processor."""
LONG_LETTERS = 64
SHARE = 0.3
"""Of the time, for how long a caller's long request holds the model, so that canaries wait behind it."""
ANSWER_SECONDS = 300.0
WAIT_SECONDS = 180.0
WHOLE_SECONDS = 4.0
WATCHED_SECONDS = 20.0


def restarted_for_being_busy(place: Site, group: group_pb2.InstanceGroup, seconds: float) -> tuple[Sequence[str], str]:
    """With eight processes that want to run for each processor, and callers for whom canaries wait: nothing is started
    again, and every answer is right. What was wrong, and what there was, in words."""
    before, wrong, times = _starts(place, group.uuid), [], []
    with _crowd() as added:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            prompt, began = random.choice(LETTERS), time.monotonic()
            try:
                answer = place.ask(group, prompt, LONG_LETTERS, timeout=ANSWER_SECONDS)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                wrong.append(f"a request was not answered: {type(error).__name__}: {error}")
                continue
            times.append(time.monotonic() - began)
            if answer != place.model.ring.completion(prompt, LONG_LETTERS):
                wrong.append(f"{prompt} was answered by {answer}")
            time.sleep(times[-1] * (1 - SHARE) / SHARE)
    after = _starts(place, group.uuid)
    wrong += [f"{name} was {before[name]} and is {after[name]}" for name in before if after[name] != before[name]]
    slowest = f", the slowest in {max(times):.0f} s" if times else ""
    return wrong, f"{seconds:.0f} s with {added} busy processes more: {len(times)} long requests{slowest}"


def _starts(place: Site, uuid: str) -> dict[str, object]:
    """What tells that anything of the group was started again."""
    members = place.get(uuid).instances
    found: dict[str, object] = {f"rank {n}": (m.attempt, m.engine_restarts) for n, m in enumerate(members)}
    return {**found, "the epoch": told(place.lab, members[0].addresses[0])["CORRAL_GROUP_EPOCH"]}


@contextmanager
def _crowd() -> Iterator[int]:
    """As many busy processes as are missing to the crowd: others may be at work on this machine."""
    missing = max(0, TIMES * (os.cpu_count() or 1) - int(os.getloadavg()[0]))
    made = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(missing)]
    try:
        yield missing
    finally:
        for one in made:
            one.kill()
        for one in made:
            one.wait()


def answered_from_the_past(place: Site, group: group_pb2.InstanceGroup) -> tuple[Sequence[str], float]:
    """A worker stands still on a host that nobody reaches, is placed anew by its operator's word, and then goes on: it
    answers nobody, and goes as soon as its host is reached. What was wrong, and after how many seconds it was gone."""
    before = place.get(group.uuid)
    harm, wrong = Harm(place, before), []
    hypervisor, name = harm.hypervisor(WORKER), harm.name(WORKER)
    host = before.instances[WORKER].host_name
    hypervisor.kill_daemon()
    harm.machine(WORKER, signal.SIGSTOP)
    wait_until(lambda: _host(place, host).status == "Disconnected", WAIT_SECONDS, f"{host} to be missed")
    place.corral.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=_host(place, host).uuid), timeout=60)
    with Observer(place, group.uuid, before.instances[0].addresses[0]) as seen:
        if not seen.settled(WHOLE_SECONDS, WAIT_SECONDS):
            return [f"the group was not whole without its worker: {seen.status()}"], 0.0
        hypervisor.signal_guest(name, signal.SIGCONT)
        began = time.monotonic()
        threading.Event().wait(WATCHED_SECONDS)
        if name not in hypervisor.guests():
            wrong.append("the machine from the past did not run")
        if not seen.settled(WHOLE_SECONDS, WAIT_SECONDS):
            wrong.append(f"the group is not whole beside the machine from the past: {seen.status()}")
        hypervisor.start_daemon()
        reached = time.monotonic()
        with suppress(TimeoutError):
            wait_until(lambda: name not in hypervisor.guests(), WAIT_SECONDS, "it to go")
        if name in hypervisor.guests():
            wrong.append("the machine from the past is still there")
        gone = time.monotonic() - reached
        if not seen.settled(WHOLE_SECONDS, WAIT_SECONDS):
            wrong.append(f"the group is not whole after it: {seen.status()}")
        wrong += [what for at, what in seen.wrong if at > began]
    wait_until(lambda: _enabled(place, host), WAIT_SECONDS, f"{host} to be in service again")
    return wrong, gone


def _enabled(place: Site, name: str) -> bool:
    """Whether the host takes members again, which it does once it was seen without what it had."""
    try:
        place.corral.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=_host(place, name).uuid), timeout=30)
    except grpc.RpcError:
        return False
    return _host(place, name).status == "Connected"


def _host(place: Site, name: str) -> fleet_pb2.Host:
    answer = place.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest(), timeout=30)
    return next(host for host in answer.inventories if host.name == name)
