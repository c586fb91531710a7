"""What is looked at beside the faults.

Every worker does its part; members go by the documents of the group as it stands; a model that answers wrongly never
runs; and a fault before the first answer heals as any other.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import time
from collections.abc import Sequence

import grpc
from corral.v1 import group_pb2

from tests.serving.harm import WORKER, Harm
from tests.serving.oracle import LETTERS, WIDTH
from tests.serving.site import BROKEN, Site, told

COUNT = 48
HANGS_SECONDS = 3.0
BROKEN_MS = 60_000
FLOAT = 4


def idle_worker(place: Site, group: group_pb2.InstanceGroup) -> Sequence[str]:
    """Each worker had its part in a completion: by the bytes over the lab's switch, which has to carry a vector to and
    from it for each letter, and because there is no answer while its machine stands still."""
    wrong, harm = [], Harm(place, group)
    for rank in range(1, len(group.instances)):
        port = f"port{harm.hypervisor(rank).index}"
        prompt = random.choice(LETTERS)
        before = _carried(place, port)
        if place.ask(group, prompt, COUNT, timeout=120) != place.model.ring.completion(prompt, COUNT):
            wrong.append("a completion is not right")
        least = COUNT * WIDTH * FLOAT
        for way, number in zip(("from", "to"), _carried(place, port), strict=True):
            moved = number - before[("from", "to").index(way)]
            if moved < least:
                wrong.append(f"rank {rank}: {moved} bytes {way} it for {COUNT} letters, less than {least}")
        harm.machine(rank, signal.SIGSTOP)
        try:
            answer = place.ask(group, prompt, 3, timeout=HANGS_SECONDS)
            wrong.append(f"rank {rank} stands still, and the group answers {answer}")
        except (OSError, http.client.HTTPException):
            pass  # as it has to be
        finally:
            harm.machine(rank, signal.SIGCONT)
    return wrong


def _carried(place: Site, port: str) -> tuple[int, int]:
    """Bytes from and to the hypervisor at this port of the lab's switch."""
    (found,) = json.loads(place.lab.switch.run("ip", "-json", "-statistics", "link", "show", port))
    statistics = found["stats64"]
    return statistics["rx"]["bytes"], statistics["tx"]["bytes"]


def other_documents(place: Site, group: group_pb2.InstanceGroup) -> Sequence[str]:
    """Each member goes by the documents of the group as its inventory has it: peers, leader, names, one epoch."""
    members = place.get(group.uuid).instances
    addresses = [member.addresses[0] for member in members]
    epochs, wrong = set(), []
    for rank, address in enumerate(addresses):
        found = told(place.lab, address)
        epochs.add(found["CORRAL_GROUP_EPOCH"])
        expected = {
            "CORRAL_GROUP_UUID": group.uuid,
            "CORRAL_NODE_RANK": str(rank),
            "CORRAL_PEERS": " ".join(addresses),
            "CORRAL_LEADER_ADDRESS": addresses[0],
        }
        for name, value in expected.items():
            if found.get(name) != value:
                wrong.append(f"rank {rank}: {name} is {found.get(name)} and not {value}")
        there = [line.split()[0] for line in found["hosts"].splitlines() if line.split()]
        wrong += [f"rank {rank}: {other} is not in its hosts" for other in addresses if other not in there]
    if len(epochs) != 1:
        wrong.append(f"members go by epochs {', '.join(sorted(epochs))}")
    return wrong


def believed(place: Site) -> Sequence[str]:
    """A model with a layer that turns wrongly never runs, and its failure holds what it said and its console's end."""
    seen, final = set(), None
    once = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_FAIL_GROUP)
    try:
        for message in place.deploy(entry=BROKEN, timeout_ms=BROKEN_MS, failure_policy=once):
            event = message.event
            if event.WhichOneof("change") == "group":
                seen.add(event.group.status)
            elif event.WhichOneof("change") == "final":
                final = event.final
    except grpc.RpcError:
        pass  # a deploy that failed ends so, after its final event
    if final is None:
        return ["its stream had no end"]
    wrong = []
    if "Running" in seen or final.status != "Failed":
        wrong.append(f"it was {', '.join(sorted(seen))} and is {final.status}")
    if any(words not in final.reason for words in ("a wrong answer", '"content":', "its last lines")):
        wrong.append(f"its failure says: {final.reason}")
    place.corral.delete(final.uuid)
    return wrong


def hurt_at_first(place: Site) -> tuple[Sequence[str], float]:
    """A worker's machine dies before the group has ever answered: what was wrong, and the seconds until its end."""
    began, struck, final = time.monotonic(), False, None
    booting: dict[str, group_pb2.Instance] = {}
    for message in place.deploy():
        event = message.event
        kind = event.WhichOneof("change")
        if kind == "instance" and event.instance.status == "Booting":
            booting[event.instance.uuid] = event.instance
            if len(booting) == 3 and not struck:
                struck = True
                group = place.get(event.instance.model_service_group_uuid)
                Harm(place, group).machine(WORKER, signal.SIGKILL)
        elif kind == "final":
            final = event.final
    took = time.monotonic() - began
    if final is None:
        return ["its stream had no end"], took
    wrong = [] if final.status == "Running" else [f"it is {final.status}: {final.reason}"]
    wrong += [] if struck else ["nothing was hurt"]
    place.corral.delete(final.uuid)
    return wrong, took
