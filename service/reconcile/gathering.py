"""Facts that nobody waits for: they are written together with those that come right after them.

Members of a gang are made, run and are ready at different moments. Where nothing more can be done because of one of
them, and the group has not come to rest, it is told with the next ones instead of in a commit of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.groups import Group
from service.lifecycle.effects import Effect, Observe, effects
from service.lifecycle.facts import Fact, Observation, Observed
from service.lifecycle.transitions import advance_all
from service.lifecycle.updating import at_rest

GATHER_MS = 100
"""For so long at most a fact waits for others: nobody sees it come later."""
_COMES_ON = frozenset({Observation.PAUSED, Observation.EXECUTING, Observation.READY})


@dataclass(slots=True)
class Gathering:
    """Of one worker. `until`: when (ms of its steady clock) what is held is written at the latest."""

    until: int = 0
    _facts: list[Fact] = field(default_factory=list)
    _after: Group | None = None
    """What comes of them."""

    def __bool__(self) -> bool:
        """Whether any are held."""
        return bool(self._facts)

    def holds(self, instance_uuid: str) -> bool:
        """Whether what was seen of the member is not written yet: nothing is done with it before that."""
        return any(isinstance(fact, Observed) and fact.instance_uuid == instance_uuid for fact in self._facts)

    def to_write(
        self, facts: Sequence[Fact], group: Group, now: int, steady: int, *, calls: bool, urgent: bool
    ) -> list[Fact]:
        """What is to be written now: nothing, or all that was held with these `facts`, in their order.

        `calls`: whether any call is under way; `urgent`: nothing is to be held.
        """
        if not self._facts:
            self.until, self._after = steady + GATHER_MS, group
        self._facts += facts
        if self._facts and not urgent and steady < self.until and self._may_wait(facts, group, now, calls=calls):
            return []
        written, self._facts, self._after = self._facts, [], None
        return written

    def _may_wait(self, facts: Sequence[Fact], group: Group, now: int, *, calls: bool) -> bool:
        if not all(_comes_on(fact, calls=calls) for fact in facts):
            return False
        assert self._after is not None
        self._after = advance_all(self._after, facts, now)
        return not at_rest(self._after) and _to_do(self._after, now) <= _to_do(group, now)


def _comes_on(fact: Fact, *, calls: bool) -> bool:
    """Whether it tells of a member that comes on. What was made, or let run, is looked at once it is written: it waits
    only for calls that are under way."""
    if not isinstance(fact, Observed) or fact.observation not in _COMES_ON or fact.reset_ms >= 0:
        return False
    return calls or fact.observation is Observation.READY


def _to_do(group: Group, now: int) -> set[Effect]:
    return {effect for effect in effects(group, now) if not isinstance(effect, Observe)}
