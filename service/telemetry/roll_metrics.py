"""Metrics of rolls: hosts that are emptied for maintenance some at a time."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class RollMetrics:
    """A part of `Metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter("corral_rolls_total", "Rolls: begun, done, called_off.", ["outcome"], registry=registry)
        self.hosts = Counter(
            "corral_roll_hosts_total",
            "Hosts of rolls that came to a stage: moving, drained, done.",
            ["stage"],
            registry=registry,
        )
        self.plans = Counter(
            "corral_roll_plans_total",
            "Orders that were looked for before the next hosts of a roll: placed, infeasible, unknown.",
            ["status"],
            registry=registry,
        )
