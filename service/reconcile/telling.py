"""What a guest is told as it runs, by the effect that asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.groups import Group
from service.drivers.base import HostDriver, HostRejected, MachineIdentity
from service.lifecycle.effects import Quiesce, Take, Tell
from service.lifecycle.endpoint import QUIESCE_SECONDS
from service.serving import orders


def line(group: Group, effect: Tell | Take | Quiesce, documents: Mapping[str, str]) -> str:
    """The line for the guest's progress channel; of a new start with these documents. Empty where there are none."""
    if isinstance(effect, Take):
        return orders.take(group.uuid, effect.address)
    if isinstance(effect, Quiesce):
        return orders.quiesce(group.uuid, QUIESCE_SECONDS)
    return orders.restart(group.start_epoch, documents) if documents else ""


async def told(driver: HostDriver, identity: MachineIdentity, text: str, budget_seconds: float) -> bool:
    """False where guests of that kind can be told nothing.

    A host that cannot tell it now may have it no more: a look says so. What becomes of one that runs and was not told
    its deadline decides. Raises DriverError but HostRejected.
    """
    try:
        await driver.tell(identity, text, budget_seconds=budget_seconds)
    except HostRejected as error:
        return error.code != "unsupported"
    return True
