"""Machines that are given out as a whole: domains of a libvirt of the lab, each behind an emulated BMC of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from tests.baremetal.emulator import ACCOUNT, OVMF, PASSWORD
from tests.integration.test_service_on_hypervisors import sweep
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.support.certificates import certificate
from tests.support.process import ENVIRONMENT

IMAGES = "/var/lib/libvirt/images"
_FIRMWARE = {
    "bios": ("pc", "", "ide", "hda", "e1000"),
    "uefi": (
        "q35",
        f"<loader readonly='yes' type='pflash'>{OVMF}</loader>"
        "<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/{name}_VARS.fd</nvram>",
        "sata",
        "sda",
        "e1000e",
    ),
}
_DOMAIN = """
<domain type='{virt}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>1024</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='{machine}'>hvm</type>{loader}<boot dev='hd'/></os>
<features><acpi/><apic/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{images}/{name}.raw'/>
<target dev='{disk}' bus='{bus}'/></disk>
<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/><model type='{card}'/></interface>
<serial type='file'><source path='/var/log/libvirt/{name}.log'/></serial>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices>{more}</domain>
"""
# libvirt knows no emulated NVMe drive, nor that a slot has one: of those that it gives out itself this one is not.
_NVME = (
    "<qemu:commandline><qemu:arg value='-drive'/>"
    "<qemu:arg value='file={images}/{name}.nvme,if=none,id=nvme0,format=raw'/>"
    "<qemu:arg value='-device'/><qemu:arg value='nvme,drive=nvme0,serial=one,addr=0x10'/></qemu:commandline>"
)


@dataclass(frozen=True)
class Machine:
    """One of them. `directory`: its BMC's files."""

    name: str
    uuid: str
    mac: str
    directory: Path
    port: int
    hypervisor: Hypervisor
    clean: str = "metadata"

    def entry(self, listener: str, report_url: str) -> str:
        """Its table of the configuration."""
        options = {
            "ca_file": str(self.directory / "bmc.pem"),
            "password_file": str(self.directory / "password"),
            "system": self.uuid,
            "seed_url": listener,
            "report_url": report_url,
            "clean": self.clean,
        }
        if self.clean != "none":
            options["clean_image"] = "metal"
        told = "\n".join(f'{name} = "{value}"' for name, value in options.items())
        return (
            f'[[hosts]]\nname = "{self.name}"\nzone = "zone-1"\ndriver = "redfish"\ntransport = "tls"\n'
            f'address = "localhost"\nport = {self.port}\nusername = "{ACCOUNT}"\n[hosts.options]\n{told}\n'
        )

    def faults(self, **faults: object) -> None:
        """What goes wrong from now on; nothing: all is well."""
        written = self.directory / "faults.json.new"
        written.write_text(json.dumps(faults))
        written.replace(self.directory / "faults.json")

    def requests(self) -> list[str]:
        """Every request that its BMC had."""
        return (self.directory / "requests").read_text().splitlines()

    def resets(self) -> list[str]:
        """What its BMC was told to do with the power."""
        posts = [line for line in self.requests() if line.startswith("POST") and "ComputerSystem.Reset" in line]
        return [json.loads(line.split(" ", 2)[2])["ResetType"] for line in posts]

    def on(self) -> bool:
        """Whether QEMU executes it, by the process table."""
        return self.name in self.hypervisor.guests()

    @property
    def disk(self) -> Path:
        """The file that its disk is."""
        return self.hypervisor.directory / IMAGES.lstrip("/") / f"{self.name}.raw"

    @property
    def nvme(self) -> Path:
        """The file that its NVMe drive is, where it has one."""
        return self.disk.with_suffix(".nvme")

    def drive(self) -> list[str]:
        """What is in its drive, by libvirt alone."""
        with closing(libvirt.open(self.hypervisor.uri)) as connection:
            text = connection.lookupByName(self.name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return [
            part.split("'", 1)[0] for part in text.split("source file='")[1:] if ".raw'" not in part.split(">", 1)[0]
        ]

    def volume(self) -> str:
        """The label of what is in its drive; empty where nothing is."""
        for path in self.drive():
            with (self.hypervisor.directory / path.lstrip("/")).open("rb") as file:
                file.seek(16 * 2048 + 40)  # ECMA-119, 8.4: the primary volume descriptor
                return file.read(32).decode().strip()
        return ""

    def console(self) -> str:
        """The end of what it wrote to its serial port."""
        path = self.hypervisor.directory / "var/log/libvirt" / f"{self.name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else "(nothing)"


DISK_BYTES = 64 << 20


@contextmanager
def machines(
    lab: Lab,
    directory: Path,
    firmwares: Mapping[str, str],
    virt: str = "qemu",
    *,
    clean: str = "metadata",
    nvme: bool = False,
    system: Path | None = None,
) -> Iterator[list[Machine]]:
    """Machines on the lab's last hypervisor: name -> `bios` or `uefi`, each switched off, with an empty disk.

    `clean`: between projects. `nvme`: with an NVMe drive besides. `system`: what is on the disk.
    """
    hypervisor = lab[len(lab.hypervisors) - 1]
    place_of_images = hypervisor.directory / IMAGES.lstrip("/")
    made: list[Machine] = []
    with ExitStack() as left:  # each is taken away whatever becomes of the others: the next site has the same names
        place_of_images.mkdir(parents=True, exist_ok=True)
        left.callback(shutil.rmtree, place_of_images)
        connection = left.enter_context(closing(libvirt.open(hypervisor.uri)))
        left.enter_context(_pool(connection))
        for number, (name, firmware) in enumerate(firmwares.items(), start=1):
            machine, loader, bus, disk, card = _FIRMWARE[firmware]
            own, mac = str(uuid.uuid4()), f"52:54:00:77:00:{number:02x}"
            for kind in ("raw", "nvme"):
                with (place_of_images / f"{name}.{kind}").open("wb") as file:
                    file.write(system.read_bytes() if system is not None and kind == "raw" else b"")
                    file.truncate(DISK_BYTES)
            text = _DOMAIN.format(
                virt=virt, name=name, uuid=own, machine=machine, loader=loader.format(name=name), images=IMAGES,
                disk=disk, bus=bus, mac=mac, card=card, more=_NVME.format(images=IMAGES, name=name) if nvme else "",
            )  # fmt: skip
            left.callback(_undefine, connection, name)
            connection.defineXML(text)
            place = directory / name
            place.mkdir()
            port = left.enter_context(_bmc(place, hypervisor.uri))
            made.append(Machine(name, own, mac, place, port, hypervisor, clean))
        yield made


@contextmanager
def _pool(connection: libvirt.virConnect) -> Iterator[None]:
    """The one that the emulators put images into."""
    pool = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>default</name><target><path>{IMAGES}</path></target></pool>"
    )
    try:
        pool.create()
        try:
            yield
        finally:
            pool.destroy()
    finally:
        pool.undefine()


