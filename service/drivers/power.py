"""A hypervisor's power, as what fences it sees it: a port, which kinds of BMCs implement."""

from __future__ import annotations

from abc import ABC, abstractmethod

from service.drivers.base import HostRejected

OFF = "Off"
APART_SECONDS = 5.0
"""So far apart are the two looks that prove it off."""


class WrongMachine(HostRejected):
    """The BMC is of another machine than the host was while it answered; nothing was sent."""

    def __init__(self, public: str) -> None:
        super().__init__("bad_request", public)


class PowerSwitch(ABC):
    """One BMC. `machine`: the hypervisor's own uuid; every answer has to be of that very machine.

    Every method raises DriverError, WrongMachine where the BMC is of another one, and ends within its budget (s); a
    call that was given up sends nothing after that.
    """

    @abstractmethod
    async def power(self, machine: str, *, budget_seconds: float) -> str:
        """`On`, `Off`, or a state between them."""

    @abstractmethod
    async def force_off(self, machine: str, *, budget_seconds: float) -> None:
        """Cut its power, where it is not off; whether it is off then is for `stays_off` to see."""

    @abstractmethod
    async def stays_off(self, machine: str, *, budget_seconds: float) -> bool:
        """Whether it is seen off twice, APART_SECONDS apart, in one session."""

    @abstractmethod
    async def close(self) -> None:
        """End the session."""
