"""Devices of hosts that machines are given whole: what hosts show, which of it rules offer, and who may have it. Pure.

What is given out is a *unit*: all functions of one IOMMU group, since the kernel lets one machine alone have them. It
is known by the address of its accelerator, which the host's firmware decides and restarts keep.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from service.domain.fleet import gpu_model_violation
from service.errors import FieldViolation

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_ID = re.compile(r"[0-9a-f]{4}")
_CLASS = re.compile(r"[0-9a-f]{2,6}")
_BRIDGE = "06"
_HARMLESS = frozenset({"", "pci-stub"})


class RuleKind(StrEnum):
    """What a rule offers."""

    GPU = "gpu"  # an accelerator, which members ask for by its model
    COMPANION = "companion"  # a function that goes with the accelerator of its IOMMU group, such as its sound


class Clean(StrEnum):
    """What takes away what a member has left in a device."""

    RESET = "reset"  # the hypervisor resets it between two machines
    NONE = "none"  # nothing does: an operator sees to it after each member


class DeviceState(StrEnum):
    """What becomes of a unit. Only what is available is given out."""

    AVAILABLE = "available"
    CLAIMED = "claimed"
    FOREIGN = "foreign"  # a machine that is not ours has it
    BLOCKED = "blocked"  # a rule offers it, and the host cannot give it to a machine
    QUARANTINED = "quarantined"  # taken out of service, by an operator or because it failed
    GONE = "gone"  # it was there, and the host shows it no more, or another one in its place


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """One entry of [[devices]]: what every matching function of these hosts is; no `hosts`: of all.

    `vendor`, `product`: four hexadecimal digits; `device_class`: how its class begins, in hexadecimal digits;
    `addresses`: of which it is one. What is empty matches all. `model`: of a GPU, as members ask for it.
    """

    kind: RuleKind
    model: str = ""
    vendor: str = ""
    product: str = ""
    device_class: str = ""
    addresses: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    clean: Clean = Clean.RESET

    def matches(self, host_name: str, function: PciFunction) -> bool:
        """Whether it is about this function of this host."""
        return (
            (not self.hosts or host_name in self.hosts)
            and self.vendor in ("", function.vendor)
            and self.product in ("", function.product)
            and function.device_class.startswith(self.device_class)
            and (not self.addresses or function.address in self.addresses)
        )


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A PCI function as its host shows it. `address`: domain:bus:slot.function; `vendor`, `product`: four hexadecimal
    digits, `device_class`: six.

    `group`: its IOMMU group, `cell`: its NUMA cell, each None where the host knows none. `virtual_of`: the address of
    the physical function that it is a virtual one of. `driver`: which has it now. `foreign`: a machine that is not ours
    has it. `model`: where the host itself knows what it is and offers it without a rule, as a simulated one does.
    """

    address: str
    vendor: str
    product: str
    device_class: str
    group: int | None = None
    cell: int | None = None
    driver: str = ""
    virtual_of: str = ""
    foreign: bool = False
    model: str = ""


@dataclass(frozen=True, slots=True)
class HeldFunction:
    """One function of a unit that a member has. `ids`: vendor:product as it was claimed; another is not given."""

    address: str
    ids: str


@dataclass(frozen=True, slots=True)
class HeldDevice:
    """A unit that a member has claimed: its key, model and functions. `cell`: its host's NUMA cell, -1: not known."""

    key: str
    model: str
    functions: tuple[HeldFunction, ...]
    cell: int = -1


