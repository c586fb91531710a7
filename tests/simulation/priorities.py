"""Who evicts whom in every run; it matters to those alone that ask for it."""

from service.domain.preemption import PriorityPolicy

POLICIES = {"": PriorityPolicy(10, ("*",), least_run_ms=2_000, delay_ms=10_000)}
