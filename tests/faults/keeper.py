"""What systemd's `Restart=on-failure` is to a real hypervisor: a libvirtd that ended by itself is started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor

_EVERY_S = 0.5


class Keeper:
    """Looks after every libvirtd of a lab until the block ends. `crashes`: those that ended by themselves, with the
    end of their logs. `away` keeps it from one that a test ends on purpose."""

    def __init__(self, lab: Lab) -> None:
        self.crashes: list[str] = []
        self.problem: BaseException | None = None
        self._lab = lab
        self._locks = {hypervisor.name: threading.Lock() for hypervisor in lab}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper")

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.problem is not None and error is None:
            raise self.problem

    @contextmanager
    def away(self, hypervisor: Hypervisor) -> Iterator[None]:
        """A block that ends this libvirtd and starts it again; it runs when the block begins."""
        with self._locks[hypervisor.name]:
            self._look_after(hypervisor)
            yield

    def _run(self) -> None:
        try:
            while not self._ended.wait(_EVERY_S):
                for hypervisor in self._lab:
                    lock = self._locks[hypervisor.name]
                    if lock.acquire(blocking=False):
                        try:
                            self._look_after(hypervisor)
                        finally:
                            lock.release()
        except BaseException as error:
            self.problem = error

    def _look_after(self, hypervisor: Hypervisor) -> None:
        try:
            hypervisor.daemon_pid()
        except ProcessLookupError:
            self.crashes.append(f"{hypervisor.name}: {hypervisor.log_tail()}")
            hypervisor.start_daemon()
