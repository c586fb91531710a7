"""An image on its way to a member's host. Pure data.

Stored as JSON under these very field names (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Staging:
    """How far the files of an image have come that a member's host does not have yet.

    `done`, `total`: bytes of these files; `rate`: bytes a second of late, 0: not known yet; `at`: when that was so, ms
    since the epoch.
    """

    image: str
    done: int
    total: int
    rate: int = 0
    at: int = 0

    @property
    def left_seconds(self) -> int | None:
        """How long it takes at this rate; None: not known."""
        return -(-(self.total - self.done) // self.rate) if self.rate else None

    def __str__(self) -> str:
        left = self.left_seconds
        rest = f", {size(self.rate)}/s, {left} s left" if left is not None else ""
        return f"its image {self.image} is being brought to its host: {size(self.done)} of {size(self.total)}{rest}"


def size(count: int) -> str:
    """Bytes as people read them."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"
