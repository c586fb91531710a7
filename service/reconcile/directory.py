"""What machine specifications are made from, as this replica last read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from service.domain.catalog import ModelService
from service.domain.fleet import Host, Zone


async def unchanging() -> None:
    """The refresh of a directory that never changes."""


@dataclass(slots=True)
class Directory:
    """What machine specifications are made from; `roster` replaces the mappings when zones, hosts or catalogue change.

    `catalogue`: by uuid, and by `domain.catalog.version_key`. `refresh`: has the mappings read again, because another
    replica may have admitted a member with an entry, or placed it on a host, that this one has not heard of yet.
    """

    hosts: Mapping[str, Host]
    zones: Mapping[str, Zone]
    catalogue: Mapping[str, ModelService]
    refresh: Callable[[], Awaitable[None]] = unchanging
