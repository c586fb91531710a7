"""The service with one host, which is a machine with devices, and guests there that compute on what they are given."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import libvirt
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.devices.machine import PARTS, Machine
from tests.support.process import CorralProcess

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
MEMORY = 64 << 20  # bytes
PATIENCE = 300.0
# What the machine's devices are to members. The companion has no rule of its own where a test says so.
EDU = '[[devices]]\nmodel = "edu"\nvendor = "1234"\nproduct = "11e8"\nclean = "{clean}"\n'
CARD = '[[devices]]\nmodel = "card"\nvendor = "1234"\nproduct = "1111"\n'
SOUND = '[[devices]]\nkind = "companion"\npci_class = "0403"\n'


def probe_guest(directory: Path) -> Path:
    """The guest, compiled: a kernel of a few KiB by the multiboot protocol."""
    out = directory / "probe.elf"
    flags = "-m32 -march=i586 -O1 -ffreestanding -fno-pic -fno-stack-protector -nostdlib -static -Wl,--build-id=none"
    command = ["gcc", *flags.split(), f"-Wl,-T,{PARTS / 'probe.ld'}", "-o", str(out), str(PARTS / "probe.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def configuration(machine: Machine, guest: Path, devices: str, host: str = "", options: str = "") -> str:
    """`devices`: rules; `host`: more lines of the host's table; `options`: more of its options."""
    more = f", {options}" if options else ""
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[[hosts]]
name = "with-devices"
zone = "zone-1"
driver = "libvirt"
transport = "tcp"
address = "127.0.0.1"
port = {machine.port}
options = {{ virt_type = "qemu"{more} }}
{host}
[[images]]
name = "probe"
kernel = "{guest}"
progress_channel = ""
[[model_services]]
uuid = "{ENTRY}"
name = "probe"
image = "probe"
readiness_kind = "serial"
readiness_line = "probe ready*"
stop_grace_ms = 1
{devices}
"""


def member(model: str = "edu", count: int = 1, memory: int = MEMORY, cpus: int = 1) -> group_pb2.NodeSpec:
    """One node that asks for devices; for none where `count` is 0."""
    asked = [group_pb2.GpuRequest(model=model, count=count)] if count else []
    return group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=cpus, memory_size=memory, gpus=asked)


def host_of(corral: CorralProcess) -> fleet_pb2.Host:
    """The one host as the service shows it."""
    (host,) = corral.fleet.ListHosts(fleet_pb2.ListHostsRequest(), timeout=60).inventories
    return host


def devices_of(corral: CorralProcess) -> dict[str, fleet_pb2.HostDevice]:
    """Its devices by key."""
    return {device.key: device for device in host_of(corral).devices}


def states_of(corral: CorralProcess) -> dict[str, str]:
    """In what state each of its devices is, by key."""
    return {device.key: device.state for device in host_of(corral).devices}


def wait_until(what: str, look: Any, seconds: float = PATIENCE) -> Any:
    """The first answer that is true. Raises AssertionError with the last one."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}: {found!r}"
        time.sleep(0.3)


class Events:
    """libvirt's event loop of this process, which consoles need, for as long as the tests run."""

    started = False

    @classmethod
    def run(cls) -> None:
        """Begin; once is enough."""
        if not cls.started:
            cls.started = True
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=cls._turn, daemon=True).start()

    @staticmethod
    def _turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()


class Guest:
    """A member's guest, spoken with over its serial port by libvirt itself, past the service."""

    def __init__(self, machine: Machine, instance: group_pb2.Instance) -> None:
        Events.run()
        self._connection = libvirt.open(machine.uri)
        self._domain = self._connection.lookupByUUIDString(instance.vm_instance_uuid)
        self._stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._domain.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()
        self._connection.close()

    def say(self, command: str) -> list[str]:
        """What it answers to a command: one line a device."""
        self._stream.send(f"{command}\n".encode())
        heard, deadline = "", time.monotonic() + PATIENCE
        while f"done {command[0]}" not in heard:
            assert time.monotonic() < deadline, f"no answer to {command!r}: {heard!r}"
            piece = self._stream.recv(4096)
            if isinstance(piece, bytes):
                heard += piece.decode(errors="replace").replace("\r", "")
            else:
                time.sleep(0.1)
        return re.findall(r"^edu \d+ (.*)$", heard, re.MULTILINE)

    def factorial(self, of: int) -> list[int]:
        """What each of its devices makes of a number."""
        return [int(line.rpartition(" ")[2]) for line in self.say(f"f {of}")]


@contextlib.contextmanager
def started(directory: Path, text: str, *, devices: bool = True, store: str = "") -> Iterator[CorralProcess]:
    """The service, and its host answers; `devices`: shows some that rules offer. `store`: a database in place of a
    file of its own."""
    process = CorralProcess(directory, text)
    if store:
        process.use_store(store)
    process.start()
    try:
        wait_until("its host answers", lambda: host_of(process).devices if devices else host_of(process).numa_cells)
        yield process
    finally:
        process.kill()


def sweep(machine: Machine) -> None:
    """Take away what a test has left on the host."""
    connection = libvirt.open(machine.uri)
    for domain in connection.listAllDomains():
        kept = domain.isPersistent()
        if domain.isActive():
            domain.destroy()
        if kept:
            domain.undefine()
    for pool in connection.listAllStoragePools():
        for name in pool.listVolumes():
            if not name.startswith("corral-base."):
                pool.storageVolLookupByName(name).delete()
    connection.close()


def running(group: group_pb2.InstanceGroup) -> Sequence[group_pb2.Instance]:
    """Its members. Raises AssertionError where it does not run."""
    assert group.status == "Running", group
    return group.instances


def said_by(machine: Machine, instance: group_pb2.Instance) -> str:
    """All that its guest has said on its serial port since it was made."""
    return machine.run(f"cat /var/lib/libvirt/corral/*.{instance.uuid}.*.log-console")


def failure_of(corral: CorralProcess, group: str) -> str:
    """Why the first member that does not run does not; empty while all do."""
    request = deploy_pb2.GetInstanceGroupRequest(uuid=group)
    found = corral.groups.GetInstanceGroup(request, timeout=60).inventory
    return next((one.reason for one in found.instances if one.status not in ("Running", "Pending")), "")
