"""How the planner sees machines that are given out as a whole. Pure translation.

Bare metal has resources of its own names, so that neither kind of member counts the other's hosts as room: `machine`,
and each amount of its inventory with `machine.` before it. A member takes `WHOLE` of `machine`, of which no host has as
much as two members would need, so that one is all that a machine takes, whatever it leaves idle. What a machine has of
it beyond that rises with its size: the strategy `least_lost_value` then counts a smaller machine as the smaller loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from placement.model import Explanation, Flavour, Shortage
from service.domain.fleet import OF_MACHINES, Host, Size
from service.domain.specs import MachineType

MACHINE = "machine"
WHOLE = 16
"""What a member takes of `MACHINE`, and how many sizes of machines are told apart; a power of two."""
_OF_IT = f"{MACHINE}."


def vector(amounts: Mapping[str, int]) -> dict[str, int]:
    """These amounts by the names that bare metal has them under."""
    return {f"{_OF_IT}{name}": amount for name, amount in amounts.items()}


def demand(asked: Mapping[str, int]) -> dict[str, int]:
    """What a member that asks for these amounts takes in the planner's eyes."""
    return {MACHINE: WHOLE, **vector(asked)}


def asks(kind: MachineType, label: str) -> bool:
    """Whether a label that a group requires is asked of the hosts of its members of this type."""
    return kind is MachineType.BARE_METAL or label not in OF_MACHINES


def size(host: Host) -> Size:
    """All that the machine has."""
    return tuple(sorted((name, amount) for name, amount in host.allocatable.items() if amount))


def grades(hosts: Iterable[Host]) -> Mapping[Size, int]:
    """Size of machine -> what it has of `MACHINE`: `WHOLE` of the smallest, more of each larger one, less than twice.

    A size is measured by the sum over its resources of its share of what machines have of them on average, as flavours
    are. Of more than `WHOLE` sizes neighbours are counted as one.
    """
    sizes = {size(host) for host in hosts if host.bare_metal}
    sizes.discard(())
    totals: dict[str, list[int]] = {}
    for one in sizes:
        for name, amount in one:
            totals.setdefault(name, []).append(amount)
    worth = {one: sum(Fraction(a * len(totals[n]), sum(totals[n])) for n, a in one) for one in sizes}
    ordered = sorted(sizes, key=lambda one: (worth[one], one))
    count = min(len(ordered), WHOLE)
    step = WHOLE // (1 << max(0, count - 1).bit_length())
    return {one: WHOLE + step * (number * count // len(ordered)) for number, one in enumerate(ordered)}


def flavours(graded: Mapping[Size, int]) -> tuple[Flavour, ...]:
    """What room on machines is measured by: each size of them."""
    return tuple(Flavour({MACHINE: amount}) for amount in sorted(set(graded.values())))


def capacity(amounts: Mapping[str, int], grade: int) -> dict[str, int]:
    """What a machine has in the planner's eyes."""
    return {MACHINE: grade, **vector(amounts)}


def told(explanation: Explanation) -> Explanation:
    """The explanation with the names that callers know, and machines counted as such."""
    nearest = explanation.nearest
    message = explanation.message.replace(_OF_IT, "")
    for one in explanation.shortages:
        if one.resource == MACHINE:
            message = message.replace(f"{one.missing} {MACHINE}", f"{_machines(one)} {MACHINE}")
    return replace(
        explanation,
        funnels=tuple(
            replace(f, resources=tuple((reason, _name(name), hosts) for reason, name, hosts in f.resources))
            for f in explanation.funnels
        ),
        nearest=replace(nearest, shortages=_shortages(nearest.shortages)) if nearest else None,
        shortages=_shortages(explanation.shortages),
        cures=tuple(replace(cure, amounts=_shortages(cure.amounts)) for cure in explanation.cures),
        message=message,
    )


def _shortages(short: tuple[Shortage, ...]) -> tuple[Shortage, ...]:
    return tuple(
        Shortage(MACHINE, _machines(one)) if one.resource == MACHINE else replace(one, resource=_name(one.resource))
        for one in short
    )


def _machines(short: Shortage) -> int:
    return -(-short.missing // WHOLE)


def _name(resource: str) -> str:
    return resource.removeprefix(_OF_IT)


def to_be_cleaned(count: int) -> str:
    """What to say of machines that are left out until they were cleaned."""
    machines = f"{count} machines are" if count > 1 else "1 machine is"
    return f"; {machines} left out until what another project left there was cleaned" if count else ""
