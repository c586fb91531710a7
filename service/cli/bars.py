"""Capacities as bars of text. Nothing is drawn as free of a host that takes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from corral.v1 import fleet_pb2

from service.cli.explanation import amount_text

WIDTH = 20
# What a bar is made of, and what where that cannot be shown.
_LETTERS, _ASCII_LETTERS = ("█", "▓", "░", "·"), ("#", "%", "-", ".")
MAIN = ("vcpu", "memory")


def takes_new(host: fleet_pb2.Host) -> bool:
    """Whether new members may be placed on it, as GetCapacity, the metrics and the page have it."""
    return host.state == "Enabled" and host.status == "Connected"


def totals(hosts: Iterable[fleet_pb2.Host]) -> list[fleet_pb2.ResourceCapacity]:
    """Sums over the hosts that take new members, by resource."""
    sums: dict[str, fleet_pb2.ResourceCapacity] = {}
    for one in (one for host in hosts if takes_new(host) for one in host.capacities):
        of = sums.setdefault(one.resource, fleet_pb2.ResourceCapacity(resource=one.resource))
        for field in ("total", "reserved", "allocatable", "claimed", "foreign", "available"):
            setattr(of, field, getattr(of, field) + getattr(one, field))
        if one.HasField("used"):
            of.used += one.used
    return [sums[name] for name in sorted(sums, key=_order)]


def stranded(host: fleet_pb2.Host) -> list[str]:
    """Resources of which what is free is of no use, because there is no CPU or no memory left beside it."""
    used = [one.resource for one in host.capacities if one.resource in MAIN and one.available <= 0]
    return [one.resource for one in host.capacities if used and one.resource not in used]


def bar(of: fleet_pb2.ResourceCapacity, *, useless: bool = False, width: int = WIDTH) -> str:
    """`of` as a bar; `useless`: what is available is no room for anybody."""
    whole = max(of.allocatable, of.claimed + of.foreign, 1)
    claimed, foreign, closed, free = letters()
    ends = [round(width * taken / whole) for taken in (of.claimed, of.claimed + of.foreign)]
    return claimed * ends[0] + foreign * (ends[1] - ends[0]) + (closed if useless else free) * (width - ends[1])


def letters() -> tuple[str, str, str, str]:
    """For claimed, other machines, of no use, free: what standard output can show."""
    try:
        "".join(_LETTERS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII_LETTERS
    return _LETTERS


def legend() -> str:
    """What the letters of the bars say."""
    return "{} claimed, {} other machines, {} of no use or not given out, {} free".format(*letters())


def capacity_line(of: fleet_pb2.ResourceCapacity, *, useless: bool = False) -> str:
    """A resource with its bar and its amounts."""
    name = of.resource
    parts = [f"{amount_text(name, of.claimed)} of {amount_text(name, of.allocatable)} claimed"]
    if of.HasField("used"):
        parts.append(f"{_used_text(of)} used now")
    if of.foreign:
        parts.append(f"{amount_text(name, of.foreign)} used by other machines")
    if of.reserved:
        parts.append(f"{amount_text(name, of.reserved)} reserved")
    parts.append(f"{amount_text(name, of.available)} {'of no use' if useless else 'free'}")
    return f"{bar(of, useless=useless)}  {', '.join(parts)}"


def _used_text(of: fleet_pb2.ResourceCapacity) -> str:
    return amount_text("memory", round(of.used)) if of.resource == "memory" else f"{of.used:.1f} {of.resource}"


def short_bar(host: fleet_pb2.Host, resource: str) -> str:
    """One of a host's resources for a table: a bar, what is claimed and what is given out."""
    for one in host.capacities:
        if one.resource == resource:
            useless = resource in stranded(host) or not takes_new(host)
            claimed, of = (_short(resource, amount) for amount in (one.claimed, one.allocatable))
            return f"{bar(one, useless=useless, width=8)} {claimed}/{of}"
    return "-"


def devices(host: fleet_pb2.Host) -> str:
    """What is free of everything that is neither CPU nor memory."""
    return ", ".join(
        f"{one.resource} {one.available}/{one.allocatable}" for one in host.capacities if one.resource not in MAIN
    )


def cells(host: fleet_pb2.Host) -> str:
    """What is free of each NUMA cell; of a host with one cell nothing, which says what the host's own amounts say."""
    if len(host.numa_cells) < 2:
        return ""
    return ", ".join(f"{cell.number}: {_free(cell)}" for cell in host.numa_cells)


def _free(cell: fleet_pb2.NumaCell) -> str:
    of = sorted(cell.capacities, key=lambda one: _order(one.resource))
    return " ".join(amount_text(one.resource, one.available) for one in of)


def _short(resource: str, amount: int) -> str:
    return amount_text(resource, amount).removesuffix(f" {resource}")


def host_lines(host: fleet_pb2.Host) -> Iterator[str]:
    """A line for each resource of a host, and of each of its NUMA cells where it has several."""
    useless = stranded(host)
    for one in sorted(host.capacities, key=lambda of: _order(of.resource)):
        yield capacity_line(one, useless=one.resource in useless or not takes_new(host))
    for cell in host.numa_cells if len(host.numa_cells) > 1 else ():
        yield f"NUMA cell {cell.number}"
        for one in sorted(cell.capacities, key=lambda of: _order(of.resource)):
            yield f"  {capacity_line(one, useless=not takes_new(host))}"


def totals_lines(hosts: Sequence[fleet_pb2.Host]) -> Iterator[str]:
    """How many hosts, and a line for each resource."""
    closed = sum(not takes_new(host) for host in hosts)
    yield f"{len(hosts)} host(s)" + (f", {closed} of them take nothing new" if closed else "")
    for one in totals(hosts):
        yield capacity_line(one)
    yield legend()


def _order(resource: str) -> tuple[int, str]:
    return (MAIN.index(resource) if resource in MAIN else len(MAIN), resource)
