"""Who evicts whom in a run; it matters to those alone that ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.preemption import PriorityPolicy


def hurried(seed: int) -> bool:
    """Whether groups of this run end soon after they were told: while others still move for the same room."""
    return seed % 3 == 2


def policies(seed: int) -> Mapping[str, PriorityPolicy]:
    """Those of a run."""
    delay_ms = 500 if hurried(seed) else 10_000
    return {"": PriorityPolicy(10, ("*",), least_run_ms=2_000, delay_ms=delay_ms)}
