"""Simulated hosts: their machines exist only in this process's memory, or in a file. For trying Corral and for tests.

They run no guest, and say so in `virt_type`.
"""

from service.drivers.simulated.driver import SimulatedDriver
from service.drivers.simulated.host import SimulatedHost, SimulationOptions
from service.drivers.simulated.shared import SharedHost

__all__ = ["SharedHost", "SimulatedDriver", "SimulatedHost", "SimulationOptions"]
