"""What guests take: of the memory and time that they claim, and the memory that QEMU takes beside a guest's.

Seen with QEMU 7.2: a guest of 96 MiB that has used all of it takes 184 MiB under software emulation, of which 32 MiB
are the cache of translated code; one that has not run yet takes 51 MiB in all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import libvirt

from service.drivers.libvirt.errors import GONE
from service.drivers.libvirt.inventory import Seen

# What QEMU takes beside a guest's memory, until more was measured: its own code, tables and devices.
LEAST_BYTES = 64 << 20
# Rounded up to this, so that a few pages more or less at each look are no news.
STEP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """`each`: bytes for each guest beside its memory; `ours`: how many of this cluster run or are paused, `others`: how
    many others do; `used`: see `drivers.base.HostFacts`."""

    each: int
    ours: int
    others: int
    used: Mapping[str, float] = field(default_factory=dict)


class Overhead:
    """What QEMU takes for itself on one host: measured for each guest of ours, and as much assumed for every other, and
    for those that are yet to come.

    `cache_bytes`: the cache of translated code of each guest under software emulation. Safe to use from any thread.
    """

    def __init__(self, cache_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache_bytes = cache_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._most = 0
        self._times: dict[str, tuple[int, float]] = {}

    def measure(self, connection: Any, seen: Iterable[Seen], cluster: str, *, emulated: bool) -> Taken:
        """One call for the memory of all guests, and one for the processor time of each.

        For a guest that has not used all of its memory yet less is measured than QEMU will take: it counts with the
        most that was measured for any guest.
        """
        active = [one for one in seen if one.active and not one.starting]
        told = self._told(connection, [one for one in active if one.record.tag is not None])
        ours = [one for one in active if one.record.machine_of(cluster) is not None]
        least = LEAST_BYTES + (self._cache_bytes if emulated else 0)
        beside = (told[one.machine_uuid].get("balloon.rss", 0) * 1024 - one.record.memory for one in active
                  if one.machine_uuid in told)  # fmt: skip
        with self._lock:
            self._most = most = max(self._most, least, *beside)
            used = self._memory(ours, told) | self._processors(ours, told)
        return Taken(-(-most // STEP_BYTES) * STEP_BYTES, len(ours), len(active) - len(ours), used)

    @staticmethod
    def _memory(ours: list[Seen], told: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """What is resident of the guests' own memory."""
        resident = [
            min(told[one.machine_uuid]["balloon.rss"] * 1024, one.record.memory)
            for one in ours
            if "balloon.rss" in told.get(one.machine_uuid, {})
        ]
        return {"memory": float(sum(resident))} if resident or not ours else {}

    def _processors(self, ours: list[Seen], told: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """Processors' worth of time since the look before, of the guests that ran then too."""
        now, before = self._clock(), self._times
        self._times = {
            one.machine_uuid: (told[one.machine_uuid]["cpu.time"], now)
            for one in ours
            if "cpu.time" in told.get(one.machine_uuid, {})
        }
        shares = [
            max(0.0, (spent - before[uuid][0]) / 1e9 / (at - before[uuid][1]))
            for uuid, (spent, at) in self._times.items()
            if uuid in before and at > before[uuid][1]
        ]
        return {"vcpu": sum(shares)} if shares or not ours else {}

    def _told(self, connection: Any, ours: list[Seen]) -> dict[str, Mapping[str, int]]:
        """By uuid, libvirt's own figures: `balloon.rss` (KiB resident), `cpu.time` (ns); without those it has not.

        Only our own guests are measured: they have no balloon, so that libvirt reads the process and does not ask a
        QEMU that may hang; and none of their memory is shared or swapped on purpose. Their processor time is not asked
        for with it: since libvirt 9.0 that asks a QEMU of 7.1 and later (query-stats), NOWAIT or not.
        """
        if not ours:
            return {}
        try:
            answers = connection.domainListGetStats(
                [one.domain for one in ours],
                libvirt.VIR_DOMAIN_STATS_BALLOON,
                libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
                raise
            return {}
        return {domain.UUIDString(): {**values, **_spent(domain)} for domain, values in answers}


def _spent(domain: Any) -> dict[str, int]:
    """`cpu.time` of its process, in ns; nothing of one that is gone."""
    try:
        return {"cpu.time": int(domain.info()[4])}
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise
        return {}
