"""Counts how deploys and updates end."""

from __future__ import annotations

from service.domain.groups import Group, GroupPhase
from service.errors import NoAddresses, NoCapacity, QuotaExceeded, Unsatisfiable
from service.telemetry.metrics import Metrics

REFUSALS = frozenset({NoCapacity.reason, NoAddresses.reason, QuotaExceeded.reason, Unsatisfiable.reason})
"""Reasons of deploys that end because what they ask for cannot be had."""


def count_ends(metrics: Metrics, before: Group | None, after: Group, now: int) -> None:
    """An update's duration, and the first deploy's, once it ends: not a later start's, and not a failure of what has
    served.

    `now`: ms.
    """
    if before is not None and before.updating and not after.updating and (update := after.update) is not None:
        took = metrics.update_duration.labels(update.mode.value, update.stage.value)
        took.observe((now - update.began_at) / 1000)
    ended = after.phase in (GroupPhase.RUNNING, GroupPhase.FAILED)
    if before is None or not ended or before.phase is after.phase or before.served or after.starts > 1:
        return
    reason = after.failure.code if after.failure is not None and after.phase is GroupPhase.FAILED else ""
    # What cannot be had is no failure of the service's; that there is no room left after a member failed is one.
    refused = reason in REFUSALS and all(m.attempt <= 1 for m in after.instances)
    outcome = "Refused" if refused else after.status.value
    labels = (after.spec.creation_strategy.value, outcome)
    metrics.deploy_duration.labels(*labels).observe((now - after.created_at) / 1000)
    if after.phase is GroupPhase.FAILED:
        metrics.deploys_not_running.labels(outcome, reason).inc()
