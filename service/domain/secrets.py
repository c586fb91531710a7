"""Secrets that projects keep by name, and the keys that they are encrypted with. Pure.

What a value `secret://NAME` stands for is looked up in `environment`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Where a key of 32 bytes lies, in base64: in a file, or in a variable of the service's own environment."""

    name: str
    file: str = ""
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted value: with a key of its own, which is `wrapped` by the service's key of the name `key_name`."""

    key_name: str
    wrapped: bytes = field(repr=False)
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A row: a value by name, which groups of `project` may refer to. Times: ms since the epoch."""

    uuid: str
    project: str
    name: str
    sealed: Sealed
    version: int = 0
    created_at: int = 0
    updated_at: int = 0

    @property
    def bound(self) -> bytes:
        """What its encryption is tied to: copied to another row, project or name, the value cannot be decrypted."""
        return "\n".join(("corral secret", self.uuid, self.project, self.name)).encode()
