"""Etags: a caller changes what it has read, or is told that it has changed since."""

from __future__ import annotations

from typing import Protocol

from service.errors import Conflict


class Versioned(Protocol):
    """What has a version that rises with every change."""

    @property
    def uuid(self) -> str:
        """Its uuid."""
        ...

    @property
    def version(self) -> int:
        """The version of its stored row."""
        ...


def etag_of(thing: Versioned) -> str:
    """A value that changes whenever the thing does."""
    return f"{thing.uuid[:8]}-{thing.version}"


def require_etag(what: str, thing: Versioned, wanted: str) -> None:
    """Raises Conflict where the caller names an etag that `thing` has no more. An empty one is any."""
    if wanted and wanted != etag_of(thing):
        raise Conflict(f"{what} {thing.uuid} has changed since its etag was read")
