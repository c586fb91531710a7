"""What all group workers of one process share: store, planner, calls to hosts, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from service.domain.preemption import Policies
from service.domain.waiting import KEPT_AFTER_MS
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner
from service.reconcile.calls import MemberCalls
from service.reconcile.custody import Custody
from service.reconcile.monitor import HostMonitor
from service.store.clock import StoreClock
from service.store.engine import Store
from service.store.waits import Wait
from service.telemetry.metrics import Metrics
from service.transactions.together import SharedChanges


@dataclass(slots=True)
class WorkerContext:
    """What every worker of a process shares. `waits`: stored times of other rooms that are held to the present too.
    `poke`: called with the uuid of another group that was changed. `kept_after_ms`: see `domain.waiting`;
    `priorities`: by project, who evicts whom."""

    store: Store
    planner: Planner
    calls: MemberCalls
    monitors: dict[str, HostMonitor]
    metrics: Metrics
    owner: str
    custody: Custody
    plan_seconds: float = 5.0
    kept_after_ms: int = KEPT_AFTER_MS
    priorities: Policies = field(default_factory=dict)
    clock: StoreClock = field(default_factory=StoreClock)
    waits: tuple[Wait, ...] = ()
    fleet_reader: FleetReader = field(default_factory=FleetReader)
    poke: Callable[[str], None] = lambda _uuid: None
    changes: SharedChanges = field(init=False)

    def __post_init__(self) -> None:
        self.changes = SharedChanges(self.store)
