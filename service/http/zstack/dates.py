"""ZStack's dates: `Nov 14, 2017 10:20:57 PM`, in UTC, whatever the locale of this process. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ZSTACK = re.compile(r"([A-Z][a-z]{2}) (\d{1,2}), (\d{4}) (\d{1,2}):(\d{2}):(\d{2}) ([AP]M)")
_SQL = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}):(\d{2}):(\d{2}))?")


def show(milliseconds: int) -> str:
    """A point in time, ms since the epoch, as ZStack writes it."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC)
    hour = at.hour % 12 or 12
    half = "PM" if at.hour >= 12 else "AM"
    return f"{_MONTHS[at.month - 1]} {at.day}, {at.year} {hour}:{at.minute:02}:{at.second:02} {half}"


def read(text: str) -> int:
    """Ms since the epoch of a date as ZStack writes it, or as `2017-11-14 22:20:57`. Raises ValueError."""
    text = text.strip()
    if found := _ZSTACK.fullmatch(text):
        month, day, year, hour, minute, second, half = found.groups()
        hours = int(hour) % 12 + (12 if half == "PM" else 0)
        at = datetime(int(year), _MONTHS.index(month) + 1, int(day), hours, int(minute), int(second), tzinfo=UTC)
    elif found := _SQL.fullmatch(text):
        at = datetime(*(int(part or 0) for part in found.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]
    else:
        raise ValueError("a date is written as Nov 14, 2017 10:20:57 PM or 2017-11-14 22:20:57")
    return int(at.timestamp()) * 1000