def tidy(hypervisor: Hypervisor) -> None:
    """Take away what a service has left there that was killed: domains, its owner's mark, disks of members."""
    sweep(hypervisor.uri)
    with closing(libvirt.open(hypervisor.uri)) as connection:
        for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
            pool.refresh()
            for volume in pool.listAllVolumes():
                if not volume.name().startswith("corral-base."):
                    volume.delete()


def _undefine(connection: libvirt.virConnect, name: str) -> None:
    for domain in connection.listAllDomains():
        if domain.name() == name:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


@contextmanager
def _bmc(directory: Path, uri: str) -> Iterator[int]:
    """The port at which an emulator serves."""
    pem, key = certificate()
    (directory / "bmc.pem").write_bytes(pem)
    (directory / "bmc.key").write_bytes(key)
    (directory / "password").write_text(PASSWORD)
    (directory / "requests").touch()
    command = [sys.executable, "-m", "tests.baremetal.emulator", str(directory), uri]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", *command],
            stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **ENVIRONMENT, "TMPDIR": str(directory)},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        if not (port := process.stdout.readline().strip()):
            raise AssertionError(f"the emulator did not start: {(directory / 'log').read_text()[-2000:]}")
        yield int(port)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Relay:
    """A port of the lab's network that leads to one of this machine's loopback: guests report by it."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._to = port

        def listen() -> socket.socket:
            made = socket.create_server((f"{lab.network}.0.1", 0))
            made.settimeout(0.2)
            return made

        self._listener = lab.switch.call(listen)
        self.url = f"http://{lab.network}.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="relay")
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                caller, _ = self._listener.accept()
            except TimeoutError:
                continue
            with caller:
                caller.settimeout(10)
                try:
                    self._pass_on(caller)
                except OSError:
                    continue  # a guest asks again

    def _pass_on(self, caller: socket.socket) -> None:
        """One request, of a guest that says all of it at once and closes after the answer."""
        said = b""
        while b"\r\n\r\n" not in said:
            if not (piece := caller.recv(65536)):
                return
            said += piece
        head, _, body = said.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0] if lengths else 0):
            if not (piece := caller.recv(65536)):
                return
            body += piece
        with socket.create_connection(("127.0.0.1", self._to), 10) as service:
            service.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"\r\n\r\n" + body)
            while answer := service.recv(65536):
                caller.sendall(answer)
