"""The thread on which a BMC is asked, one call at a time, and its calls' deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.drivers.base import HostUnreachable, OutcomeUnknown
from service.drivers.redfish.bmc import Bmc

Result = TypeVar("Result")
SPARE_SECONDS = 0.5
"""What is left of a budget for the way back from the BMC's thread."""


class BmcLine:
    """`run` until `close`."""

    def __init__(self, bmc: Bmc) -> None:
        self._bmc = bmc
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bmc")

    async def run(self, work: Callable[[float], Result], budget_seconds: float) -> Result:
        """On the BMC's thread, within the budget. A call that was given up there sends nothing after its deadline.

        Raises DriverError.
        """
        deadline = time.monotonic() + budget_seconds - SPARE_SECONDS
        done = self._thread.submit(work, deadline)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), max(0.0, budget_seconds))
        except TimeoutError:
            if done.cancel():
                raise HostUnreachable("the BMC is busy with another call") from None
            raise OutcomeUnknown("the BMC did not answer in time") from None

    async def close(self) -> None:
        """End the session, and the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._bmc.close)
        self._thread.shutdown(wait=False, cancel_futures=True)
