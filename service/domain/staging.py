"""An image on its way to a member's host, or weights on their way to its guest. Pure data.

Stored as JSON under these very field names (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WEIGHTS_MISMATCH, WEIGHTS_NO_ROOM = "WEIGHTS_MISMATCH", "WEIGHTS_NO_ROOM"
FAULTS = (WEIGHTS_MISMATCH, WEIGHTS_NO_ROOM)
"""Why a guest can never start its engine, as words for machines: a group's failure has them as its code."""
_FAR = re.compile(r"(\d{1,16}) (\d{1,16}) (\d{1,16})")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Staging:
    """How far the files of an image have come that a member's host does not have yet; of no image, a member's weights.

    `done`, `total`: bytes of these files, a total of 0: not known; `rate`: bytes a second of late, 0: not known yet;
    `at`: when that was so, ms since the epoch.
    """

    image: str
    done: int
    total: int
    rate: int = 0
    at: int = 0

    @property
    def left_seconds(self) -> int | None:
        """How long it takes at this rate; None: not known."""
        return -(-(self.total - self.done) // self.rate) if self.rate and self.total else None

    def __str__(self) -> str:
        left = self.left_seconds
        rest = f", {size(self.rate)}/s, {left} s left" if left is not None else ""
        if not self.image:
            of = f" of {size(self.total)}" if self.total else ""
            return f"its weights are being brought to it: {size(self.done)}{of}{rest}"
        return f"its image {self.image} is being brought to its host: {size(self.done)} of {size(self.total)}{rest}"


def far(text: object) -> tuple[int, int, int] | None:
    """What a guest says of its weights, `DONE TOTAL RATE`, as numbers of bytes; None for any other text."""
    match = _FAR.fullmatch(text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2]), int(match[3])) if match is not None else None


def fault(text: object) -> str:
    """One of FAULTS; empty for any other text."""
    return next((word for word in FAULTS if word == text), "")


def size(count: int) -> str:
    """Bytes as people read them."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"
