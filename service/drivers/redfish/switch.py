"""A hypervisor's power, by its BMC over Redfish."""

from __future__ import annotations

from service.domain.fleet import HostAddress
from service.drivers.power import APART_SECONDS, PowerSwitch
from service.drivers.redfish.addressing import access_of
from service.drivers.redfish.bmc import Bmc
from service.drivers.redfish.line import BmcLine


class RedfishSwitch(PowerSwitch):
    """Connects at the first call."""

    def __init__(self, address: HostAddress, apart_seconds: float = APART_SECONDS) -> None:
        """Raises HostRejected `bad_request` for fields that are wrong."""
        self._bmc = Bmc(access_of(address))
        self._line = BmcLine(self._bmc)
        self._apart = apart_seconds

    async def power(self, machine: str, *, budget_seconds: float) -> str:
        """See PowerSwitch."""
        return await self._line.run(lambda deadline: self._bmc.power_of(deadline, machine), budget_seconds)

    async def force_off(self, machine: str, *, budget_seconds: float) -> None:
        """See PowerSwitch."""
        await self._line.run(lambda deadline: self._bmc.force_off(deadline, machine), budget_seconds)

    async def stays_off(self, machine: str, *, budget_seconds: float) -> bool:
        """See PowerSwitch."""
        apart = self._apart
        return await self._line.run(lambda deadline: self._bmc.stays_off(deadline, machine, apart), budget_seconds)

    async def close(self) -> None:
        """See PowerSwitch."""
        await self._line.close()
