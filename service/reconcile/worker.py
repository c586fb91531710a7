"""Works on one group under a lease until it is at rest.

Only this loop writes to the group: driver calls run concurrently, what came of them comes back as facts, and every fact
goes through `changes.apply` with the lease's epoch. A lease that was lost stops everything at once; calls that still
run are idempotent and bound to an attempt, so the next owner finds a state that it can go on from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from service.domain.groups import Group
from service.errors import InvariantViolation, NotFound, Unavailable
from service.failpoints import failpoint
from service.lifecycle.effects import (
    AwaitRoom,
    Create,
    Dispatch,
    Effect,
    FindTarget,
    GiveWay,
    Observe,
    Plan,
    Resume,
    effects,
)  # fmt: skip
from service.lifecycle.evicting import makes_room
from service.lifecycle.facts import ClockLeapt, Fact, HostAnswers, HostSilent, Observation, Observed, Ticked
from service.lifecycle.transitions import FINAL, PLACED
from service.lifecycle.updating import at_rest, gang_of
from service.reconcile.caution import Caution
from service.reconcile.context import WorkerContext
from service.reconcile.database_time import DatabaseTime
from service.reconcile.ends import count_ends
from service.reconcile.finding import Found, find
from service.reconcile.gathering import Gathering
from service.reconcile.outcomes import EffectResult, Sends
from service.reconcile.patience import Patience
from service.reconcile.placing import Placing
from service.reconcile.slots import BACKOFF_FIRST_MS, BACKOFF_MOST_MS, Slot, key_of
from service.reconcile.tracing import traced
from service.store import clock, groups
from service.store.connection import Connection
from service.transactions import changes
from service.transactions.changes import LeaseLost
from service.transactions.together import Change

logger = logging.getLogger(__name__)

LEASE_MS, RENEW_MS, TICK_MS, REST_MS = 45_000, 10_000, 2_000, 10_000


@dataclass(slots=True)
class GroupWorker:
    """One group's work. `run` returns when the lease was given back or lost. `all_hinted`: something was noticed before
    it was taken, so older listings will not do. `found`: as it was when it was taken; `left`: as what it was left."""

    context: WorkerContext
    uuid: str
    epoch: int
    lease_until: int
    time: DatabaseTime
    all_hinted: bool = False
    patience: Patience = field(default_factory=Patience)
    _slots: dict[str, Slot] = field(default_factory=dict)
    _sends: Sends = field(default_factory=Sends)
    _gathering: Gathering = field(default_factory=Gathering)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: bool = False
    _reload: bool = False
    _giving_back: bool = False
    _given: bool = False
    found: Found | None = None
    left: Group | None = None
    _clock_was_set: bool = False
    _leapt_ms: int = 0
    _quarantined: Mapping[str, str] = field(default_factory=dict)
    _was_held: bool = False
    _placing: Placing = field(init=False)
    _caution: Caution = field(init=False)

    def __post_init__(self) -> None:
        self._placing = Placing(self.context, self._now, self._steady)
        self._caution = Caution(self.context.custody, self.context.monitors)

    def poke(self) -> None:
        """The stored group changed (a caller's intent)."""
        self._reload = True
        self._wake.set()

    def hint(self, instance_uuid: str) -> None:
        """Something changed with a member's machine."""
        self._slots.setdefault(instance_uuid, Slot()).hinted = True
        self._wake.set()

    @property
    def hinted(self) -> bool:
        """Whether a hint has not been followed yet."""
        return any(slot.hinted for slot in self._slots.values())

    def host_changed(self) -> None:
        """A host fell silent or answers again."""
        self._wake.set()

    def clock_set(self) -> None:
        """The database's clock was set: until the lease is renewed, its end says nothing to others."""
        self._clock_was_set = True
        self._wake.set()

    def stop(self) -> None:
        """Start nothing new; give the lease back once running calls have ended."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Drive the group. Ends quietly where the lease is lost; database trouble is waited out within the lease."""
        group: Group | None = None
        failpoint("worker.started")
        try:
            while True:
                self._wake.clear()
                try:
                    group = await self._step(group)
                    if self._given or await self._finished(group):
                        self.left = group
                        return
                except Unavailable as error:
                    logger.warning("group %s: %s; waiting", self.uuid, error)
                    await asyncio.sleep(BACKOFF_FIRST_MS / 1000)
                    self._reload = True
                    if self._now() >= self.lease_until:
                        return
                    continue
                await self._sleep(group)
        except (LeaseLost, NotFound):
            self.context.metrics.lease_losses.inc()
            logger.info("group %s: the lease of epoch %d is over", self.uuid, self.epoch)
        except InvariantViolation:
            self.context.metrics.invariant_violations.inc()
            # Frozen: the lease is kept until it ends, so that nothing goes on by itself before the alarm was seen.
            logger.exception("group %s: an invariant does not hold; the group is left as it is", self.uuid)
        finally:
            await self._abandon()

    # --- one step ---------------------------------------------------------------------------------------------------

    async def _step(self, group: Group | None) -> Group:
        now = self._now()
        if group is None:
            group = await self._load() if self.found is None else self._read(*self.found)
            self._caution.found(group)
        known = group
        # Where the answer to a give-back was lost it may have been committed: nothing may be done before that is known.
        if self._giving_back or self._clock_was_set or now >= self.lease_until - LEASE_MS + RENEW_MS:
            await self._renew()
            now = self._now()
        facts, changed, group = self._outcomes(group)
        changed, self._reload = changed or self._reload, False
        if changed:
            group = await self._load()
        urgent = self._is_urgent(group, now) or changed
        if self._leapt_ms:
            group = await self._apply(group, [ClockLeapt(self._leapt_ms)], now)
            self._leapt_ms = 0
        calls = any(slot.task is not None for slot in self._slots.values())
        facts = self._gathering.to_write(facts, group, now, self._steady(), calls=calls, urgent=urgent)
        if self._gathering:
            self._start(group, now)
            return group
        if facts:
            failpoint("worker.outcomes")
            before, group = group, await self._apply(group, facts, now)
            count_ends(self.context.metrics, before, group, now)
            failpoint("worker.applied")
            self.context.metrics.reconcile_steps.labels("changed").inc()
            if self._given:
                self._placing.line.told_others(self.context, known, group, now)
                return group
        facts = await self.context.calls.logs.before_end(group, self._circumstances(group, now), now)
        facts = [*facts, *await self._placing.rooms.closed(group)]
        group = await self._apply(group, facts, now)
        if self._was_held and not self.context.custody.held:
            group = await self._load()  # a host that was claimed since may have machines in quarantine
        self._was_held = self.context.custody.held
        self._placing.line.told_others(self.context, known, group, now)
        if not self._stopping and not self._caution.waits:
            self._start(group, now)
        return group

    def _is_urgent(self, group: Group, now: int) -> bool:
        """Whether nothing that was seen may wait for more to be seen: something else is to be told, or looked at."""
        told = self._stopping or self._leapt_ms or self._caution.waits or self._circumstances(group, now)
        return bool(told) or any(slot.hinted and self._gathering.holds(key) for key, slot in self._slots.items())

    async def _apply(self, group: Group, facts: Sequence[Fact], now: int) -> Group:
        """The group after the facts, written where they change it; where it comes to rest, as in `_give_back` too."""
        foreseen = changes.foreseen(group, facts, now)
        if foreseen is not None and foreseen.group == group:
            return group
        rests = groups.Freed(_due_at(foreseen.group, now)) if foreseen and self._may_rest(foreseen.group, now) else None
        self._giving_back = rests is not None
        change = Change(group, foreseen, facts, now, self.epoch, rests)
        stored, self._given = await self.context.changes.write(change)
        self._giving_back = False
        return stored

    def _may_rest(self, after: Group, now: int) -> bool:
        """Whether nobody would have to do anything about the group if it were so, until it is due again."""
        busy = any(s.task is not None for s in self._slots.values()) or self.hinted or self.all_hinted
        told = self._stopping or self._reload or self._leapt_ms or self._was_held or self.context.custody.held
        if not at_rest(after) or busy or told or self._caution.waits or makes_room(after):
            return False
        open_effects = any(not isinstance(effect, Observe) for effect in effects(after, now))
        return not (open_effects or self.patience.left_ms(after, self._steady()) or self._circumstances(after, now))

    async def _load(self) -> Group:
        return self._read(*await self.context.store.read(lambda c: find(c, self.uuid)))

    def _read(self, group: Group, quarantined: Mapping[str, str]) -> Group:
        for uuid in sorted(quarantined.keys() - self._quarantined.keys()):
            logger.warning("a machine of instance %s is in quarantine on host %s: no other is made or let run beside "
                           "it, until an operator adopts or removes it", uuid, quarantined[uuid])  # fmt: skip
        self._quarantined = quarantined
        if group.epoch != self.epoch:
            raise LeaseLost(self.uuid)
        return group

    async def _renew(self) -> None:
        asked_at = asyncio.get_running_loop().time()

        def renew(connection: Connection) -> tuple[int, bool]:
            present = clock.now(connection)
            return present, groups.renew(connection, self.uuid, self.epoch, present + LEASE_MS)

        present, mine = await self.context.store.write(renew)
        if not mine:
            raise LeaseLost(self.uuid)
        failpoint("worker.renewed")
        self._giving_back = self._clock_was_set = False
        if (leapt := present - self._now()) > clock.JUMP_MS:
            self._leapt_ms += leapt
        self.time, self.lease_until = DatabaseTime(present, asked_at), present + LEASE_MS

    def _outcomes(self, group: Group) -> tuple[list[Fact], bool, Group]:
        """Facts of the calls that have ended, whether one changed the stored group unseen, and the group as known.
        A call that failed is tried again after a growing pause."""
        facts: list[Fact] = []
        changed = False
        for slot in self._slots.values():
            if slot.task is None or not slot.task.done():
                continue
            task, slot.task = slot.task, None
            outcome = task.result()
            facts += outcome.facts
            if outcome.retry:
                slot.not_before = self._steady() + slot.pause
                slot.pause = min(slot.pause * 2, BACKOFF_MOST_MS)
            else:
                slot.not_before, slot.pause = 0, BACKOFF_FIRST_MS
            changed = changed or outcome.reload
            if outcome.stored is not None and outcome.stored.version > group.version:
                group = outcome.stored
        return facts, changed, group

    def _circumstances(self, group: Group, now: int) -> list[Fact]:
        """Deadlines that passed, and hosts that fell silent or answer again. A database older than its hosts may have
        missed that a member was let run, or a group came up in time: while that is so nobody is given up, and silence
        is told of such alone as it leaves where they are."""
        facts: list[Fact] = [*self._caution.may_have_been_sent(group)]
        older = self.context.custody.held or self._caution.waits
        steady = self._steady()
        if older:
            self.patience.anew(now, steady)
        elif self.patience.judges(group, now, steady):
            facts.append(Ticked())
        for host_uuid in sorted({m.host_uuid for m in group.instances if m.host_uuid and m.status in PLACED}):
            monitor = self.context.monitors.get(host_uuid)
            if monitor is None or not monitor.settled:
                continue  # right after a start, or after another replica took the host in, nobody knows yet
            seated = [m for m in group.instances if m.host_uuid == host_uuid and m.status in PLACED]
            if older and not all(m.was_resumed for m in seated):
                continue
            if monitor.silent and any(not m.unknown_since for m in seated):
                facts.append(HostSilent(host_uuid))
            elif not monitor.silent and any(m.unknown_since for m in seated):
                facts.append(HostAnswers(host_uuid))
                self.patience.anew(now, steady)
        return facts

    def _start(self, group: Group, now: int) -> None:
        if self.all_hinted:
            self.all_hinted = False
            for member in group.instances:
                self.hint(member.uuid)
        steady = self._steady()
        wanted = {key_of(effect, group): effect for effect in effects(group, now) if not self._is_held_back(effect)}
        for key, slot in self._slots.items():
            if key not in wanted:
                slot.hinted = False  # nothing is left to do for this member, so nobody needs to look
        for key, effect in wanted.items():
            slot = self._slots.setdefault(key, Slot())
            busy = slot.task is not None or self._gathering.holds(key)
            if busy or steady < slot.not_before or not slot.is_due(effect, steady):
                continue
            hinted, slot.hinted = slot.hinted, False
            failpoint("worker.starting")
            slot.task = asyncio.create_task(self._watched(group, effect, hinted), name=f"{self.uuid} {effect}")
            slot.task.add_done_callback(lambda _task: self._wake.set())

    def _is_held_back(self, effect: Effect) -> bool:
        """Whether a second machine of one member might run by it (ARCHITECTURE, I1)."""
        return isinstance(effect, Create | Resume) and effect.instance_uuid in self._quarantined

    async def _watched(self, group: Group, effect: Effect, hinted: bool) -> EffectResult:
        perform = partial(self._perform, group, effect, hinted)
        return await traced(self.context.store, self.uuid, self.epoch, effect, perform)

    async def _perform(self, group: Group, effect: Effect, hinted: bool) -> EffectResult:
        if isinstance(effect, AwaitRoom):
            return await self._placing.rooms.look(group)
        if isinstance(effect, GiveWay):
            return await self._placing.evictions.begin(group)
        members = effect.instance_uuids if isinstance(effect, Plan | Dispatch) else (effect.instance_uuid,)
        group = gang_of(group, members[0])
        if isinstance(effect, Plan):
            return await self._placing.gang(group, self._sends)
        if isinstance(effect, FindTarget):
            return await self._placing.target(group, group.instance(effect.instance_uuid), self._sends)
        if isinstance(effect, Dispatch):
            sent = [(uuid, group.instance(uuid).attempt) for uuid in members]
            self._sends.dispatched.update(sent)
            failpoint("worker.dispatched")
            return EffectResult([Observed(*key, Observation.DISPATCHED) for key in sent])
        left = self.lease_until - self._now()
        return await self.context.calls.perform(group, effect, self._sends, lease_left_ms=left, hinted=hinted)

    # --- between steps, and the end of the work -----------------------------------------------------------------------

    async def _sleep(self, group: Group) -> None:
        now, steady = self._now(), self._steady()
        times = [now + TICK_MS, self.lease_until - LEASE_MS + RENEW_MS, *self.patience.ends(group, now, steady)]
        times += [now + s.not_before - steady for s in self._slots.values() if s.not_before > steady]
        times += [now + self._gathering.until - steady] if self._gathering else []
        if self._reload:
            return
        try:
            async with asyncio.timeout(max(0.001, (min(times) - now) / 1000)):
                await self._wake.wait()
        except TimeoutError:
            self._reload = not self._gathering  # another process may have stored an intent meanwhile

    async def _finished(self, group: Group) -> bool:
        """Give the lease back where the group is at rest (or the process stops) and nothing runs any more."""
        if self._gathering or any(s.task is not None for s in self._slots.values()):
            return False
        if self._stopping:
            await self._give_back(self._now(), None)
            return True
        now, waits_until = self._now(), self._placing.line.rests_until(group, self._now())
        busy = not at_rest(group) or makes_room(group) or any(not isinstance(e, Observe) for e in effects(group, now))
        if self._reload or self.hinted or (not waits_until and (busy or self.patience.left_ms(group, self._steady()))):
            return False
        failpoint("worker.resting")
        self._reload = not await self._give_back(waits_until or _due_at(group, now), group.version)
        failpoint("worker.given_back")
        return not self._reload

    async def _give_back(self, due_at: int | None, seen_version: int | None) -> bool:
        """See `groups.give_back`. Raises Unavailable where it is not known whether it was committed."""
        uuid, epoch, self._giving_back = self.uuid, self.epoch, True
        given = await self.context.store.write(lambda c: groups.give_back(c, uuid, epoch, due_at, seen_version))
        self._giving_back = False
        return given

    async def _abandon(self) -> None:
        """Let running calls end: each has its own deadline, and what it does is found again by whoever is next."""
        await asyncio.gather(*(s.task for s in self._slots.values() if s.task is not None), return_exceptions=True)

    def _now(self) -> int:
        """The database's time, by which everything that is stored is measured; it may be set back."""
        return self.time.now()

    def _steady(self) -> int:
        """Milliseconds that only go on, by which this process measures its own pauses."""
        return int(asyncio.get_running_loop().time() * 1000)


def _due_at(group: Group, now: int) -> int | None:
    """When somebody has to look at the group again that is at rest; None: never."""
    return None if group.phase in FINAL else now + REST_MS
