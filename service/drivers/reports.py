"""What a guest says of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuestReport:
    """The newest line that a guest wrote to its progress channel.

    `stage`: `booting`, `network`, `joining`, `ready`, `stopping` (a guest may add others; unknown ones are progress).
    `received_at`: the driver clock's seconds (monotonic) when the line was read, so that silence can be noticed.
    `count`: rises with every look that the guest takes at its engine; 0 of a guest that does not count. `answered`:
    seconds since the model answered its canary rightly, as the line was written; -1: never. `restarts`: of the engine
    by the guest itself. `rank`: the guest's own; -1 where it does not say.
    `heard_since`: the driver clock's seconds since when every word of the guest is heard here; infinite while none is,
    so that a report gets old without its guest being silent. `clash`: the hardware address of another machine that
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
