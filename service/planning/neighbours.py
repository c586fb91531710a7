"""Which members of other groups may move so that a group fits, and where to, as the planner is asked. Pure.

Which hosts would take a member as it runs is known from their drivers, a member and a host at a time. That is too many
questions for a fleet; so the planner is asked first, and what no host takes is left out of the next question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from placement.model import Snapshot
from placement.modes.moves import Evictions, MadeRoom, Move, Neighbours
from placement.modes.plans import Rebalance
from service.domain.fleet import Host
from service.domain.groups import Group, GroupPhase, Instance, MoveStage
from service.domain.specs import MachineType
from service.lifecycle.moving import wish
from service.planning import translate
from service.planning.residents import GROUP_LABEL

VM = MachineType.VIRTUAL_MACHINE
LiveTargets = Callable[[Group, Instance], frozenset[str]]
"""The hosts that would take a member's machine as it runs."""


def movable(group: Group, now: int) -> list[Instance]:
    """The members that could be moved as they run: no machines of their own."""
    if group.phase is not GroupPhase.RUNNING or group.updating or group.eviction is not None:
        return []
    wishing = (m for m in group.instances if m.move is MoveStage.NONE and not m.room and m.spec.type is VM)
    return [m for m in wishing if wish(m, now).move is MoveStage.WANTED]


def groups_in(snapshot: Snapshot) -> list[str]:
    """The uuids of all groups with members in it."""
    return sorted({m.labels[GROUP_LABEL] for host in snapshot.hosts for m in host.members})


@dataclass(slots=True)
class Others:
    """The groups whose members may move; `refused`: members that may not. `takers`: what is known of members so far."""

    groups: Sequence[Group]
    snapshot: Snapshot
    hosts: Mapping[str, Host]
    now: int
    refused: set[str] = field(default_factory=set)
    takers: dict[str, frozenset[str]] = field(default_factory=dict)
    members: dict[str, tuple[Group, Instance]] = field(init=False)

    def __post_init__(self) -> None:
        self.refused |= on_several(self.snapshot)
        self.members = {m.uuid: (group, m) for group in self.groups for m in movable(group, self.now)}

    def asked(self) -> tuple[Neighbours, ...]:
        """The members as the planner takes them, each where it may go as far as that is known."""
        found = []
        for group in self.groups:
            free = frozenset(m.uuid for m in movable(group, self.now) if m.uuid not in self.refused)
            one = translate.neighbours(group, free, self.snapshot, self.hosts)
            if one is not None:
                closed = self._closed(m for m in group.instances if m.uuid in free)
                found.append(translate.kept_from(one, closed) if closed else one)
        return tuple(found)

    def _closed(self, members: Iterable[Instance]) -> frozenset[str]:
        """Hosts that some of the members cannot go to; its own is not asked for, since nobody moves to where it is."""
        closed: set[str] = set()
        for member in members:
            if (takers := self.takers.get(member.uuid)) is not None:
                closed |= self.hosts.keys() - takers - {member.host_uuid}
        return frozenset(closed)

    def unfit(self, room: MadeRoom | Evictions | Rebalance, live_targets: LiveTargets) -> bool:
        """Whether a move was planned that cannot be made live; what was learned counts from now on."""
        wrong = [move for move in room.moves if move.target not in self._takers(move, live_targets)]
        for move in wrong:
            group, member = self.members[move.member]
            takers = self._takers(move, live_targets)
            self.takers[member.uuid] = takers
            if not takers or len(group.instances) > 1:
                self.refused.add(member.uuid)  # a rule for all of its group would say more than is known
        return bool(wrong)

    def _takers(self, move: Move, live_targets: LiveTargets) -> frozenset[str]:
        known = self.takers.get(move.member)
        return live_targets(*self.members[move.member]) if known is None else known


def on_several(snapshot: Snapshot) -> set[str]:
    """The members with claims on more than one host: what a move has left there was not seen to be gone yet."""
    hosts_of = Counter(member.id for host in snapshot.hosts for member in host.members)
    return {member for member, hosts in hosts_of.items() if hosts > 1}
