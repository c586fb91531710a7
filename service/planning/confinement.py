"""Processors and pages that machines have for themselves, as labels of their hosts. Pure.

Which host gives its machines such its operator says, by options of the host (`service/drivers/libvirt/addressing.py`).
A member that must have them goes to these hosts alone. Others go anywhere, but not where all memory is of pages of
which theirs is no whole number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.domain.cells import PAGES
from service.domain.fleet import Host
from service.domain.specs import MachineType, NodeSpec

DEDICATED, ISOLATED, PAGE = "corral.dedicated_cpus", "corral.isolated_emulator_threads", "corral.page"
_ORDINARY = "4KiB"
_YES = ("yes",)


def labels(host: Host) -> dict[str, str]:
    """What the planner sees of a hypervisor's options; it stands over what the operator's own labels say."""
    if host.bare_metal:
        return {}
    options = host.address.options
    return {
        DEDICATED: "yes" if options.get("dedicated_cpus") == "true" else "no",
        ISOLATED: "yes" if options.get("emulator_cpus") else "no",
        PAGE: options.get("huge_pages") or _ORDINARY,
    }


def asked(node: NodeSpec) -> dict[str, tuple[str, ...]]:
    """What the member's host must be."""
    if node.type is not MachineType.VIRTUAL_MACHINE:
        return {}
    wanted: dict[str, tuple[str, ...]] = {}
    if node.dedicated_cpus:
        wanted[DEDICATED] = _YES
    if node.isolate_emulator_threads:
        wanted[ISOLATED] = _YES
    if node.huge_pages:
        wanted[PAGE] = (node.huge_pages,)
    elif unfit := [name for name in PAGES if not fits(node, name)]:
        wanted[PAGE] = (_ORDINARY, *(name for name in PAGES if name not in unfit))
    return wanted


def options(node: NodeSpec) -> dict[str, str]:
    """The options that the member's host must have, with their values, empty for any."""
    of_pages = {"huge_pages": node.huge_pages} if node.huge_pages else {}
    dedicated = {"dedicated_cpus": "true"} if node.dedicated_cpus else {}
    return of_pages | dedicated | ({"emulator_cpus": ""} if node.isolate_emulator_threads else {})


def fits(node: NodeSpec, page: str) -> bool:
    """Whether the member's memory is a whole number of these pages in each of its NUMA cells, as many in each."""
    return node.memory_size % (PAGES[page] * max(1, node.numa_cells)) == 0


def fields(nodes: Iterable[NodeSpec]) -> Iterator[str]:
    """The fields that ask for hosts of some of these, as an explanation names them."""
    nodes = list(nodes)
    for name in ("dedicated_cpus", "isolate_emulator_threads", "huge_pages"):
        if any(getattr(node, name) for node in nodes):
            yield f"model_services.{name}"
    if any(not node.huge_pages and PAGE in asked(node) for node in nodes):
        yield "model_services.memory_size (no whole number of some hosts' huge pages)"
