"""How a gang stands, counted: all that follows for a group from where its members stand follows from this. Pure.

A fact changes one member, and a gang may have a thousand. So a few of the last counts are kept, and where a gang is one
of those but for a few members, these alone are counted anew: the others are told from each other by nothing but which
object they are (`tests/service/lifecycle/test_census.py` compares with a count of all).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from operator import is_not
from typing import NamedTuple

from service.domain.groups import Instance, InstanceStatus

KEPT = 16
"""So many counts are kept, of 2 MiB in all where each gang has a thousand members of its own."""
FEW = 32
"""A gang with no more members is counted at once."""


class Stand(NamedTuple):
    """What is counted of a member. `unknown`: its host is silent."""

    status: InstanceStatus
    joining: bool
    leaving: bool
    stop_asked: bool
    unknown: bool
    told_epoch: int


Census = Mapping[Stand, int]
"""How many members stand so, of each way in which one does."""

_kept: tuple[tuple[Sequence[Instance], Census], ...] = ()


def census(members: Sequence[Instance]) -> Census:
    """Of these members, in whichever order."""
    if len(members) <= FEW:
        return counted(members)
    global _kept
    # Of one moment: another thread may replace it meanwhile.
    kept = _kept
    found = next((one for known, one in kept if known is members), None)
    if found is None:
        found = _from_one_before(members, kept) or counted(members)
        _kept = ((members, found), *kept[: KEPT - 1])
    return found


def counted(members: Iterable[Instance]) -> Census:
    """As `census`, with a look at each."""
    return Counter(map(_stand, members))


def _from_one_before(members: Sequence[Instance], kept: Iterable[tuple[Sequence[Instance], Census]]) -> Census | None:
    for known, count in kept:
        if len(known) == len(members) and known[0].uuid == members[0].uuid:
            others = list(map(is_not, known, members))
            gone = list(compress(known, others))
            if len(gone) <= len(members) // 4:
                changed = Counter(count)
                changed.subtract(map(_stand, gone))
                changed.update(map(_stand, compress(members, others)))
                return +changed
    return None


def _stand(member: Instance) -> Stand:
    return Stand(
        member.status, member.joining, member.leaving, member.stop_asked, bool(member.unknown_since), member.told_epoch
    )