@dataclass(frozen=True, slots=True)
class Together:
    """`count` devices of a model that a member wants of the cells that it is pinned to (`local`), or all of one
    partition (`joint`). `near`: whether others are taken near to its cells, where some are free there."""

    model: str
    count: int
    local: bool = False
    joint: bool = False
    near: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """What a rule offers of a host. `state`: available, foreign or blocked, `reason`: why it is not available; gone: a
    rule names its address, and the host has no such device there.

    `partition`: which of its host's it is in, empty: in none.
    """

    key: str
    model: str
    functions: tuple[HeldFunction, ...]
    cell: int = -1
    group: int = -1
    virtual_of: str = ""
    clean: Clean = Clean.RESET
    state: DeviceState = DeviceState.AVAILABLE
    reason: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A unit as it is recorded. `state`: of all that is known; `reason`: why it is neither available nor claimed.

    `instance_uuid`, `group_uuid`: who has claimed it. `partition`: see `Unit`.
    """

    host_uuid: str
    key: str
    model: str
    functions: tuple[HeldFunction, ...]
    cell: int
    iommu_group: int
    virtual_of: str
    clean: Clean
    state: DeviceState
    reason: str = ""
    instance_uuid: str = ""
    group_uuid: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """Devices of a host that are joined, as by NVLink: `addresses` of their accelerators."""

    host: str
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """All of them, in the order of the file: the form in which they are stored. `hosts`: the uuid of each host of the
    file that they name, with the name that it has there."""

    rules: tuple[DeviceRule, ...] = field(default_factory=tuple)
    partitions: tuple[Partition, ...] = field(default_factory=tuple)
    hosts: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, host_uuid: str, now: str) -> str:
        """How rules call a host that is called `now`: as the file does, whatever a call has named it since; a host of
        another name that took the one which the file gives to this is not meant by it, and is called nothing."""
        return self.hosts.get(host_uuid) or ("" if now in self.hosts.values() else now)

    def partitions_of(self, host_name: str) -> dict[str, str]:
        """The partition of each address of the host that is in one."""
        return {at: one.name for one in self.partitions if one.host == host_name for at in one.addresses}

    def may_offer(self, host_name: str, address: str) -> bool:
        """Whether a rule could offer an accelerator there, by the addresses and hosts that rules name: what it is by
        vendor, product and class its host alone knows."""
        return any(
            rule.kind is RuleKind.GPU
            and (not rule.hosts or host_name in rule.hosts)
            and (not rule.addresses or address in rule.addresses)
            for rule in self.rules
        )


def partition_violations(partitions: Sequence[Partition]) -> Iterator[tuple[int, FieldViolation]]:
    """What is wrong with the partitions of one host, by their positions."""
    for index, one in enumerate(partitions):
        if any(other.name == one.name for other in partitions[:index]):
            yield index, FieldViolation("name", f"{one.name!r} is that of another partition of the host")
        for address in one.addresses:
            if not _ADDRESS.fullmatch(address):
                yield index, FieldViolation("devices", f"has {address!r}, which is no PCI address such as 0000:65:00.0")
            for other in partitions[:index]:
                if address in other.addresses:
                    yield index, FieldViolation("devices", f"has {address}, which is in {other.name!r} as well")


def rule_violations(rules: Sequence[DeviceRule]) -> Iterator[tuple[int, FieldViolation]]:
    """What is wrong with rules, by their positions: malformed, matching everything, or contradicting an earlier one."""
    wrong = [tuple(_malformed(rule)) for rule in rules]
    for index, rule in enumerate(rules):
        for violation in wrong[index]:
            yield index, violation
        for before, other in enumerate(rules[:index]):
            if shared := _shared_address(rule, other):
                yield index, FieldViolation("addresses", f"names {shared}, which devices[{before}] names as well")
            elif not wrong[index] and not wrong[before] and (_includes(rule, other) or _includes(other, rule)):
                yield index, FieldViolation("", f"is about functions of a host that devices[{before}] is about too")


def _malformed(rule: DeviceRule) -> Iterator[FieldViolation]:
    if rule.kind is RuleKind.GPU:
        yield from gpu_model_violation(rule.model, "model")
    elif rule.model:
        yield FieldViolation("model", "must be empty for a companion, which nobody asks for by itself")
    for name, value, form in (
        ("vendor", rule.vendor, _ID),
        ("product", rule.product, _ID),
        ("pci_class", rule.device_class, _CLASS),
    ):
        if value and not form.fullmatch(value):
            digits = "two to six" if form is _CLASS else "four"
            yield FieldViolation(name, f"must be {digits} hexadecimal digits in lower case")
    for address in rule.addresses:
        if not _ADDRESS.fullmatch(address):
            yield FieldViolation("addresses", f"has {address!r}, which is no PCI address such as 0000:65:00.0")
    if rule.device_class.startswith(_BRIDGE):
        yield FieldViolation("pci_class", "must not be that of bridges, which no machine is given")
    if rule.product and not rule.vendor:
        yield FieldViolation("vendor", "is required beside a product, whose number is its vendor's own")
    if not (rule.product or rule.device_class or rule.addresses):
        yield FieldViolation("", "must name a vendor and product, a class or addresses: it would offer all of a host")
    if rule.addresses and not rule.hosts:
        yield FieldViolation("hosts", "is required beside addresses, which are other devices on other hosts")
    if rule.kind is RuleKind.COMPANION and rule.clean is Clean.NONE:
        yield FieldViolation("clean", "is said of the accelerator, not of its companion")


def _includes(one: DeviceRule, other: DeviceRule) -> bool:
    """Whether on some host `one` is about all that `other` is about, which nobody is given there then."""
    return (
        (not one.hosts or not other.hosts or not set(one.hosts).isdisjoint(other.hosts))
        and one.vendor in ("", other.vendor)
        and one.product in ("", other.product)
        and other.device_class.startswith(one.device_class)
        and (not one.addresses or 0 < len(other.addresses) == len(set(other.addresses) & set(one.addresses)))
    )


def _shared_address(one: DeviceRule, other: DeviceRule) -> str:
    """An address of one and the same host that both name; empty: none."""
    hosts = set(one.hosts) & set(other.hosts)
    return min(set(one.addresses) & set(other.addresses), default="") if hosts else ""


def units(
    rules: Sequence[DeviceRule],
    host_name: str,
    functions: Sequence[PciFunction],
    partitions: Mapping[str, str] | None = None,
) -> tuple[Unit, ...]:
    """What the rules offer of a host that shows these functions, by key. What cannot be given out is told as blocked,
    with the reason and the address that is in the way. `partitions`: of each address that is in one."""
    matching = {f.address: [i for i, rule in enumerate(rules) if rule.matches(host_name, f)] for f in functions}
    groups: dict[int, list[PciFunction]] = defaultdict(list)
    parents = {f.virtual_of for f in functions if f.virtual_of}
    for function in functions:
        if function.group is not None:
            groups[function.group].append(function)
    found = []
    for function in sorted(functions, key=lambda f: f.address):
        of = [rules[i] for i in matching[function.address]]
        if not _is_gpu(of, function):
            continue
        fellows = [f for f in groups.get(-1 if function.group is None else function.group, ()) if _counts(f, function)]
        reason = _in_the_way(function, matching, rules, fellows, parents)
        foreign = next((f.address for f in (function, *fellows) if f.foreign), "")
        rule = next((r for r in of if r.kind is RuleKind.GPU), None)
        state, why = DeviceState.AVAILABLE, ""
        if reason:
            state, why = DeviceState.BLOCKED, reason
        elif foreign:
            state, why = DeviceState.FOREIGN, f"a machine that is not ours has {foreign}"
        held = (function, *sorted(fellows, key=lambda f: f.address)) if not reason else (function,)
        found.append(
            Unit(
                key=function.address,
                model=function.model or (rule.model if rule else ""),
                functions=tuple(HeldFunction(f.address, f"{f.vendor}:{f.product}") for f in held),
                cell=-1 if function.cell is None else function.cell,
                group=-1 if function.group is None else function.group,
                virtual_of=function.virtual_of,
                clean=rule.clean if rule else Clean.RESET,
                state=state,
                reason=why,
                partition=(partitions or {}).get(function.address, ""),
            )
        )
    offered = {unit.key for unit in found}
    lacking = (unit for unit in _named(rules, host_name, functions, partitions or {}) if unit.key not in offered)
    return tuple(sorted([*found, *lacking], key=lambda unit: unit.key))


def _named(
    rules: Sequence[DeviceRule], host_name: str, functions: Sequence[PciFunction], partitions: Mapping[str, str]
) -> Iterator[Unit]:
    """Each address that a rule names on the host, as if there were no such device."""
    ids = {function.address: f"{function.vendor}:{function.product}" for function in functions}
    for index, rule in enumerate(rules):
        for address in sorted(set(rule.addresses)) if rule.kind is RuleKind.GPU and host_name in rule.hosts else ():
            why = f"devices[{index}] names it, and its host shows {ids.get(address, 'nothing')} there"
            of, gone = partitions.get(address, ""), DeviceState.GONE
            yield Unit(address, rule.model, (), clean=rule.clean, state=gone, reason=why, partition=of)


def _is_gpu(rules: Sequence[DeviceRule], function: PciFunction) -> bool:
    return bool(function.model) or any(rule.kind is RuleKind.GPU for rule in rules)


def _counts(fellow: PciFunction, of: PciFunction) -> bool:
    """Whether it must go with a function of the same group; bridges stay with the host."""
    return fellow.address != of.address and not fellow.device_class.startswith(_BRIDGE)


def _in_the_way(
    function: PciFunction,
    matching: Mapping[str, Sequence[int]],
    rules: Sequence[DeviceRule],
    fellows: Sequence[PciFunction],
    parents: set[str],
) -> str:
    """Why the function cannot be given to a machine; empty: it can."""
    offered = matching[function.address]
    if len(offered) > 1:
        return "it is offered by several rules: " + ", ".join(f"devices[{i}]" for i in offered)
    if function.device_class.startswith(_BRIDGE):
        return "it is a bridge, which no machine is given"
    if function.address in parents:
        return "it has virtual functions, which would go with it"
    if function.group is None and not function.model:
        return "it is in no IOMMU group: the host's IOMMU is off (intel_iommu=on or amd_iommu=on on its command line)"
    for fellow in fellows:
        of = [rules[i] for i in matching[fellow.address]]
        where = f"its IOMMU group {function.group} also holds {fellow.address}"
        if _is_gpu(of, fellow):
            return f"{where}, another accelerator: one machine gets a whole group, and no member asks for one"
        if not of:
            driver = f" (driver {fellow.driver})" if fellow.driver not in _HARMLESS else ""
            return f"{where}{driver}, which no rule offers"
    return ""


def chosen(free: Sequence[Device], count: int, cells: Sequence[int]) -> tuple[str, ...]:
    """The keys of the units that a member gets: those of the cells that it is pinned to first, or else of the cell that
    has enough and will have the fewest left, so that whole cells stay for others; then by key. `free`: at least
    `count`."""
    by_cell: dict[int, list[str]] = defaultdict(list)
    for one in sorted(free, key=lambda d: d.key):
        by_cell[one.cell].append(one.key)
    enough = [cell for cell, keys in by_cell.items() if len(keys) >= count]

    def rank(cell: int) -> tuple[bool, bool, int, int]:
        left = len(by_cell[cell])
        return (cell not in cells, cell not in enough, left if cell in enough else -left, cell)

    order = sorted(by_cell, key=rank)
    return tuple([key for cell in order for key in by_cell[cell]][:count])
