"""Whether a machine of bare metal may hold what its last member left, and how it is cleaned. Pure data.

A machine is used by its members directly: what they wrote to its disks is there for whoever comes next. So a machine
that has served one project is given to no other before it was cleaned. It is cleaned by a boot of its own: a seat like
a member's, with an image of the operator's that wipes the disks and reports. It is closed meanwhile, and stays closed
where that fails.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum

CLEANING_GROUP = f"{'c1ea':0<32}"
"""Stands for a group in the identity of every machine that cleans."""
DOCUMENT = "clean"
"""The document by which a guest knows that it is to clean, and how; see `Wipe`."""
CLEANED, FAILED = "ready", "failed"
"""Stages by which it says how that ended."""
_NAMESPACE = uuid.UUID("0b6f5f3e-6f0f-5a3c-8f0e-6d1c4e1ea401")


class Wipe(StrEnum):
    """How a machine is cleaned between two projects."""

    NONE = "none"  # not at all: what one leaves the next one can read
    METADATA = "metadata"  # partition tables and signatures of file systems, and what a drive forgets at once
    ERASE = "erase"  # all of it: by the drive's own erase, or written over


class CleaningState(StrEnum):
    """How far it is."""

    OPEN = ""  # it is given out: to anybody, or to the one project that it has served
    CLEANING = "Cleaning"
    UNCLEAN = "Unclean"  # that failed: out of service until an operator has it cleaned again


MINUTE_MS = 60_000
DEADLINE_MS = {Wipe.METADATA: 30 * MINUTE_MS, Wipe.ERASE: 24 * 60 * MINUTE_MS}
"""How long it may take from the commit that begins it, boot included: a large disk is written over for many hours."""


MOST_TRIES = 3
"""So often one attempt boots its machine that stops before it has said that it is clean: one that loses its power in
the middle, or falls back to off, says nothing of its disks."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """`served`: whose member was there since it was last cleaned, a project; empty: nobody's. `count`: how often it was
    begun, which numbers the attempts. `until`: by when it is to be over, in ms since the epoch. `reason`: how far it
    is, or why it failed. `tries`: how often it has stopped in the middle of the present attempt."""

    served: str = ""
    state: CleaningState = CleaningState.OPEN
    reason: str = ""
    count: int = 0
    until: int = 0
    tries: int = 0


def cleaner_of(host_uuid: str) -> str:
    """Stands for an instance in the identity of the machine that cleans this host."""
    return uuid.uuid5(_NAMESPACE, host_uuid).hex
