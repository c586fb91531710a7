"""A reason with what the host itself said behind it. Pure."""

from __future__ import annotations


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
