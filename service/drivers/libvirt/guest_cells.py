"""NUMA cells of a machine's own, where it is spread over several of its host: its guest sees what is near to what.

Each of its cells has a share of its processors and memory, bound to one cell of the host, and a PCI Express root bus
with the devices of that cell. What stands for a node in the guest is libvirt's (formatdomain, "Guest NUMA topology" and
the controller model pcie-expander-bus).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

from service.domain.devices import HeldDevice
from service.drivers.libvirt.numa import Pinning, ranges

MIB = 1 << 20
FIRST_BUS = 64
"""Of the guest's bus numbers the first 64 are left to what stands on no root bus of a cell."""
BUSES = 256
SLOTS = 32


def cpus_of(vcpus: int, cells: int) -> list[range]:
    """Which of the machine's processors each cell has: equal parts, the first cell's first."""
    return [range(vcpus * place // cells, vcpus * (place + 1) // cells) for place in range(cells)]


def memory_of(memory_bytes: int, cells: int) -> list[int]:
    """How many MiB each cell has, which libvirt rounds up to; they differ by one at most."""
    whole = -(-memory_bytes // MIB)
    return [whole * (place + 1) // cells - whole * place // cells for place in range(cells)]


def declare(cpu: Element, memory_bytes: int, vcpus: int, cells: int) -> None:
    """The cells, as its firmware tells them."""
    numa = SubElement(cpu, "numa")
    shares = zip(cpus_of(vcpus, cells), memory_of(memory_bytes, cells), strict=True)
    for number, (cpus, memory) in enumerate(shares):
        SubElement(numa, "cell", id=str(number), cpus=ranges(cpus), memory=str(memory), unit="MiB")


def bind(tuning: Element, pinning: Pinning) -> None:
    """The memory of each cell is of one of the host's."""
    for number, (of_host, _) in enumerate(pinning.nodes):
        SubElement(tuning, "memnode", cellid=str(number), mode="strict", nodeset=str(of_host))


def run_on(tuning: Element, vcpus: int, pinning: Pinning) -> None:
    """The processors of each cell run on those of the host's."""
    for cpus, (_, cpuset) in zip(cpus_of(vcpus, len(pinning.nodes)), pinning.nodes, strict=True):
        for number in cpus:
            SubElement(tuning, "vcpupin", vcpu=str(number), cpuset=cpuset)


def buses(devices: Element, held: Sequence[HeldDevice], pinning: Pinning | None) -> Mapping[str, Mapping[str, str]]:
    """Add a root bus for each cell of the machine that has devices, with a port for each of them; returns where each
    of their functions goes, by its address on the host. What has no cell there, or no room, libvirt places."""
    cells = [number for number, _ in pinning.nodes] if pinning is not None else []
    found: dict[str, Mapping[str, str]] = {}
    if not any(device.cell in cells for device in held):
        return found
    SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    apart = (BUSES - FIRST_BUS) // len(cells)
    index = 1
    for node, number in enumerate(cells):
        near = [device for device in held if device.cell == number][: min(SLOTS, apart - 1)]
        if not near:
            continue
        bus = SubElement(devices, "controller", type="pci", index=str(index), model="pcie-expander-bus")
        target = SubElement(bus, "target", busNr=str(FIRST_BUS + node * apart))
        SubElement(target, "node").text = str(node)
        for slot, device in enumerate(near):
            port = SubElement(devices, "controller", type="pci", index=str(index + 1 + slot), model="pcie-root-port")
            SubElement(port, "address", _address(index, slot, 0))
            found.update(_behind(device, index + 1 + slot))
        index += 1 + len(near)
    return found


def _behind(device: HeldDevice, bus: int) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A unit's functions are those of one slot, in the order in which the host has them."""
    several = {"multifunction": "on"} if len(device.functions) > 1 else {}
    for number, function in enumerate(sorted(device.functions, key=lambda f: _place(f.address))):
        yield function.address, {**_address(bus, 0, number), **(several if number == 0 else {})}


def _place(address: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in re.split("[:.]", address))


def _address(bus: int, slot: int, function: int) -> dict[str, str]:
    return {
        "type": "pci",
        "domain": "0x0000",
        "bus": f"0x{bus:02x}",
        "slot": f"0x{slot:02x}",
        "function": f"0x{function:x}",
    }
