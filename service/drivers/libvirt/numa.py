"""A host's NUMA cells, as libvirt's capabilities tell them. Cells without processors are none to be pinned to."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from service.domain.cells import resource_of
from service.drivers.base import HostRejected


@dataclass(frozen=True, slots=True)
class HostCell:
    """`memory`: bytes, without what is set aside as huge pages; `cpus`: the numbers of its processors that are on;
    `pages`: bytes of a huge page -> bytes that are set aside as such, used or not."""

    number: int
    memory: int
    cpus: tuple[int, ...]
    pages: Mapping[int, int] = field(default_factory=dict)

    @property
    def cpuset(self) -> str:
        """Its processors as libvirt writes a set of them: `0-3,8`."""
        return ranges(self.cpus)


def cells_of(capabilities: str) -> tuple[HostCell, ...]:
    """The cells that have processors, by number."""
    found = []
    for cell in ElementTree.fromstring(capabilities).findall("host/topology/cells/cell"):
        told = cell.findall("cpus/cpu")
        # Where libvirt tells anything of processors, it tells nothing of those that are off.
        on = [cpu for cpu in told if cpu.get("siblings")] or told
        cpus = tuple(sorted(int(cpu.get("id", "0")) for cpu in on))
        memory = max(0, int(cell.findtext("memory", "0")) * 1024 - _huge_page_bytes(cell))
        if cpus:
            found.append(HostCell(int(cell.get("id", "0")), memory, cpus, _huge_pages(cell)))
    return tuple(sorted(found, key=lambda cell: cell.number))


def huge_page_bytes(capabilities: str) -> int:
    """Bytes of a host that are set aside as pages larger than its smallest, used or not."""
    cells = ElementTree.fromstring(capabilities).findall("host/topology/cells/cell")
    return sum(_huge_page_bytes(cell) for cell in cells)


def _huge_pages(cell: ElementTree.Element) -> dict[int, int]:
    pages = [(int(p.get("size", "0")), int(p.text or 0)) for p in cell.findall("pages")]
    smallest = min((size for size, _ in pages), default=0)
    return {size << 10: size * count << 10 for size, count in pages if size > smallest}


def _huge_page_bytes(cell: ElementTree.Element) -> int:
    return sum(_huge_pages(cell).values())


def for_machines(cells: Iterable[HostCell], huge_page: int, kept: Collection[int]) -> tuple[HostCell, ...]:
    """The cells as machines can have them. `huge_page`: bytes of the pages that all their memory is of, 0: of ordinary
    ones; `kept`: numbers of processors that none of them gets."""
    return tuple(
        replace(
            cell,
            memory=cell.pages.get(huge_page, 0) if huge_page else cell.memory,
            cpus=tuple(cpu for cpu in cell.cpus if cpu not in kept),
        )
        for cell in cells
    )


def amounts(cells: Iterable[HostCell]) -> dict[str, int]:
    """What the cells have, by the names that their resources have among their host's."""
    found: dict[str, int] = {}
    for cell in cells:
        found[resource_of(cell.number, "vcpu")] = len(cell.cpus)
        found[resource_of(cell.number, "memory")] = cell.memory
    return found


@dataclass(frozen=True, slots=True)
class Pinning:
    """Which processors and which cells of a host a machine is confined to, as libvirt writes sets of them; no
    `nodeset`: its memory may be of any cell.

    `each`: which processor each of the machine's own is, where they are its alone; `emulator`: where QEMU's own threads
    run then. `huge_page`: bytes of the pages that its memory is of, 0: of ordinary ones. `nodes`: of a machine over
    several cells, in the order of its own cells, the host's that each is of, and that one's processors.
    """

    cpuset: str = ""
    nodeset: str = ""
    each: tuple[int, ...] = ()
    emulator: str = ""
    huge_page: int = 0
    nodes: tuple[tuple[int, str], ...] = ()


def pinning(capabilities: str, wanted: tuple[int, ...]) -> Pinning:
    """The confinement to these cells. Raises HostRejected `unsupported` where the host has not all of them."""
    there = {cell.number: cell for cell in cells_of(capabilities)}
    if missing := sorted(set(wanted) - set(there)):
        raise HostRejected("unsupported", f"the host has no NUMA cell {missing[0]}")
    nodes = tuple((number, there[number].cpuset) for number in wanted) if len(wanted) > 1 else ()
    return Pinning(ranges(cpu for number in wanted for cpu in there[number].cpus), ranges(wanted), nodes=nodes)


def ranges(numbers: Iterable[int]) -> str:
    """A set of numbers as libvirt writes it."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of such a set; `^3` takes one out again, as libvirt allows. Raises ValueError."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, _, last = part.removeprefix("^").partition("-")
        run = set(range(int(first), int(last or first) + 1))
        found = found - run if part.startswith("^") else found | run
    return tuple(sorted(found))
