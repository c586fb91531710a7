"""The calls of `HostDriver` that concern copies of images, over a host's connections."""

from __future__ import annotations

from typing import Any

from service.drivers.copies import Copied, HostCopies, ImageFile, SeenCopy
from service.drivers.libvirt import probing
from service.drivers.libvirt.connection import Lane, Work
from service.drivers.libvirt.storage import Storage


class CopyCalls(HostCopies):
    """Part of the driver, which has the attributes. `_uploads`: for slices, which last seconds."""

    _storage: Storage
    _work: Lane
    _uploads: Lane

    async def stage(self, file: ImageFile, copied: Copied, *, budget_seconds: float) -> Copied:
        """See HostDriver."""

        def stage(work: Work, connection: Any) -> Copied:
            return self._storage.stage(connection, work, file, copied, probing.boot_id(connection, work))

        return await self._uploads.call(stage, budget_seconds=budget_seconds, has_effect=True, what="stage")

    async def list_copies(self, *, budget_seconds: float) -> tuple[SeenCopy, ...]:
        """See HostDriver."""
        return await self._work.call(
            lambda _work, c: self._storage.copies(c),
            budget_seconds=budget_seconds,
            has_effect=False,
            what="list-copies",
        )

    async def withdraw_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._work.call(
            lambda work, c: self._storage.withdraw_copy(c, work, volume),
            budget_seconds=budget_seconds,
            has_effect=True,
            what="withdraw-copy",
        )

    async def delete_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._work.call(
            lambda work, c: self._storage.delete_copy(c, work, volume),
            budget_seconds=budget_seconds,
            has_effect=True,
            what="delete-copy",
        )
