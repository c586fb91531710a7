"""What a guest says of itself while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_SILENT_SECONDS = 15.0
"""A guest that counts its looks, two a second, is silent after so long without a word,"""
LEAST_SILENT_SECONDS = 8.0
PAUSES = 5
"""and sooner, where so many times its longest pause in this run has passed: a busy host makes all guests slow."""


@dataclass(frozen=True, slots=True)
class GuestReport:
    """The newest line that a guest wrote to its progress channel.

    `stage`: `booting`, `network`, `joining`, `ready`, `stopping` (a guest may add others; unknown ones are progress).
    `received_at`: the driver clock's seconds (monotonic) when the line was read, so that silence can be noticed.
    `count`: rises with every look that the guest takes at its engine; 0 of a guest that does not count. `answered`:
    seconds since the model answered its canary rightly, as the line was written; -1: never. `restarts`: of the engine
    by the guest itself. `rank`: the guest's own; -1 where it does not say.
    `heard_since`: the driver clock's seconds since when every word of the guest is heard here; infinite while none is,
    so that a report gets old without its guest being silent. `longest_pause`: seconds between two of its words, of this
    run and of late; 0: not known. `clash`: the hardware address of another machine that
    answers for its address. `boot_id`: names the boot that the guest is in, and is another one after each reset; empty
    of one that does not say. `endpoint`: the address beside its own that it has, empty for none; None of a guest that
    takes none. `ailing`: (address as the guest has it, what ails it) of its devices that fail. `weights`: bytes of
    the model's weights that it has, or has checked, of how many (0: not known), and how many a second; None where it
    fetches none now. `fault`: the word for why it can never start its engine, empty where it may.
    """

    stage: str
    detail: str
    epoch: int
    address: str
    received_at: float
    count: int = 0
    answered: int = -1
    restarts: int = 0
    rank: int = -1
    heard_since: float = 0.0
    clash: str = ""
    boot_id: str = ""
    endpoint: str | None = None
    ailing: tuple[tuple[str, str], ...] = ()
    weights: tuple[int, int, int] | None = None
    fault: str = ""
    longest_pause: float = 0.0

    @property
    def silent_after(self) -> float:
        """After how many seconds without a word it is silent."""
        if not self.longest_pause:
            return MOST_SILENT_SECONDS
        return min(MOST_SILENT_SECONDS, max(LEAST_SILENT_SECONDS, PAUSES * self.longest_pause))

    @property
    def silent_at(self) -> float:
        """When (the driver clock's seconds) it is silent, if no further word comes; infinite for a guest that does not
        count, and for one that would not be heard."""
        if self.count <= 0:
            return math.inf
        return max(self.received_at, self.heard_since) + self.silent_after
