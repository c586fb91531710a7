"""The planner's last decisions with all that they were made from, kept in memory for whoever asks how one came about.

They show every tenant's members on every host, so only an administrator may see them.
"""

from __future__ import annotations

import math
import time
import uuid as uuids
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement import codec
from placement.model import Decision, Host, Node, Policy, Request, Snapshot
from placement.modes import rebalance_dump
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.plans import Limits, Rebalance, Roll
from service.errors import NotFound
from service.planning.planner import Planned, Planner
from service.planning.residents import GROUP_LABEL
from service.telemetry import traces
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from placement.modes.capacity import Room

MOST = 64
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class KeptDecision:
    """A decision and what it was made from. `created_at`: ms since the epoch."""

    uuid: str
    group_uuid: str
    created_at: int
    duration_ms: float
    snapshot: Snapshot
    request: Request
    policy: Policy
    decision: Decision

    @property
    def size(self) -> int:
        """How many members were to be placed."""
        return self.request.size

    @property
    def entries(self) -> int:
        """How many specs it holds beside its snapshot."""
        return len(self.request.nodes)

    def dump(self) -> str:
        """The text of the file that `python -m placement replay` takes."""
        return codec.dumps(codec.write_dump(self.snapshot, self.request, self.policy, self.decision)) + "\n"


@dataclass(frozen=True, slots=True)
class KeptRebalance:
    """A rebalance's plan and what it was made from. `created_at`: ms since the epoch."""

    uuid: str
    created_at: int
    duration_ms: float
    snapshot: Snapshot
    groups: tuple[Neighbours, ...]
    limits: Limits
    plan: Rebalance
    group_uuid: str = ""
    """It is about no single group."""

    @property
    def size(self) -> int:
        """How many members might move."""
        return sum(len(group.nodes) for group in self.groups)

    @property
    def entries(self) -> int:
        """How many specs it holds beside its snapshot."""
        return self.size + sum(len(group.staying) for group in self.groups)

    def dump(self) -> str:
        """The text of the file that `python -m placement replay` takes."""
        return codec.dumps(rebalance_dump.write_dump(self.snapshot, self.groups, self.limits, self.plan)) + "\n"


Kept = KeptDecision | KeptRebalance


class DecisionLog:
    """The last decisions: at most `most` of them, in about `most_bytes` of memory; the oldest are forgotten first.

    A snapshot shares most of its hosts with the next one, so an older one counts with the hosts that only it has.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: deque[Kept] = deque()
        self._own: deque[int] = deque()
        self._fleet = 0
        """Bytes of all hosts of the newest snapshot; `_own` counts what else each entry holds."""

    @property
    def bytes(self) -> int:
        """About how much memory the log holds."""
        return sum(self._own) + self._fleet

    def add(self, kept: Kept) -> None:
        """Keep one more; what is larger than the whole log by itself is not kept."""
        hosts = kept.snapshot.hosts
        if self._kept:
            before = self._kept[-1].snapshot.hosts
            gone = _bytes(_only_in(before, hosts))
            self._own[-1] += gone
            self._fleet += _bytes(_only_in(hosts, before)) - gone
        else:
            self._fleet = _bytes(hosts)
        self._kept.append(kept)
        self._own.append(8 * len(hosts) + 1_000 * (kept.entries + 1))
        while self._kept and (len(self._kept) > self._most or self.bytes > self._most_bytes):
            self._kept.popleft()
            self._own.popleft()
            if not self._kept:
                self._fleet = 0

    def list(self, group_uuid: str = "") -> Sequence[Kept]:
        """What is kept (about one group), the newest first."""
        return [kept for kept in reversed(self._kept) if group_uuid in ("", kept.group_uuid)]

    def get(self, uuid: str) -> Kept:
        """One decision. Raises NotFound where it is not kept any more."""
        for kept in self._kept:
            if kept.uuid == uuid:
                return kept
        raise NotFound("decision", uuid)


class RecordingPlanner:
    """Any planner, with its decisions kept and measured."""

    def __init__(self, planner: Planner, log: DecisionLog, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._planner = planner
        self._log = log
        self._metrics = metrics
        self._clock = clock

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        """See `Planner.place`."""
        values = {"corral.hosts": len(snapshot.hosts), "corral.nodes": len(request.nodes)}
        with traces.span("planner place", values) as span:
            planned = await self._planner.place(
                snapshot, request, policy, budget_seconds=budget_seconds, answer_by=answer_by, project=project
            )
            if span is not None:
                decided = planned.decision
                span.set_attributes({"corral.status": decided.status.value, "corral.proof": decided.proof.value})
        decision, metrics = planned.decision, self._metrics
        metrics.plan_duration.labels(decision.stage, decision.proof.value).observe(planned.duration_ms / 1000)
        if decision.gap is not None:
            metrics.plan_gap.observe(decision.gap)
        group = request.nodes[0].labels.get(GROUP_LABEL, "")
        kept = KeptDecision(
            uuids.uuid4().hex, group, self._clock(), planned.duration_ms, snapshot, request, policy, decision
        )
        self._log.add(kept)
        return planned

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Room:
        """See `Planner.room`."""
        return await self._planner.room(snapshot, node, budget_seconds=budget_seconds, answer_by=answer_by)

    async def make_room(
        self,
        snapshot: Snapshot,
        request: Request,
        neighbours: Sequence[Neighbours],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> MadeRoom:
        """See `Planner.make_room`."""
        return await self._planner.make_room(
            snapshot, request, neighbours, budget_seconds=budget_seconds, answer_by=answer_by
        )

    async def evict(
        self,
        snapshot: Snapshot,
        request: Request,
        leaving: Sequence[Leaving],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        neighbours: Sequence[Neighbours] = (),
    ) -> Evictions:
        """See `Planner.evict`."""
        return await self._planner.evict(
            snapshot, request, leaving, budget_seconds=budget_seconds, answer_by=answer_by, neighbours=neighbours
        )

    async def rebalance(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        limits: Limits,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Rebalance:
        """See `Planner.rebalance`."""
        begun = time.perf_counter()
        plan = await self._planner.rebalance(
            snapshot, groups, limits, budget_seconds=budget_seconds, answer_by=answer_by
        )
        took = 1000 * (time.perf_counter() - begun)
        kept = KeptRebalance(uuids.uuid4().hex, self._clock(), took, snapshot, tuple(groups), limits, plan)
        self._log.add(kept)
        return plan

    async def roll(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        hosts: Sequence[str],
        at_once: int,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Roll:
        """See `Planner.roll`."""
        return await self._planner.roll(
            snapshot, groups, hosts, at_once, budget_seconds=budget_seconds, answer_by=answer_by
        )

    def close(self) -> None:
        """See `Planner.close`."""
        self._planner.close()


def _only_in(hosts: Sequence[Host], others: Sequence[Host]) -> Sequence[Host]:
    """The hosts that are no objects of `others`; in lists of one length each is compared with the one at its place."""
    if len(hosts) == len(others):
        return [one for one, other in zip(hosts, others, strict=True) if one is not other]
    known = set(map(id, others))
    return [host for host in hosts if id(host) not in known]


def _bytes(hosts: Sequence[Host]) -> int:
    """About what hosts take in memory."""
    return sum(
        800 + 120 * (len(h.capacity) + len(h.used) + len(h.labels)) + 800 * len(h.members) + 600 * len(h.cells)
        for h in hosts
    )
