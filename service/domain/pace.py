"""How fast something arrives, and how long the rest takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

WINDOW_SECONDS = 10.0
"""The rate is that of so long: what was fast an hour ago says nothing of what remains."""
_APART_SECONDS = 0.5
_SOON_SECONDS = 0.001
"""Two moments that are nearer to each other tell of no rate."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far something is. `total` and `done` in bytes; `points`: when how much was there, the oldest first."""

    total: int
    done: int = 0
    points: tuple[tuple[float, int], ...] = ()

    def at(self, now: float, done: int) -> Pace:
        """The pace once so much is there. `now`: seconds of any clock that only rises."""
        points = self.points
        if points and done < points[-1][1]:
            points = ()  # it began anew
        if not points or now - points[-1][0] >= _APART_SECONDS:
            points = (*points, (now, done))
        while len(points) > 2 and points[1][0] <= now - WINDOW_SECONDS:
            points = points[1:]
        return replace(self, done=done, points=points)

    def rate(self, now: float) -> int:
        """Bytes a second; 0 where nothing came, or it is too early to say."""
        if not self.points or now - self.points[0][0] < _SOON_SECONDS:
            return 0
        return max(0, int((self.done - self.points[0][1]) / (now - self.points[0][0])))

    def remaining_ms(self, now: float) -> int | None:
        """How long the rest takes at this rate, in milliseconds; None: nobody can say."""
        left, rate = max(0, self.total - self.done), self.rate(now)
        if not left:
            return 0
        return -(-left * 1000 // rate) if rate else None
