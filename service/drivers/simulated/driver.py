"""`HostDriver` over a `SimulatedHost`: adds the delays of calls and the hints of booting guests."""

from __future__ import annotations

import asyncio
import json

from service.drivers.base import (
    HostFacts,
    Listing,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    ObservedMachine,
    OutcomeUnknown,
)
from service.drivers.simulated.host import SimulatedHost


class SimulatedDriver:
    """One simulated host behind the driver interface."""

    def __init__(self, host_id: str, host: SimulatedHost) -> None:
        self._host_id = host_id
        self.host = host
        self._hints: list[MachineHint] = []
        self._boots: set[asyncio.Task[None]] = set()

    @property
    def host_id(self) -> str:
        """See HostDriver."""
        return self._host_id

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver."""
        await self._call(budget_seconds)
        options = self.host.options
        return HostFacts(
            host_uuid=self._host_id,
            hostname=self.host.name,
            boot_id=self.host.boot_id,
            architecture="x86_64",
            total=options.total,
            foreign=options.foreign,
            virt_type="simulated",
            virt_note="a simulated host: no guest runs",
            hypervisor_version="simulated 1",
        )

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        await self._call(budget_seconds)
        return self.host.listing()

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        await self._call(budget_seconds)
        listing = self.host.listing()
        return listing.boot_id, listing.find(identity.machine_uuid)

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        await self._call(budget_seconds)
        document = json.loads(spec.documents.get("rendezvous") or "{}")
        return self.host.create(spec, int(document.get("group", {}).get("epoch", 0)))

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        await self._call(budget_seconds)
        machine = self.host.resume(identity)
        boot = asyncio.create_task(self._boot(identity), name=f"simulated boot of {identity.machine_name}")
        self._boots.add(boot)
        boot.add_done_callback(self._boots.discard)
        return machine

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. A simulated guest stops at once."""
        await self._call(budget_seconds)
        self.host.stop(identity)
        self._hint(identity)

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.stop(identity)

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.remove(identity)

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.entomb(identity)

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.clear_tombstone(identity)

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver. Simulated machines have no volumes."""
        await self._call(budget_seconds)
        return ()

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver."""
        self._hints.append(hint)

    async def close(self) -> None:
        """See HostDriver. The machines stay in the host's memory."""
        for boot in tuple(self._boots):
            boot.cancel()
        await asyncio.gather(*self._boots, return_exceptions=True)

    async def _call(self, budget_seconds: float) -> None:
        delay = self.host.options.call_ms / 1000
        if delay > budget_seconds:
            await asyncio.sleep(budget_seconds)
            raise OutcomeUnknown("the host did not answer in time")
        await asyncio.sleep(delay)

    async def _boot(self, identity: MachineIdentity) -> None:
        await asyncio.sleep(self.host.options.boot_ms / 1000 + 0.001)
        self._hint(identity)

    def _hint(self, identity: MachineIdentity) -> None:
        for hint in self._hints:
            hint(self._host_id, identity)
