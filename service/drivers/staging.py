"""What drivers say of images that a host does not have: those that bring them there, and those that need none."""

from __future__ import annotations

from service.drivers.base import DriverError, HostRejected
from service.drivers.copies import Copied, ImageFile, SeenCopy


class NotStaged(DriverError):
    """Nothing was made: the host does not have these files of the machine's image. `HostDriver.stage` brings them."""

    def __init__(self, files: tuple[ImageFile, ...]) -> None:
        super().__init__("its image is not on the host yet", ", ".join(f"{f.role} of {f.image}" for f in files))
        self.files = files


class WithoutCopies:
    """The part of `HostDriver` that concerns copies, for a driver that never raises NotStaged."""

    async def stage(self, file: ImageFile, copied: Copied, *, budget_seconds: float) -> Copied:
        """See HostDriver."""
        raise HostRejected("unsupported", "the host keeps no copies of images")

    async def list_copies(self, *, budget_seconds: float) -> tuple[SeenCopy, ...]:
        """See HostDriver."""
        return ()

    async def withdraw_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""

    async def delete_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
