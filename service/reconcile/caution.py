"""What a process may not conclude of a group that was accepted before it began, until hosts were looked at.

The database may be an older copy, and a host that has not answered yet may be the only one that can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.domain.groups import Group, InstanceStatus
from service.lifecycle.facts import Fact, Observation, Observed
from service.lifecycle.transitions import LAUNCHING
from service.reconcile.custody import Custody
from service.reconcile.monitor import HostMonitor

CLAIMED = InstanceStatus.CLAIMED
UNSENT = (InstanceStatus.PENDING, CLAIMED)


@dataclass(slots=True)
class Caution:
    """Of one group, for as long as one worker has it. `found` comes first."""

    custody: Custody
    monitors: Mapping[str, HostMonitor]
    _ran_before: bool = False
    _unsent: frozenset[tuple[str, int]] = frozenset()

    def found(self, group: Group) -> None:
        """The group as it was when it was taken."""
        self._ran_before = group.go or group.served
        if group.created_at < self.custody.since:
            self._unsent = frozenset((m.uuid, m.attempt) for m in group.instances if m.status in UNSENT)

    @property
    def waits(self) -> bool:
        """Whether nothing is begun yet.

        What has run before is left as it is until every host was looked at or had its time: the machines that are
        missed may be elsewhere. What was accepted before this process began and not sent waits longer for those that
        are missing: its machines may run there since.
        """
        return (self._ran_before and not self.custody.judged) or (bool(self._unsent) and bool(self.custody.missing))

    def may_have_been_sent(self, group: Group) -> Iterator[Fact]:
        """Members that were claimed before this process began, on hosts that it has had no word of.

        That nothing was sent to them is the database's word alone. Where it is an older copy their machines run, and
        the one host that could tell is silent: placed anew they would run twice.
        """
        if not self._unsent or group.phase not in LAUNCHING:
            return
        for member in group.instances:
            if member.status is not CLAIMED or (member.uuid, member.attempt) not in self._unsent:
                continue
            monitor = self.monitors.get(member.host_uuid)
            if monitor is None or (monitor.settled and monitor.answered_seconds is None):
                yield Observed(member.uuid, member.attempt, Observation.DISPATCHED)
