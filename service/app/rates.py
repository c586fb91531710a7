"""How often the callers of one tenant may call: a bucket of tokens for each, filled at a steady rate.

Each process has buckets of its own, as it has limits on calls at once: several replicas together allow the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.domain.tenants import Caller, Rate
from service.errors import RateLimited

Admit = Callable[[Caller], None]
"""Takes note of a call. Raises RateLimited where the caller's project has called too often."""


def unlimited(caller: Caller) -> None:
    """Admits every call."""


@dataclass(slots=True)
class _Bucket:
    """`tokens` as they were at `filled_at` (seconds); both change together."""

    tokens: float
    filled_at: float


class RateLimits:
    """The buckets of all projects. There are not more of them than projects, which the configuration names."""

    def __init__(
        self,
        default: Rate | None,
        by_project: Mapping[str, Rate],
        now: Callable[[], float],
        refused: Callable[[str], None] = lambda _project: None,
    ) -> None:
        """`default`: of projects without a rate of their own, None: no limit. `now`: seconds of a clock that never goes
        back. `refused` is told the project of each call that was refused."""
        self.replace(default, by_project)
        self._now = now
        self._refused = refused
        self._buckets: dict[str, _Bucket] = {}

    def replace(self, default: Rate | None, by_project: Mapping[str, Rate]) -> None:
        """Allow so much from now on; what buckets hold is kept, as far as it fits."""
        self._default = default
        self._by_project = dict(by_project)

    def admit(self, caller: Caller) -> None:
        """Take a token of the caller's project. Raises RateLimited, with the time until there is one."""
        rate = self._by_project.get(caller.project, self._default)
        if rate is None:
            return
        bucket = self._filled(caller.project, rate)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return
        self._refused(caller.project)
        wait_ms = math.ceil((1 - bucket.tokens) / rate.calls_per_second * 1000)
        raise RateLimited(caller.project, rate.calls_per_second, rate.burst, wait_ms)

    def _filled(self, project: str, rate: Rate) -> _Bucket:
        """The project's bucket with what has come in since it was last looked at; a new one is full."""
        now = self._now()
        bucket = self._buckets.setdefault(project, _Bucket(rate.burst, now))
        passed = max(0.0, now - bucket.filled_at)
        bucket.tokens = min(rate.burst, bucket.tokens + passed * rate.calls_per_second)
        bucket.filled_at = now
        return bucket
