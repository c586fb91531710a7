"""What an operator must come to see of a mishap, and for how long the service is then watched for harm of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.faults.operator import Operator
from tests.faults.site import Site

# What the service would take for nobody's it removes after its grace (15 s from the start) and two sweeps (10 s each).
SWEEPS_SECONDS = 22.0
START_SECONDS = 40.0


@dataclass(frozen=True)
class Sign:
    """`words`: where it is seen, as the guide names it. `there`: whether it is seen now."""

    words: str
    there: Callable[[], bool]


@dataclass(frozen=True)
class Expected:
    """What to look for after a mishap. `since`: when it was done (s of the monotonic clock). `watch`: s after that
    in which the service might still do harm of its own."""

    since: float
    signs: Sequence[Sign]
    watch: float = 0.0


Mishap = Callable[[Site], Iterator[Expected]]


def now() -> float:
    """The present time, for `Expected.since`."""
    return time.monotonic()


def host_is(operator: Operator, status: str, words: str, names: Sequence[str] = ()) -> list[Sign]:
    """The signs of hosts in this status, `names` or else any: the list, with these words as reason, and the metric."""

    def listed() -> bool:
        of = {n: h for n, h in operator.hosts().items() if h.status == status and words in h.reason}
        return set(names) <= set(of) if names else bool(of)

    return [
        Sign(f"hosts: {status}, with the way out", listed),
        Sign(f'corral_hosts{{status="{status}"}}', lambda: operator.metric("corral_hosts", status=status) > 0),
    ]


def event(site: Site, group: str, *words: str) -> Sign:
    """An event of the group that says so."""
    return Sign(f"event: “{' … '.join(words)}”", lambda: site.follower.heard(group, *words))


@dataclass
class Times:
    """What came of one mishap over a run. `lost`: machines. `seen`: s until all signs were there, each time."""

    done: int = 0
    lost: int = 0
    seen: list[float] = field(default_factory=list)
    words: str = ""
