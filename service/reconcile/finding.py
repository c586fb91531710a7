"""A group as its worker finds it: its rows, and what is in quarantine of its machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.domain.groups import Group
from service.store import groups, ownership
from service.store.connection import Connection
from service.store.groups import Lease

Found = tuple[Group, Mapping[str, str]]
"""The group; and member -> host, of its machines in quarantine."""

MOST_AT_ONCE = 8
"""Of so many groups that are taken at once their rows are read with their leases; of more each worker reads its own."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look at the due groups has found. `now`: the database's time, ms; `found`: of those that were taken, as
    they are; `ahead`: hosts -> why; `flagged`: those that may be; `later`: groups that were put off -> when due, ms;
    `free`: deployed ones that were set free."""

    now: int
    leases: tuple[Lease, ...]
    found: Mapping[str, Found]
    ahead: Mapping[str, str]
    flagged: frozenset[str]
    later: Mapping[str, int]
    free: frozenset[str] = frozenset()


def find(connection: Connection, uuid: str) -> Found:
    """Raises NotFound."""
    return groups.load(connection, uuid), ownership.held_of(connection, uuid)


def find_taken(connection: Connection, taken: Sequence[Lease]) -> Mapping[str, Found]:
    """Those whose leases were taken in this transaction, by uuid; none where they are many."""
    uuids = [lease.uuid for lease in taken]
    if not uuids or len(uuids) > MOST_AT_ONCE:
        return {}
    held = ownership.held_of_each(connection, uuids)
    return {group.uuid: (group, held.get(group.uuid, {})) for group in groups.load_many(connection, uuids)}
