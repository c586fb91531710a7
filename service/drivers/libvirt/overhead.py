"""Memory of a host that no guest is given: what QEMU takes beside a guest's.

Seen with QEMU 7.2: a guest of 96 MiB that has used all of it takes 184 MiB under software emulation, of which 32 MiB
are the cache of translated code; one that has not run yet takes 51 MiB in all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import libvirt

from service.drivers.libvirt.inventory import Seen

# What QEMU takes beside a guest's memory, until more was measured: its own code, tables and devices.
LEAST_BYTES = 64 << 20
# Rounded up to this, so that a few pages more or less at each look are no news.
STEP_BYTES = 16 << 20


class Overhead:
    """What QEMU takes for itself on one host: measured for each guest of ours, and as much assumed for every other, and
    for those that are yet to come.

    `cache_bytes`: the cache of translated code of each guest under software emulation. Safe to use from any thread.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._most = 0

    def measure(self, connection: Any, seen: Iterable[Seen], cluster: str, *, emulated: bool) -> tuple[int, int, int]:
        """(bytes for each guest, how many of this cluster run or are paused, how many others do).

        For a guest that has not used all of its memory yet less is measured than QEMU will take: it counts with the
        most that was measured for any guest.
        """
        active = [one for one in seen if one.active and not one.starting]
        measured = self._measured(connection, [one for one in active if one.record.tag is not None])
        ours = sum(one.record.machine_of(cluster) is not None for one in active)
        least = LEAST_BYTES + (self._cache_bytes if emulated else 0)
        with self._lock:
            self._most = max(self._most, least, *measured.values(), 0)
            most = self._most
        return -(-most // STEP_BYTES) * STEP_BYTES, ours, len(active) - ours

    def _measured(self, connection: Any, ours: list[Seen]) -> dict[str, int]:
        """By uuid, bytes resident beyond the guest's memory, at least 0.

        Only our own guests are measured: they have no balloon, so that libvirt reads the process and does not ask a
        QEMU that may hang; and none of their memory is shared or swapped on purpose.
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
        memory = {one.machine_uuid: one.record.memory for one in ours}
        resident = {domain.UUIDString(): int(values.get("balloon.rss", 0)) << 10 for domain, values in answers}
        return {uuid: max(0, size - memory[uuid]) for uuid, size in resident.items() if uuid in memory}
