"""Two processes of the service race for the last device of a real hypervisor, whose QEMUs tell who has it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import grpc
import pytest
from corral.v1 import group_pb2

from tests.devices.machine import Machine
from tests.devices.service import configuration, devices_of, member, started, wait_until
from tests.support.postgres import Postgres
from tests.support.process import CorralProcess

BOOTED = ("Booting", "Running")
RACES = int(os.environ.get("DEVICE_RACES", "6"))
# A race is a guest that begins to boot in a guest without KVM: some 10 s, and more on a busy machine.
pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800 + 60 * RACES)]
ONE = '[[devices]]\nmodel = "edu"\naddresses = ["{address}"]\nhosts = ["with-devices"]\n'


def test_the_last_device_is_one_members_whichever_process_is_asked(
    machine: Machine, probe: Path, tmp_path: Path, postgres: Postgres, database: str
) -> None:
    address = machine.placed()["edu1"].address
    text, url = configuration(machine, probe, ONE.format(address=address)), postgres.url(database)
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    won = [0, 0]
    with started(places[0], text, store=url) as first, started(places[1], text, store=url) as second:
        both = (first, second)
        before = machine.starts()
        for number in range(RACES):
            members = _race(both, f"race{number}")
            winners = [at for at, instance in enumerate(members) if instance is not None]
            assert len(winners) == 1, members
            instance = members[winners[0]]
            assert instance is not None
            assert instance.devices == [address]
            assert machine.owners() == {address: [instance.vm_instance_uuid]}
            won[winners[0]] += 1
            both[number % 2].delete(instance.model_service_group_uuid)
            wait_until("it is given back", lambda: devices_of(second)[address].state == "available")
        assert machine.owners() == {}
        # libvirt tells each start in a log: nobody else was ever begun.
        assert machine.starts() - before == RACES
    print(f"\nraces for the last device: {RACES}, won by the first process {won[0]}, by the second {won[1]}, owners 1")


def _race(both: tuple[CorralProcess, CorralProcess], name: str) -> list[group_pb2.Instance | None]:
    """What comes of asking both at once: a member whose guest boots, None where it is refused for want of a device."""
    found: list[group_pb2.Instance | None] = [None, None]
    wrong: list[BaseException] = []
    begin = threading.Barrier(2)

    def ask(at: int) -> None:
        begin.wait()
        try:
            found[at] = _booting(both[at], f"{name}-{at}")
        except grpc.RpcError as refused:
            if refused.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                wrong.append(refused)
        except BaseException as error:  # told below: a thread's own would be lost
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    return found


def _booting(corral: CorralProcess, name: str) -> group_pb2.Instance:
    """The only member of a new group, once its machine has the device and was let run. Raises RpcError."""
    events = corral.deploy(name, [member()])
    told = (message.event for message in events)
    boots = (e.instance for e in told if e.WhichOneof("change") == "instance" and e.instance.status in BOOTED)
    return next(boots)
