"""The machine in software that a hypervisor with devices runs on: QEMU with an emulated IOMMU, without KVM.

Its root is that of the machine below, shared read-only, with a file system in memory over it, so that nothing is built
and nothing is left behind. It is reached by libvirt's TCP listener through a port of the loopback interface alone, and
by a shell on a serial port; its devices are looked at, and taken away, from outside by QEMU's monitor.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import libvirt

from tests.integration.libvirt.test_guest_image import loaded
from tests.lab.requirements import program

PARTS = Path(__file__).parent / "parts"
MEMORY_MIB = 3072
BOOT_SECONDS = 420.0
COMMAND_SECONDS = 180.0
# no_timer_check: under software emulation one boot in three panics without it.
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 intel_iommu=on iommu=pt panic=-1 mitigations=off nokaslr no_timer_check audit=0 "
    "random.trust_cpu=on net.ifnames=0"
)
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


@dataclass(frozen=True)
class Placed:
    """A device of the machine as QEMU has placed it. `address`: as Linux in it names it; `registers`: where in the
    machine's memory its first region is."""

    name: str
    address: str
    registers: int


# Per node an expander bus of its own, with an "edu" (which computes, and copies by DMA) behind a bridge to conventional
# PCI, and behind a port an accelerator of two functions, which are one IOMMU group.
DEVICES = (
    "pxb-pcie,id=node0,bus=pcie.0,bus_nr=64,numa_node=0",
    "pxb-pcie,id=node1,bus=pcie.0,bus_nr=128,numa_node=1",
    "i82801b11-bridge,id=bridge0,bus=node0",
    "i82801b11-bridge,id=bridge1,bus=node1",
    "edu,id=edu0,bus=bridge0,addr=0x8",
    "edu,id=edu1,bus=bridge1,addr=0x8",
    "pcie-root-port,id=port0,bus=node0,chassis=1,slot=1",
    "pcie-root-port,id=port1,bus=node1,chassis=2,slot=2",
    "secondary-vga,id=gpu0,bus=port0,addr=0.0,multifunction=on",
    "ich9-intel-hda,id=sound0,bus=port0,addr=0.1",
    "secondary-vga,id=gpu1,bus=port1,addr=0.0,multifunction=on",
    "ich9-intel-hda,id=sound1,bus=port1,addr=0.1",
    "pcie-root-port,id=port2,bus=pcie.0,chassis=3,slot=3",
    "nvme-subsys,id=subsystem",
    "nvme,id=nvme0,bus=port2,serial=devices,subsys=subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,"
    "max_ioqpairs=6,msix_qsize=7",
)


def why_not() -> str:
    """Empty where the machine can be had here, otherwise what is missing."""
    if os.geteuid() != 0:
        return "a machine with devices needs root (a mount namespace, files that only root reads)"
    if not Path(VIRTIOFSD).exists():
        return "a machine with devices needs virtiofsd: apt-get install --no-install-recommends qemu-system-common"
    return ""


