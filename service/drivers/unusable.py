"""The driver of a host whose kind cannot be driven here: every call says why."""

from __future__ import annotations

from service.domain.isolation import GroupFilter, Isolation
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    HostDriver,
    HostFacts,
    HostRejected,
    Listing,
    LogPiece,
    LogSource,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    ObservedMachine,
)
from service.drivers.staging import WithoutCopies


class UnusableDriver(WithoutCopies):
    """Stands for a host whose own driver cannot be made here: it answers everything with the reason."""

    def __init__(self, host_id: str, reason: str, detail: str = "") -> None:
        self._host_id = host_id
        self._reason = reason
        self._detail = detail

    @property
    def host_id(self) -> str:
        """See HostDriver."""
        return self._host_id

    def _refuse(self) -> HostRejected:
        return HostRejected("unsupported", self._reason, self._detail)

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver."""
        raise self._refuse()

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """See HostDriver."""
        raise self._refuse()

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        raise self._refuse()

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        raise self._refuse()

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """See HostDriver."""
        raise self._refuse()

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        raise self._refuse()

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        raise self._refuse()

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        raise self._refuse()

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """See HostDriver."""
        raise self._refuse()

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """See HostDriver."""
        raise self._refuse()

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """See HostDriver."""
        return False

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """See HostDriver."""
        raise self._refuse()

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver."""
        raise self._refuse()

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """See HostDriver."""
        raise self._refuse()

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        raise self._refuse()

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver: nothing will ever change here."""

    async def close(self) -> None:
        """See HostDriver."""
