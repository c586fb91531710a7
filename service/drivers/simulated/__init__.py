"""Simulated hosts: machines that exist in this process's memory, or in a file, alone. For trying Corral, for contract
tests and for simulation; it runs no guest, and says so in `virt_type`. May not import the store, the use cases or
another driver."""

from service.drivers.simulated.driver import SimulatedDriver
from service.drivers.simulated.host import SimulatedHost, SimulationOptions
from service.drivers.simulated.shared import SharedHost

__all__ = ["SharedHost", "SimulatedDriver", "SimulatedHost", "SimulationOptions"]
