"""Deadlines that passed while nobody looked: none is judged before the members were looked at."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.groups import Group
from service.lifecycle import silence
from service.lifecycle.effects import next_deadline
from service.lifecycle.members import LAUNCHING, S
from service.lifecycle.present import held_to_present
from service.lifecycle.updating import gangs

LOOK_MS = 15_000
"""A guest that lives says something within this time after somebody began to listen."""


@dataclass(slots=True)
class Patience:
    """`since`: the database's time (ms) from which somebody has looked; `began`: the same moment by the clock that only
    goes on (ms). What looks late may have been ready long before either."""

    since: int = 0
    began: int = 0

    def anew(self, now: int, steady: int) -> None:
        """Somebody looks from now on."""
        self.since, self.began = now, steady

    def judges(self, group: Group, now: int, steady: int) -> bool:
        """Whether what passed is to be looked at now, and nothing of it passed unseen."""
        if self.left_ms(group, steady):
            return False
        deadline = next_deadline(group)
        return 0 < deadline <= now or any(held_to_present(gang, now) is not gang for gang in gangs(group))

    def ends(self, group: Group, now: int, steady: int) -> list[int]:
        """The time (ms) at which that is to be asked again, if at all."""
        deadline = next_deadline(group)
        return [max(deadline, now + self.left_ms(group, steady))] if deadline else []

    def left_ms(self, group: Group, steady: int) -> int:
        """For how long nothing of the group is given up for a time that passed; 0 where nothing passed unseen."""
        left = self.began + LOOK_MS - steady
        return left if left > 0 and any(0 < at <= self.since for gang in gangs(group) for at in _late(gang)) else 0


def _late(group: Group) -> list[int]:
    """The times (ms) at which something of the group is given up that may do well."""
    boots = [m.deadline_at for m in group.instances if m.status in (S.BOOTING, S.CREATED)]
    own = [] if group.served or group.phase not in LAUNCHING else [group.deadline_at]
    return [*boots, *own, *silence.hang_at(group)]
