"""Brings images to hosts: an upload has a time of its own, by its size, and goes on where it broke off.

Whoever wants a machine made of an image that its host does not have waits for one and the same upload, and sees how far
it is: within a process it is one task, between processes one row (`service/store/copies.py`). Its owner renews the row
with each slice that is proven to be there. Where it dies, or its connection breaks, the next one goes on from the row.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from service.domain import staging
from service.drivers.base import DriverError, HostRejected
from service.drivers.copies import Copied, ImageFile, copy_name
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile.monitor import HostMonitor
from service.store import clock, copies
from service.store.connection import Connection
from service.store.copies import Copy
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SLICE_BUDGET_SECONDS = 30.0
OWNED_MS = 45_000
"""For so long a row is its owner's: more than a slice's call may last."""
NEWS_SECONDS = 5.0
"""How often those who wait are told how far it is."""
LOOK_SECONDS = 0.5
"""How often the row of another process is looked at."""
UNWANTED_SECONDS = 60.0
"""An upload that nobody has asked for since then rests where it is."""
GRACE_MS = 60_000
LEAST_RATE = 256 << 10
"""Bytes a second, on the whole, below which an upload is given up."""
_RATE_OVER = 8


@dataclass(slots=True)
class _Upload:
    """One file on its way. `copy`: as its row was read or written last."""

    file: ImageFile
    copy: Copy | None = None
    wanted_at: float = 0.0
    task: asyncio.Task[None] | None = None
    speeds: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RATE_OVER))

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self.copy.done if self.copy is not None else 0

    @property
    def rate(self) -> int:
        """Bytes a second of late, by whoever brings it; 0: not known."""
        return self.copy.rate if self.copy is not None else 0


class Stagings:
    """All uploads of this process. `owner`: its name, unlike any other's; `least_rate`: bytes a second."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        owner: str,
        least_rate: int = LEAST_RATE,
        *,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        """`token`: eight hex digits for the name of a copy, each time others."""
        self._store = store
        self._metrics = metrics
        self._owner = owner
        self._least_rate = least_rate
        self._token = token
        self._going: dict[tuple[str, str, str], _Upload] = {}

    async def bring(self, monitor: HostMonitor, files: Sequence[ImageFile]) -> staging.Staging | None:
        """Begin, or wait for, what brings these files to the host; None once they are there. How far it is after
        NEWS_SECONDS otherwise: call again.

        Raises DriverError where it broke off: HostRejected says that trying again is of no use.
        """
        uploads = [self._upload(monitor, file) for file in files]
        tasks = [upload.task for upload in uploads if upload.task is not None]
        done, pending = await asyncio.wait(tasks, timeout=NEWS_SECONDS)
        for task in done:
            task.result()
        if not pending:
            return None
        return staging.Staging(
            image=files[0].image,
            done=sum(upload.done if upload.task in pending else upload.file.size for upload in uploads),
            total=sum(upload.file.size for upload in uploads),
            rate=max(upload.rate for upload in uploads if upload.task in pending),
        )

    def _upload(self, monitor: HostMonitor, file: ImageFile) -> _Upload:
        key = (monitor.host.uuid, file.sha256, file.volume)
        upload = self._going.get(key)
        if upload is None:
            upload = self._going[key] = _Upload(file)
            upload.task = asyncio.create_task(self._run(monitor, upload), name=f"image {file.image} to {key[0]}")
            upload.task.add_done_callback(lambda task: self._ended(key, task))
        upload.wanted_at = _steady()
        return upload

    def _ended(self, key: tuple[str, str, str], task: asyncio.Task[None]) -> None:
        self._going.pop(key, None)
        outcome = "stopped" if task.cancelled() else "whole"
        if not task.cancelled() and (error := task.exception()) is not None:
            outcome = "refused" if isinstance(error, HostRejected) else "broke_off"
            logger.warning("%s: %s %s", task.get_name(), error, getattr(error, "detail", ""))
        self._metrics.images.stagings.labels(outcome).inc()

    async def close(self) -> None:
        """End all uploads; each goes on from its row, here after the next start or in another process."""
        tasks = [upload.task for upload in self._going.values() if upload.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one upload --------------------------------------------------------------------------------------------------

    async def _run(self, monitor: HostMonitor, upload: _Upload) -> None:
        file, host = upload.file, monitor.host.uuid
        volume = file.volume or copy_name(file.sha256, self._token())
        wanted = Copy(host, volume, file.sha256, file.image, file.size)
        while True:
            failpoint("staging.taking")
            copy = await self._store.write(
                lambda c: copies.take(c, wanted, self._owner, OWNED_MS, named=bool(file.volume))
            )
            upload.copy = copy
            if copy.owner == self._owner:
                break
            # Another process brings it: what it has proven is seen in the row.
            if _steady() - upload.wanted_at > UNWANTED_SECONDS:
                return
            await asyncio.sleep(LOOK_SECONDS)
        over = False
        try:
            self._check_rate(copy, copy.done, copy.changed_at)  # one that breaks off again and again has no time left
            await self._bring(monitor, upload, copy)
        except HostRejected as error:
            over = error.code == "too_slow"
            raise
        finally:
            await self._give_back(copy, over)

    async def _bring(self, monitor: HostMonitor, upload: _Upload, copy: Copy) -> None:
        logger.info("image %s goes to host %s as %s, from byte %d of %d on",
                    copy.image, monitor.host.name, copy.volume, copy.done, copy.size)  # fmt: skip
        copied = Copied(copy.volume, copy.done, copy.digest, copy.boot_id, copy.whole)
        upload.speeds.append((_steady(), copied.done))
        while True:
            failpoint("staging.sending")
            before = copied.done
            copied = await monitor.driver.stage(upload.file, copied, budget_seconds=SLICE_BUDGET_SECONDS)
            self._metrics.images.staged_bytes.labels(monitor.host.name).inc(max(0, copied.done - before))
            if copied.volume != copy.volume:
                return  # the host had one that nobody has on record
            now = replace(
                copy,
                done=copied.done,
                digest=copied.digest,
                boot_id=copied.boot_id,
                whole=copied.whole,
                withdrawn_at=0,
                rate=_rate(upload, copied.done),
            )
            failpoint("staging.proven")
            mine, at = await self._store.write(partial(self._went_on, now))
            upload.copy = now
            if copied.whole:
                return
            if not mine:
                raise DriverError("another process has gone on with the upload")
            self._check_rate(copy, copied.done, at)
            if _steady() - upload.wanted_at > UNWANTED_SECONDS:
                raise DriverError("nobody waits for the upload any more")

    def _went_on(self, copy: Copy, connection: Connection) -> tuple[bool, int]:
        """Whether the row is still its owner's, and the database's time."""
        return copies.went_on(connection, copy, self._owner, OWNED_MS), clock.now(connection)

    def _check_rate(self, copy: Copy, done: int, now: int) -> None:
        """Raises HostRejected `too_slow`."""
        took = now - copy.began_at
        least = self._least_rate
        if took <= GRACE_MS + 1000 * (done - copy.began_done) // least:
            return
        speed = staging.size(1000 * (done - copy.began_done) // took)
        raise HostRejected(
            "too_slow",
            f"its image reaches the host at {speed}/s, which is below the least rate of {staging.size(least)}/s",
        )

    async def _give_back(self, copy: Copy, over: bool) -> None:
        """Somebody else may go on at once; where that cannot be stored, once the time of the row is over."""
        try:
            await self._store.write(lambda c: copies.give_back(c, copy.host_uuid, copy.volume, self._owner, over=over))
        except CorralError as error:
            logger.info("the copy %s was not given back: %s", copy.volume, error)


def _rate(upload: _Upload, done: int) -> int:
    upload.speeds.append((_steady(), done))
    (since, first), (until, last) = upload.speeds[0], upload.speeds[-1]
    return max(0, int((last - first) / (until - since))) if until > since else 0


def _steady() -> float:
    """Seconds that only go on."""
    return asyncio.get_running_loop().time()
