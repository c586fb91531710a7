"""What a host itself said behind a reason, made fit to be kept: without secrets, on one line, not long. Pure."""

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


class Explained:
    """A member or group. `cause`: what the host itself said of the failure with the reason `cause_of`, without secrets,
    for those who see hosts."""

    __slots__ = ()

    reason: str
    cause: str
    cause_of: str

    @property
    def told_cause(self) -> str:
        """What the host said, where that is still what the reason is about."""
        return self.cause if self.cause_of and self.cause_of in self.reason else ""
