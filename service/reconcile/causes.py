"""What a host itself said of a failure, made fit to be kept: without secrets, on one line, and not long. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_CHARACTERS = 1000
GONE = "[secret]"
_ASSIGNED = re.compile(
    r"(?i)(pass(?:word|wd|phrase)|secret|token|api[_-]?key|private[_-]?key)(\"?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;]+)"
)


def kept(detail: str, secrets: Iterable[str]) -> str:
    """The text as it is kept. `secrets`: values that must not stand in it."""
    for value in sorted(secrets, key=len, reverse=True):
        detail = detail.replace(value, GONE) if value else detail
    line = " ".join("".join(c if c.isprintable() else " " for c in _ASSIGNED.sub(rf"\1\2{GONE}", detail)).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"
