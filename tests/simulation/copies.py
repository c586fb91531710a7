"""Hosts that do not have every image: copies that are brought, stood on, withdrawn, deleted, and who judges that.

A theme of its own. Its dice are its own too, so that all else in a seed is the same with it and without.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from service.domain.catalog import ModelService
from service.domain.specs import NodeSpec
from service.drivers.base import MachineSpec
from service.drivers.copies import Copied, ImageFile, SeenCopy
from service.drivers.staging import NotStaged, WithoutCopies
from service.reconcile.copy_sweep import CopySweep
from tests.simulation import hosts
from tests.simulation.hosts import SimulatedMachineHost

if TYPE_CHECKING:
    from tests.simulation.network import Network
    from tests.simulation.world import World

THEME = "copies"
SECONDS = 540.0
"""Of a seed: a copy has to be idle for two passes of a minute, and is withdrawn for three minutes."""
IMAGES, SIZE, BUDGET = 4, 3 << 30, 5 << 30
"""Of four images a host may keep one that nobody needs."""
WITHDRAWN_SECONDS = 180.0
STRANGERS = "corral-base." + "e" * 64 + ".deadbeef"


@dataclass
class HeldCopy:
    """One copy. `withdrawn_at`: virtual seconds."""

    sha256: str
    done: int = 0
    withdrawn_at: float | None = None

    @property
    def whole(self) -> bool:
        return self.done == SIZE


class Copies:
    """Those of all hosts, and what machines stand on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._there: dict[str, dict[str, HeldCopy]] = {}
        self._stands: dict[tuple[str, str], str] = {}

    @property
    def drawn(self) -> bool:
        """Whether this seed is about them."""
        return self._world.theme == THEME

    def catalogue(self, entry: ModelService) -> dict[str, ModelService]:
        """The entry, and others of other images."""
        made = {entry.uuid: entry}
        for number in range(IMAGES if self.drawn else 0):
            uuid = entry.uuid if number == 0 else f"{0xC0 + number:032x}"
            digest = hashlib.sha256(uuid.encode()).hexdigest()
            image = replace(entry.image, name=f"image{number}", disk_path="/image", sha256={"disk": digest})
            made[uuid] = replace(entry, uuid=uuid, name=f"entry{number}", image=image)
        return made

    def asked(self, name: str, nodes: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
        """The members of this group, of one of the entries."""
        if not self.drawn:
            return nodes
        uuid = random.Random(f"copies {self._world.seed} {name}").choice(
            sorted(self._world.replicas[0].fleet.catalogue)
        )
        return tuple(replace(node, model_service_uuid=uuid) for node in nodes)

    def length(self, seconds: float) -> float:
        """For how many seconds there are faults."""
        return SECONDS if self.drawn else seconds

    def sweep(self, store: Any, metrics: Any, owner: str) -> CopySweep | None:
        """What a replica has to keep the budget."""
        return CopySweep(store, metrics, owner, BUDGET) if self.drawn else None

    def on(self, host: SimulatedMachineHost) -> dict[str, HeldCopy]:
        """Those of a host; a stranger's is there from the beginning."""
        return self._there.setdefault(host.uuid, {STRANGERS: HeldCopy("e" * 64, SIZE)})

    def users(self, host: SimulatedMachineHost, volume: str) -> list[str]:
        """Machines there that stand on the copy."""
        return [
            uuid
            for uuid, machine in host.machines.items()
            if machine.state != hosts.TOMBSTONE and self._stands.get((host.uuid, uuid)) == volume
        ]

    def stand(self, host: SimulatedMachineHost, spec: MachineSpec) -> None:
        """The machine is about to be made there. Raises NotStaged where nothing is there that it may stand on."""
        if not self.drawn:
            return
        key, digest = (host.uuid, spec.identity.machine_uuid), spec.image.sha256["disk"]
        if key[1] in host.machines and key in self._stands:
            return
        for volume, copy in sorted(self.on(host).items()):
            if copy.sha256 == digest and copy.whole and copy.withdrawn_at is None:
                self._stands[key] = volume
                return
        raise NotStaged((ImageFile(spec.image.name, "disk", spec.image.disk_path, SIZE, digest),))

    def stage(self, host: SimulatedMachineHost, file: ImageFile, copied: Copied) -> Copied:
        """A third of it a call; what is withdrawn is in use again."""
        copy = self.on(host).setdefault(copied.volume, HeldCopy(file.sha256))
        copy.withdrawn_at = None
        copy.done = min(SIZE, min(copy.done, copied.done) + SIZE // 3) if not copy.whole else SIZE
        return Copied(copied.volume, copy.done, "", host.boot_id, copy.whole)

    def listed(self, host: SimulatedMachineHost) -> tuple[SeenCopy, ...]:
        """As the host shows them."""
        return tuple(
            SeenCopy(
                volume, copy.sha256, copy.done, copy.whole and copy.withdrawn_at is None, bool(self.users(host, volume))
            )
            for volume, copy in sorted(self.on(host).items())
        )

    def withdraw(self, host: SimulatedMachineHost, volume: str) -> None:
        """Nothing is made of it from now on."""
        copy = self.on(host).get(volume)
        if volume == STRANGERS:
            self._world.observer.violated("I15", f"a copy that is not ours is withdrawn on {host.name}")
        if copy is not None and copy.withdrawn_at is None:
            copy.withdrawn_at = self._world.loop.time()

    def delete(self, host: SimulatedMachineHost, volume: str) -> None:
        """These hosts hold nobody back: whether it may go is judged here."""
        copy = self.on(host).pop(volume, None)
        if copy is None:
            return
        told, now = f"copy {volume} on {host.name} is deleted", self._world.loop.time()
        if users := self.users(host, volume):
            self._world.observer.violated("I15", f"{told}, on which {users[0]} stands")
        if volume == STRANGERS:
            self._world.observer.violated("I15", f"{told}, which is not ours")
        if copy.whole and (copy.withdrawn_at is None or now - copy.withdrawn_at < WITHDRAWN_SECONDS - 1.0):
            self._world.observer.violated("I15", f"{told}, of which a machine may be about to be made")
        self._world.stats["copies deleted"] += 1


class CopyCalls(WithoutCopies):
    """The part of a driver that concerns copies, where the seed is about them."""

    _world: World
    _host: SimulatedMachineHost
    _network: Network

    async def stage(self, file: ImageFile, copied: Copied, *, budget_seconds: float) -> Copied:
        """See HostDriver."""
        known = self._world.copies
        return await self._network.call("stage", budget_seconds, lambda _late: known.stage(self._host, file, copied))

    async def list_copies(self, *, budget_seconds: float) -> tuple[SeenCopy, ...]:
        """See HostDriver."""
        known = self._world.copies
        if not known.drawn:
            return ()
        return await self._network.call("list_copies", budget_seconds, lambda _late: known.listed(self._host))

    async def withdraw_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        known = self._world.copies
        await self._network.call("withdraw_copy", budget_seconds, lambda _late: known.withdraw(self._host, volume))

    async def delete_copy(self, volume: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        known = self._world.copies
        await self._network.call("delete_copy", budget_seconds, lambda _late: known.delete(self._host, volume))
