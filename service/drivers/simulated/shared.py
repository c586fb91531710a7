"""A simulated host whose machines are kept in a file, so that several control planes of one machine see it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from uuid import UUID, uuid5

from service.domain.ownership import OwnerMark
from service.drivers.base import Listing, MachineIdentity, MachineSpec, MachineState, ObservedMachine
from service.drivers.simulated.host import SimulatedHost, SimulatedMachine, SimulationOptions

_NAMESPACE = UUID("0a8f9d2e-7b1f-5f65-8d5c-2d0f6a1f9b77")


class SharedHost(SimulatedHost):
    """As `SimulatedHost`; each method holds the file's lock and leaves the file whole whenever the process ends.

    `clock` must be one clock for all processes, as `time.monotonic` is on one machine.
    """

    def __init__(self, name: str, options: SimulationOptions, clock: Callable[[], float], path: Path) -> None:
        super().__init__(name, options, clock)
        self._path = path
        self.hypervisor = str(uuid5(_NAMESPACE, str(path.resolve())))
        self._text = ""
        path.parent.mkdir(parents=True, exist_ok=True)

    def look(self) -> None:
        """Read what other processes have written."""
        with self._held():
            pass

    def leave_mark(self, mark: OwnerMark, *, take_over: bool) -> OwnerMark:
        """See SimulatedHost."""
        with self._held():
            return super().leave_mark(mark, take_over=take_over)

    def clear_mark(self, mark: OwnerMark) -> None:
        """See SimulatedHost."""
        with self._held():
            super().clear_mark(mark)

    def create(self, spec: MachineSpec, epoch: int, endpoint: str = "") -> ObservedMachine:
        """See SimulatedHost."""
        with self._held():
            return super().create(spec, epoch, endpoint)

    def resume(self, identity: MachineIdentity) -> ObservedMachine:
        """See SimulatedHost."""
        with self._held():
            return super().resume(identity)

    def tell(self, identity: MachineIdentity, epoch: int, endpoint: str | None = None) -> None:
        """See SimulatedHost."""
        with self._held():
            super().tell(identity, epoch, endpoint)

    def quiesce(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().quiesce(identity)

    def stop(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().stop(identity)

    def remove(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().remove(identity)

    def entomb(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().entomb(identity)

    def clear_tombstone(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().clear_tombstone(identity)

    def receive(self, machine: SimulatedMachine) -> None:
        """See SimulatedHost."""
        with self._held():
            super().receive(machine)

    def depart(self, identity: MachineIdentity) -> SimulatedMachine:
        """See SimulatedHost."""
        with self._held():
            return super().depart(identity)

    def go_on(self, identity: MachineIdentity) -> None:
        """See SimulatedHost."""
        with self._held():
            super().go_on(identity)

    def agent_answers(self, identity: MachineIdentity) -> bool:
        """See SimulatedHost."""
        with self._held():
            return super().agent_answers(identity)

    def listing(self) -> Listing:
        """See SimulatedHost."""
        with self._held():
            return super().listing()

    def reboot(self) -> None:
        """See SimulatedHost."""
        with self._held():
            super().reboot()

    @contextmanager
    def _held(self) -> Iterator[None]:
        handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._read()
            yield
            self._write()
        finally:
            os.close(handle)

    def _read(self) -> None:
        text = self._path.read_text() if self._path.exists() else ""
        if text == self._text:
            return
        document = json.loads(text)
        self._text, self.boot_id = text, document["boot_id"]
        self.mark = OwnerMark(**document["mark"]) if document.get("mark") else None
        self.machines = {}
        for fields in document["machines"]:
            identity = MachineIdentity(**fields.pop("identity"))
            state = MachineState(fields.pop("state"))
            self.machines[identity.machine_uuid] = SimulatedMachine(identity, state, **fields)

    def _write(self) -> None:
        document = {
            "boot_id": self.boot_id,
            "mark": asdict(self.mark) if self.mark is not None else None,
            "machines": [asdict(m) for m in self.machines.values()],
        }
        text = json.dumps(document)
        if text == self._text:
            return
        whole = Path(f"{self._path}.new")
        whole.write_text(text)
        whole.replace(self._path)
        self._text = text