class Machine:
    """One such machine, as a context manager: it runs and its libvirt answers, and at its end nothing of it is left."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="corral-devices-"))
        self.port = _free_port()
        self._devices: Sequence[str] = DEVICES
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """Of its libvirt."""
        return f"qemu+tcp://127.0.0.1:{self.port}/system"

    @property
    def pid(self) -> int:
        """Of its QEMU."""
        return self._processes[-1].pid

    # --- start and end -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        build = loaded()
        inputs = build.find_inputs()
        (self.directory / "initramfs").write_bytes(_initramfs(build, inputs))
        (self.directory / "root").mkdir(exist_ok=True)
        self._share()
        self._run(inputs.kernel)
        deadline = time.monotonic() + BOOT_SECONDS
        while "libvirt answers" not in self.said():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no hypervisor with devices came up:\n{self.said()[-4000:]}\n{self._errors()}")
            time.sleep(0.2)

    def _share(self) -> None:
        root, listener = self.directory / "root", self.directory / "files"
        serve = f"exec {VIRTIOFSD} --socket-path={listener} -o source={root} -o cache=always -o no_posix_lock"
        script = (
            f"set -e; mount --make-rprivate /; mount --bind / {root}; mount -o remount,ro,bind {root}; "
            f"{serve} -o sandbox=namespace --thread-pool-size=4"
        )
        self._begin("files.log", "unshare", "--mount", "sh", "-c", script)
        deadline = time.monotonic() + 20
        while not listener.exists():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"its root is not shared:\n{self._errors()}")
            time.sleep(0.05)

    def _run(self, kernel: Path) -> None:
        half, at = MEMORY_MIB // 2, self.directory
        arguments = [
            *("-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-la57"),
            *("-smp", "4,sockets=2,cores=2", "-m", str(MEMORY_MIB)),
            *("-object", f"memory-backend-memfd,id=memory0,size={half}M,share=on"),
            *("-object", f"memory-backend-memfd,id=memory1,size={half}M,share=on"),
            *("-numa", "node,nodeid=0,cpus=0-1,memdev=memory0", "-numa", "node,nodeid=1,cpus=2-3,memdev=memory1"),
            *("-numa", "dist,src=0,dst=1,val=21", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-serial", f"file:{at}/console"),
            *("-chardev", f"socket,id=shell,path={at}/shell,server=on,wait=off", "-serial", "chardev:shell"),
            *("-qmp", f"unix:{at}/monitor,server=on,wait=off"),
            *("-device", "intel-iommu,intremap=on,device-iotlb=off"),
            *("-chardev", f"socket,id=files,path={at}/files"),
            *("-device", "vhost-user-fs-pci,chardev=files,tag=root,queue-size=512"),
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:16509"),
            *("-device", "virtio-net-pci,netdev=net"),
            *("-kernel", str(kernel), "-initrd", str(at / "initramfs"), "-append", COMMAND_LINE),
        ]
        for device in self._devices:
            arguments += ["-device", device]
        self._begin("qemu.log", program("qemu-system-x86_64"), *arguments)

    def _begin(self, log: str, *command: str) -> None:
        with (self.directory / log).open("wb") as out:
            # Ends with whoever started it, however that ends.
            self._processes.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig=KILL", "--", *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            )

    def reboot(self, devices: Sequence[str] = DEVICES) -> None:
        """Take its power away and start it anew, with these devices: nothing that was written in it is left."""
        self._end()
        for name in ("console", "files", "shell", "monitor"):
            (self.directory / name).unlink(missing_ok=True)
        self._devices = devices
        self._start()
        self.warm()

    def _end(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM if process is self._processes[0] else signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def close(self) -> None:
        """End it, and take its files away."""
        self._end()
        for file in self.directory.glob("*"):
            with contextlib.suppress(IsADirectoryError):
                file.unlink()
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "root").rmdir()
        self.directory.rmdir()

    def _errors(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in self.directory.glob("*.log"))

    def said(self) -> str:
        """All that is on its console."""
        try:
            return (self.directory / "console").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def warm(self) -> None:
        """Start a machine with a device once, and end it: at its first start QEMU is read from the machine below, which
        takes so long that a service would take what it starts for one that never runs."""
        self.take(self.placed()["edu1"].address)
        connection = libvirt.open(self.uri)
        connection.lookupByName("by-hand").destroy()
        connection.close()

    # --- from within -------------------------------------------------------------------------------------------------

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a command says in the machine. Raises AssertionError where it fails or does not end."""
        begin, end = secrets.token_hex(6), secrets.token_hex(6)
        with socket.socket(socket.AF_UNIX) as shell:
            shell.connect(str(self.directory / "shell"))
            shell.settimeout(1)
            # Each mark in two parts, so that the terminal's echo of the command is not taken for it.
            said = f'echo "{begin[:6]}""{begin[6:]}"; ( {command} ) 2>&1; echo "{end[:6]}""{end[6:]} $?"\n'
            shell.sendall(said.encode())
            heard, deadline = b"", time.monotonic() + seconds
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    heard += shell.recv(65536)
                text = heard.decode(errors="replace").replace("\r", "").rpartition(f"{begin}\n")[2]
                answer, found, status = text.partition(f"{end} ")
                if found and status.count("\n"):
                    assert status.split("\n")[0] == "0", f"{command}: {status.strip()}: {answer}"
                    return answer.strip("\n")
        raise AssertionError(f"no end of {command!r} in {seconds} s: {heard.decode(errors='replace')[-2000:]}")

    def of_guest(self, machine_uuid: str, what: str) -> str:
        """A file of /proc of each thread of the QEMU that runs the machine with this uuid."""
        uuid = str(UUID(machine_uuid))
        named = f"tr '\\0' ' ' < $p/cmdline | grep -q -- '-uuid {uuid}'"
        return self.run(f"for p in /proc/[0-9]*; do if {named}; then cat $p/task/*/{what}; fi; done")

    def status(self, machine_uuid: str) -> str:
        """/proc/PID/status of the QEMU that runs the machine with this uuid."""
        uuid = str(UUID(machine_uuid))
        found = f"grep -al {uuid} /proc/[0-9]*/cmdline 2> /dev/null | cut -d/ -f3"
        return self.run(
            f"for p in $({found}); do case $(readlink /proc/$p/exe) in *qemu*) cat /proc/$p/status;; esac; done"
        )

    def end(self, machine_uuid: str) -> None:
        """Destroy a machine, as an operator does by hand."""
        connection = libvirt.open(self.uri)
        try:
            connection.lookupByUUIDString(machine_uuid).destroy()
        finally:
            connection.close()

    def owners(self) -> dict[str, list[str]]:
        """Who has each device that somebody has, by the command lines of its QEMUs: uuids of machines."""
        find = "grep -alz vfio-pci /proc/[0-9]*/cmdline 2> /dev/null"
        lines = self.run(f"{find} | while read f; do tr '\\0' ' ' < $f 2> /dev/null; echo; done; true")
        found: dict[str, list[str]] = {}
        for line in lines.splitlines():
            if (of := re.search(r" -uuid ([0-9a-f-]{36}) ", line)) is not None:
                for address in re.findall(r'"driver":"vfio-pci","host":"([0-9a-f:.]+)"', line):
                    found.setdefault(address, []).append(UUID(of[1]).hex)
        return found

    def starts(self) -> int:
        """How often libvirt has begun to start a machine of the service's since it was booted, by its logs."""
        return int(self.run("cat /var/log/libvirt/qemu/corral-*.log 2> /dev/null | grep -c 'starting up'; true") or 0)

    def bound(self, addresses: Sequence[str]) -> None:
        """Wait until one of these is VFIO's: its own driver has given it away for a machine that is being started."""
        places = " ".join(f"/sys/bus/pci/drivers/vfio-pci/{address}" for address in addresses)
        self.run(f"for n in $(seq 900); do for p in {places}; do [ -e $p ] && exit 0; done; sleep 0.05; done; exit 1")

    def kill_daemon(self) -> None:
        """kill -9 of libvirtd, whatever it is doing; it is started again, and its machines live on."""
        self.run("kill -9 $(pidof libvirtd); sleep 0.5; libvirtd -d --listen")
        self.run("until virsh -c qemu:///system version > /dev/null 2>&1; do sleep 0.5; done")

    def kill_guests(self) -> None:
        """kill -9 of each QEMU that has a device, as soon as there is one, for as long as libvirt starts it."""
        find = "grep -al vfio-pci /proc/[0-9]*/cmdline 2> /dev/null | cut -d/ -f3"
        kill = "case $(readlink /proc/$p/exe) in *qemu*) kill -9 $p; exit 0;; esac"
        seen = f"for p in $({find}); do {kill}; done"
        self.run(f"for n in $(seq 600); do {seen}; sleep 0.1; done; exit 1")

    def take(self, address: str) -> None:
        """Give a device to a machine that is none of ours, as an operator does by hand."""
        domain, bus, slot, function = re.split("[:.]", address)
        where = f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'"
        xml = (
            "<domain type='qemu'><name>by-hand</name><memory unit='MiB'>32</memory>"
            "<os><type machine='q35'>hvm</type></os><devices>"
            "<hostdev mode='subsystem' type='pci' managed='yes'><source><address "
            f"{where}/></source></hostdev></devices></domain>"
        )
        connection = libvirt.open(self.uri)
        try:
            connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        finally:
            connection.close()

    # --- from outside ------------------------------------------------------------------------------------------------

    def ask(self, command: str, **arguments: Any) -> Any:
        """A QMP command to its QEMU; its answer. Raises AssertionError where it is refused."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(60)
            monitor.connect(str(self.directory / "monitor"))
            with monitor.makefile("rw") as lines:
                lines.readline()  # its greeting
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    lines.write(json.dumps(request) + "\n")
                    lines.flush()
                    answer = json.loads(lines.readline())
                    while "event" in answer:
                        answer = json.loads(lines.readline())
                    assert "error" not in answer, f"{command}: {answer}"
        return answer["return"]

    def placed(self) -> dict[str, Placed]:
        """Its devices by the names that they have in DEVICES."""
        found: dict[str, Placed] = {}

        def add(devices: list[dict[str, Any]]) -> None:
            for one in devices:
                regions = one.get("regions") or [{}]
                address = f"0000:{one['bus']:02x}:{one['slot']:02x}.{one['function']}"
                if one["qdev_id"]:
                    found[one["qdev_id"]] = Placed(one["qdev_id"], address, int(regions[0].get("address", 0)))
                add(one.get("pci_bridge", {}).get("devices", []))

        for bus in self.ask("query-pci"):
            add(bus["devices"])
        return found

    def word(self, address: int) -> int:
        """The 32 bits at an address of its memory, or of a device's registers: as the device itself answers."""
        told = self.ask("human-monitor-command", **{"command-line": f"xp /1wx {address:#x}"})
        return int(told.rpartition(":")[2].strip(), 16)


def _initramfs(build: Any, inputs: Any) -> bytes:
    modules = build.load_order(Path("/lib/modules") / inputs.release, ("virtio_pci", "virtiofs", "overlay"))
    parts = {
        "init": (0o100755, (PARTS / "initramfs.sh").read_bytes()),
        "host.sh": (0o100644, (PARTS / "host.sh").read_bytes()),
        "bin/busybox": (0o100755, inputs.busybox.read_bytes()),
    }
    for number, module in enumerate(modules):
        parts[f"modules/{number:02d}.ko"] = (0o100644, build.read_module(module))
    folders = ("above", "below", "bin", "dev", "modules", "proc", "root", "sys")
    entries = [(name, 0o040755, b"") for name in folders] + [(name, *parts[name]) for name in sorted(parts)]
    return gzip.compress(build.cpio_newc(iter(entries)), 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
