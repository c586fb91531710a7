"""An image goes to a host over a link of 100 Mbit/s, beside `virsh vol-upload` of as much.

The service is killed half way: what arrives, how often it is sent, and what is there meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corral.v1 import catalog_pb2, catalog_pb2_grpc, group_pb2

from service.drivers.libvirt.uploads import SLICE_SECONDS
from tests.lab.fleet import Lab
from tests.lab.hypervisor import POOL, Hypervisor
from tests.lab.link import Link
from tests.support.builders import ZONE
from tests.support.process import CorralProcess

RATE = 100_000_000 // 8
"""Bytes a second."""
WAIT_SECONDS = 300.0
FIRST_BYTES = 256 << 10
"""More than all that is said before the first byte of an image."""
BUFFERS = 8 << 20
"""Bytes that the link and both of its ends may hold."""


@contextmanager
def slow(host: Hypervisor, directory: Path) -> Iterator[Link]:
    """The way to the hypervisor, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    link = Link(directory / "link", host.socket, RATE)
    try:
        asyncio.run_coroutine_threadsafe(link.__aenter__(), loop).result(30)
        yield link
    finally:
        asyncio.run_coroutine_threadsafe(link.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _configuration(link: Link) -> str:
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[[hosts]]
name = "far"
zone = "zone-1"
driver = "libvirt"
socket = "{link.socket}"
[hosts.capacity]
vcpu = 4
memory = "4GiB"
"""


@dataclass
class Far:
    """The service, and the host that it reaches by the link alone. `size`: bytes of each image."""

    corral: CorralProcess
    host: Hypervisor
    link: Link
    size: int

    @property
    def pool(self) -> Path:
        """As a directory of this machine."""
        return self.host.directory / POOL.lstrip("/")

    @property
    def catalog(self) -> catalog_pb2_grpc.CatalogServiceStub:
        """Of the process that runs now."""
        return catalog_pb2_grpc.CatalogServiceStub(self.corral.channel)

    def partial(self) -> Sequence[str]:
        """Copies in the pool that are not whole."""
        names = {path.name for path in self.pool.glob("corral-base.*")} if self.pool.is_dir() else set()
        return [name for name in names if not name.endswith(".ready") and f"{name}.ready" not in names]

    def whole(self, sha256: str) -> Path | None:
        """The copy of that content, once it is whole."""
        found = next(iter(self.pool.glob(f"*{sha256}*.ready")), None) if self.pool.is_dir() else None
        return None if found is None else found.with_suffix("")

    def wanted(self, number: int) -> tuple[str, str, group_pb2.InstanceGroup]:
        """A group of one machine of a new image, whose host has yet to get it: the image, its sum, the group."""
        content = random.Random(number).randbytes(1 << 20) * (self.size >> 20)
        sha256, name = hashlib.sha256(content).hexdigest(), f"big-{number}"
        (self.corral.directory / "images").mkdir(exist_ok=True)
        (self.corral.directory / "images" / name).write_bytes(content)
        image = self.catalog.RegisterImage(
            catalog_pb2.RegisterImageRequest(name=name, format="raw", file_name=name, sha256=sha256), timeout=60
        ).inventory
        entry = self.catalog.CreateModelService(
            catalog_pb2.CreateModelServiceRequest(
                name=name, image_uuid=image.uuid, framework="custom", initial_command="sleep 1"
            ),
            timeout=60,
        ).inventory
        node = group_pb2.NodeSpec(uuid=entry.uuid, zone_uuid=ZONE, cpu_num=1, memory_size=64 << 20)
        stream = self.corral.deploy(name, [node])
        return image.uuid, sha256, next(iter(stream)).event.accepted

    def brought(self, number: int, *, killed: bool) -> Arrival:
        """One image, until its copy is whole. Raises TimeoutError."""
        sent, began = self.link.sent, time.monotonic()
        _, sha256, group = self.wanted(number)
        most, down, first = 0, 0.0, 0.0
        while self.whole(sha256) is None:
            if not first and self.link.sent - sent > FIRST_BYTES:
                first = time.monotonic()
            most = max(most, len(self.partial()))
            if killed and self.link.sent - sent > self.size // 2:
                killed, at = False, time.monotonic()
                self.corral.kill()
                most = max(most, len(self.partial()))
                self.corral.start()
                down = time.monotonic() - at
            if time.monotonic() > began + WAIT_SECONDS:
                raise TimeoutError(f"{self.link.sent - sent} of {self.size} bytes after {WAIT_SECONDS:.0f} s")
            time.sleep(0.02)
        took = time.monotonic() - first
        copy = self.whole(sha256)
        assert copy is not None
        with copy.open("rb") as file:
            right = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        self.corral.delete(group.uuid)
        return Arrival(took, down, self.link.sent - sent, most, right)

    def by_virsh(self) -> float:
        """Seconds of `vol-upload` of as many bytes over the same link."""
        content = self.corral.directory / "by-virsh"
        content.write_bytes(random.Random(0).randbytes(1 << 20) * (self.size >> 20))
        make = ("vol-create-as", "corral", "by-virsh", str(self.size), "--allocation", "0", "--format", "raw")
        self._virsh(self.host.socket, *make)
        began = time.monotonic()
        self._virsh(self.link.socket, "vol-upload", "--pool", "corral", "by-virsh", str(content))
        took = time.monotonic() - began
        self._virsh(self.host.socket, "vol-delete", "--pool", "corral", "by-virsh")
        content.unlink()
        return took

    @staticmethod
    def _virsh(socket: Path, *words: str) -> None:
        uri = f"qemu+unix:///system?socket={socket}"
        subprocess.run(["virsh", "-q", "-c", uri, *words], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Arrival:
    """`took`: seconds from its first byte, with those, `down`, from the service's end until it served again.

    `sent`: bytes over the link. `partial`: copies that were there and not whole at one time, at most.
    """

    took: float
    down: float
    sent: int
    partial: int
    right: bool


def measured(lab: Lab, directory: Path, mib: int) -> tuple[Sequence[str], Sequence[str]]:
    """What is told, and what must not be. The lab's first hypervisor is used, and no other service may be on it."""
    host, size = lab[0], mib << 20
    directory.mkdir()
    with slow(host, directory) as link:
        far = Far(CorralProcess(directory, _configuration(link)), host, link, size)
        far.corral.start()
        try:
            plain = far.brought(1, killed=False)
            virsh = far.by_virsh()
            broken = far.brought(2, killed=True)
        finally:
            far.corral.kill()
    told = [
        f"{mib} MiB over 100 Mbit/s: {size / plain.took / 1e6:.1f} MB/s from its first byte until it is whole,"
        f" virsh {size / virsh / 1e6:.1f}, {virsh / plain.took:.2f} of it",
        f"killed by -9 half way: whole {broken.took:.1f} s from its first byte on, service away {broken.down:.1f} s;"
        f" {broken.sent / size:.2f} of the image were sent; partial copies at one time: {broken.partial}",
    ]
    most = size + int(SLICE_SECONDS * RATE) + BUFFERS
    wrong = [f"{name} is not what was registered" for name, a in (("1", plain), ("2", broken)) if not a.right]
    wrong += [f"{broken.sent} bytes were sent of {size}, more than {most}"] if broken.sent > most else []
    wrong += [f"{broken.partial} partial copies at one time"] if broken.partial > 1 else []
    wrong += [f"{virsh / plain.took:.2f} of virsh's rate"] if virsh / plain.took < 0.85 else []
    return told, wrong
