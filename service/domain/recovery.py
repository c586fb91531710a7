"""What a machine's own metadata tells of it, so that its rows can be written again from hosts alone. Pure data.

Metadata can be read by whoever may look at a hypervisor: values of environment variables and start-up parameters do not
stand in it, only which there are. Secrets by name (`secret://NAME`) stand in it as they stand in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.domain.catalog import ModelService
from service.domain.groups import Group, Instance

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """`group`: without members and nodes. `member`: as its machine was made. `entry`: the catalogue's that it was made
    from. `epoch`: of the start that the machine was made for. `ranks`: of all members at that time, such as `0-3,5`.

    `environment`, `entry_environment`: names of the variables whose values were left out, of the node specification and
    of the catalogue entry. `has_parameters`: the node specification has start-up parameters, which were left out.
    """

    group: Group
    member: Instance
    entry: ModelService | None = None
    epoch: int = 0
    ranks: str = ""
    environment: tuple[str, ...] = ()
    entry_environment: tuple[str, ...] = ()
    has_parameters: bool = False
    version: int = RECORD_VERSION


@dataclass(frozen=True, slots=True)
class ToldValues:
    """What a machine was told and its record leaves out, read from what its host keeps for it."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters: str = field(default="", repr=False)


def ranges(numbers: tuple[int, ...]) -> str:
    """Sorted numbers as `0-3,5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def numbers(text: str) -> frozenset[int]:
    """The numbers of `ranges`. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
