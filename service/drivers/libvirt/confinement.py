"""What of its host a machine is confined to: cells, processors of its own, huge pages. By the host's options."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import libvirt

from service.domain.cells import PAGES
from service.drivers.base import HostRejected, MachineSpec
from service.drivers.libvirt import numa
from service.drivers.libvirt.addressing import Options
from service.drivers.libvirt.errors import GONE
from service.drivers.libvirt.numa import HostCell, Pinning
from service.drivers.libvirt.tags import read_domain

_CHOICES = 5


class Confinement:
    """Of one host's machines. Safe to use from any thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._choosing = threading.Lock()

    @property
    def binds(self) -> bool:
        """Whether its machines have processors or pages of their own, which another host has by other numbers."""
        return self._options.dedicated_cpus or self._options.huge_page > 0

    def define(self, connection: Any, spec: MachineSpec, write: Callable[[Pinning | None], Any]) -> Any:
        """Choose what the machine is confined to, and have its definition written: what `write` returned.

        No other thread chooses until that is done; where another process chose the same processors at the same time,
        which each of them sees whose definition came later, they are chosen anew. Raises as `_choice` does.
        """
        for _ in range(_CHOICES):
            with self._choosing:
                pinning = self._choice(connection, spec)
                written = write(pinning)
            if pinning is None or _had_by_others(connection, spec.identity.machine_uuid).isdisjoint(pinning.each):
                return written
        raise HostRejected("no_processors", "others took the machine's processors each time that it chose some")

    def _choice(self, connection: Any, spec: MachineSpec) -> Pinning | None:
        """What the machine is to be confined to there; None: to nothing.

        Raises HostRejected `unsupported` where the host has no such cell or its memory is not of whole pages,
        `no_processors` where others have those that it needs: a count that fits the claims, and machines that are none
        of ours are in the way.
        """
        self._check_given(spec)
        page = self._options.huge_page
        if page and spec.memory_bytes % page:
            text = f"the host's machines have pages of {page >> 20} MiB, and their memory is a multiple of that"
            raise HostRejected("unsupported", text)
        if page and spec.cells and spec.memory_bytes // page % len(spec.cells):
            text = (
                f"its memory is of {spec.memory_bytes // page} pages, which {len(spec.cells)} cells cannot share alike"
            )
            raise HostRejected("unsupported", text)
        if not (spec.cells or page or self._options.dedicated_cpus):
            return None
        capabilities = connection.getCapabilities()
        pinned = numa.pinning(capabilities, spec.cells) if spec.cells else Pinning()
        each: tuple[int, ...] = ()
        if self._options.dedicated_cpus:
            cells = numa.for_machines(numa.cells_of(capabilities), page, self._options.emulator_cpus)
            taken = _had_by_others(connection, spec.identity.machine_uuid)
            each = chosen(cells, spec.cells, spec.vcpus, taken)
        return Pinning(
            numa.ranges(each) if each else pinned.cpuset,
            pinned.nodeset,
            each,
            numa.ranges(self._options.emulator_cpus or each) if each else "",
            page,
            pinned.nodes,
        )

    def _check_given(self, spec: MachineSpec) -> None:
        given, pages = self._options, spec.relies_on.get("huge_pages", "")
        if "dedicated_cpus" in spec.relies_on and not given.dedicated_cpus:
            lacks = "processors of their own"
        elif "emulator_cpus" in spec.relies_on and not given.emulator_cpus:
            lacks = "processors beside theirs for QEMU's own threads"
        elif pages and PAGES[pages] != given.huge_page:
            lacks = f"memory of pages of {pages}"
        else:
            return
        raise HostRejected("unsupported", f"the host does not give its machines {lacks}, which this one must have")


def chosen(cells: Sequence[HostCell], wanted: Sequence[int], count: int, taken: Collection[int]) -> tuple[int, ...]:
    """The processors of a machine, by number: of the cells that it is pinned to in equal parts, the first cell's first;
    else of the cell that has enough and will have the fewest left; else of as few cells as can be.

    Raises HostRejected `no_processors`.
    """
    free = {cell.number: [cpu for cpu in cell.cpus if cpu not in taken] for cell in cells}
    found: list[int] = []
    if wanted:
        for place, number in enumerate(wanted):
            of_this = count * (place + 1) // len(wanted) - count * place // len(wanted)
            found += free.get(number, [])[:of_this]
    else:
        enough = [number for number in free if len(free[number]) >= count]
        order = (
            [min(enough, key=lambda n: (len(free[n]), n))] if enough else sorted(free, key=lambda n: (-len(free[n]), n))
        )
        found = [cpu for number in order for cpu in free[number]][:count]
    if len(found) < count:
        text = f"the host has {len(found)} of the {count} processors left that the machine is to have for itself"
        raise HostRejected("no_processors", text)
    return tuple(found)


def _had_by_others(connection: Any, machine_uuid: str) -> frozenset[int]:
    """The processors that processors of other machines are bound to, whoever made these and whether they run or not: a
    stopped one has them again when it starts. Each definition is read anew, since another process may have written it a
    moment ago."""
    found: set[int] = set()
    for domain in connection.listAllDomains():
        if domain.UUIDString() == machine_uuid:
            continue
        try:
            found.update(read_domain(domain.XMLDesc(0)).processors)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:
                raise
    return frozenset(found)
